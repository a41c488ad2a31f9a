"""Ranges of activations when training starts: which sites of a leaf have one, and where it begins."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.leaf import CompressedArray
from jaxcompress.core.observe import Observed
from jaxcompress.quantize.formats import format_of
from jaxcompress.quantize.quantized_input import DynamicActivations
from jaxcompress.quantize.ranges.activations import find_activation_scaling
from jaxcompress.quantize.training.fake_input import PACT, LearnedInput
from jaxcompress.quantize.training.learned_step import StepGrid
from jaxcompress.quantize.training.spec import Activations
from jaxcompress.quantize.training.starts import observed_extremes, observed_mean_size

if TYPE_CHECKING:
    from jaxcompress.core.moments import Statistics
    from jaxcompress.core.sites import Sites

PRODUCTS = ("dot_general", "conv_general_dilated")  # where data is rounded before it meets a weight
PACT_START = 10.0  # without data; the public code of the authors


@dataclasses.dataclass(frozen=True, eq=False)
class InputPlan:
    """The sites of one leaf at which its data is quantized.

    Attributes:
        path: of the leaf.
        stack: sizes of the axes along which layers have ranges of their own.
        sites: numbers of the sites.
        observed: what was observed there; empty without ``stats``.
    """

    path: str
    stack: tuple[int, ...]
    sites: tuple[int, ...]
    observed: tuple[Observed, ...]

    @classmethod
    def of(
        cls, path: str, stack: tuple[int, ...], leaf: Any, sites: Sites | None, stats: Statistics | None
    ) -> InputPlan | None:
        """The plan, None for a leaf that is only looked up (an embedding): it meets no data to be rounded.

        Raises:
            ValueError: if stack axes do not lead, or a site was not observed.
        """
        if stack != tuple(range(len(stack))):
            raise ValueError(
                f"prepare: the layers of {path!r} lie along the axes {stack}, behind others: ranges of activations are "
                "held for stack axes that lead. Leave it out of the bits of activations="
            )
        seen = {} if stats is None or path not in stats else {entry.ordinal: entry for entry in stats[path]}
        if sites is not None:
            numbers = tuple(number for number, site in enumerate(sites.at(path)) if site.primitive in PRODUCTS)
        else:
            numbers = tuple(n for n, entry in seen.items() if entry.primitive in PRODUCTS) or (0,)
        if not numbers:
            return None
        missing = [number for number in numbers if number not in seen]
        if stats is not None and missing:
            raise ValueError(
                f"prepare: stats hold nothing of {path!r} at its site {missing[0]}: observe the call that is trained"
            )
        observed = () if stats is None else tuple(seen[number] for number in numbers)
        return cls(path, tuple(leaf.shape[: len(stack)]), numbers, observed)

    def leaf(self, weight: Any, spec: Activations, bits: int) -> CompressedArray:
        """The weight under ranges of its data.

        Raises:
            ValueError: if the method starts from data and there are no stats, or they lack what it needs.
        """
        if spec.method == "dynamic":
            return DynamicActivations(weight, bits, "fake")
        if spec.method == "dorefa":
            return PACT(weight, self._full(1.0), bits, False, self.sites)
        if spec.method == "pact":
            alpha = self._per_site(lambda entry: self._extremes(entry)[1]) if self.observed else self._full(PACT_START)
            return PACT(weight, jnp.where(alpha > 0, alpha, 1), bits, True, self.sites)
        if not self.observed:
            raise ValueError(
                f"prepare: activations of method={spec.method!r} start from data, at {self.path!r} from none: pass "
                "stats=jc.observe(fn, params, batches, what='histogram')"
            )
        if spec.method == "lsq":
            return self._lsq(weight, bits)
        ranges = spec.ranges if spec.method == "fixed" else "mse"
        scale, zero_point = self._grid(ranges, bits)
        offset = (format_of("int", bits, symmetric=False).smallest - zero_point) * scale
        learns = "step and offset" if spec.method == "lsq+" else "nothing"
        return LearnedInput(weight, scale, offset, bits, False, learns, self.sites)

    def _lsq(self, weight: Any, bits: int) -> LearnedInput:
        signed = any(bool((self._extremes(entry)[0] < 0).any()) for entry in self.observed)
        mean = self._per_site(self._mean_size)
        step = mean * (2 / math.sqrt(StepGrid(bits, signed).last))
        step = jnp.where(step > 0, step, 1)
        return LearnedInput(weight, step, jnp.zeros_like(step), bits, signed, "step", self.sites)

    def _grid(self, ranges: Any, bits: int) -> tuple[jax.Array, jax.Array]:
        """Scale and zero point, both float, ``[stack..., sites]``."""
        number_format = format_of("int", bits, symmetric=False)
        found = [find_activation_scaling(entry, number_format, ranges) for entry in self.observed]
        return self._stacked([s.scale for s in found]), self._stacked([s.zero_point for s in found])

    def _extremes(self, entry: Observed) -> tuple[np.ndarray, np.ndarray]:
        return self._read(observed_extremes, entry)

    def _mean_size(self, entry: Observed) -> np.ndarray:
        return self._read(observed_mean_size, entry)

    def _read(self, statistic: Any, entry: Observed) -> Any:
        try:
            return statistic(entry, len(self.stack))
        except KeyError as missing:
            raise ValueError(f"prepare: {missing.args[0]}; observe with what='histogram'") from None

    def _per_site(self, statistic: Any) -> jax.Array:
        return self._stacked([statistic(entry) for entry in self.observed])

    def _stacked(self, found: Sequence[Any]) -> jax.Array:
        return jnp.stack([jnp.broadcast_to(jnp.asarray(value, jnp.float32), self.stack) for value in found], axis=-1)

    def _full(self, value: float) -> jax.Array:
        return jnp.full((*self.stack, len(self.sites)), value, jnp.float32)
