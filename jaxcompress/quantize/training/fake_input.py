"""Data in training that meets a weight as if it were quantized: ranges that train, one for every site of the weight."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.core.dtypes import wider
from jaxcompress.core.leaf import ArrayOrLeaf, CompressedArray, leaf_kind
from jaxcompress.quantize.around_weight import AroundWeight
from jaxcompress.quantize.integer_product import Axes
from jaxcompress.quantize.training.learned_step import StepGrid, learned_step, lsq_gradient_scale, step_codes
from jaxcompress.quantize.training.pact import pact, pact_grid


class FakeInput(AroundWeight):
    """The base of the kinds. Under `jaxcompress.lift` the data that meets the weight is rounded; the weight is itself.

    Attributes:
        weight: the weight, usually a `FakeQuantized` leaf; it is what `materialize` gives.
        bits: of the activations' codes, 2 to 8.
        sites: the numbers of the uses of the leaf that have a range, as `jaxcompress.sites` lists them.
    """

    ranges: ClassVar[tuple[str, ...]]  # names of the fields [stack..., sites]

    weight: ArrayOrLeaf
    bits: int
    sites: tuple[int, ...]

    def rounded(self, x: jax.Array, ranges: tuple[jax.Array, ...], features: int) -> jax.Array:
        """The data on its grid; ``ranges`` have as many axes as it. ``features``: entries of one example, or row."""
        raise NotImplementedError(f"{type(self).__name__} must define rounded()")

    def grid(self) -> tuple[jax.Array, jax.Array]:
        """``(scale, zero point)`` of every site, ``[stack..., sites]``: where `rounded` puts the data."""
        raise NotImplementedError(f"{type(self).__name__} must define grid()")

    def alignment(self) -> Mapping[str, tuple[int | None, ...]]:
        """The weight runs along the dense axes, of the ranges' axes the stack does."""
        first = getattr(self, self.ranges[0])
        held = (*range(len(first.shape) - 1), None)
        return {"weight": tuple(range(len(self.weight.shape)))} | dict.fromkeys(self.ranges, held)

    def at_site(self, index: int) -> Self:
        """The leaf with the range of one site.

        Raises:
            ValueError: if that site has none.
        """
        if index not in self.sites:
            raise ValueError(
                f"a weight of shape {self.shape} meets data at its site {index}, where it holds no range of "
                f"activations (it has them for {list(self.sites)}): prepare with the sites of the call made here"
            )
        at = self.sites.index(index)
        weight = self.weight.at_site(index) if isinstance(self.weight, CompressedArray) else self.weight
        own = {name: getattr(self, name)[..., at : at + 1] for name in self.ranges}
        return self.replace(weight=weight, sites=(index,), **own)

    def matmul(
        self, x: jax.Array, *, contract: Axes, batch: Axes, precision: Any = None, preferred_element_type: Any = None
    ) -> jax.Array:
        """Rounds the data, then multiplies."""
        features = math.prod(x.shape[axis] for axis in contract[0])
        options = {"precision": precision, "preferred_element_type": preferred_element_type}
        return self.weight_matmul(self._rounded(x, batch, features), contract, batch, **options)

    def conv(self, x: jax.Array, **params: Any) -> jax.Array:
        """Rounds the data, then convolves."""
        spec = params["dimension_numbers"].lhs_spec
        x = self._rounded(x, ((), ()), math.prod(x.shape[axis] for axis in spec[1:]))
        return self.weight_conv(x, **params)

    def _rounded(self, x: jax.Array, batch: Axes, features: int) -> jax.Array:
        if len(self.sites) > 1:
            raise ValueError(f"the range of one site is needed, of {self.sites}: call at_site first")
        ranges = tuple(_beside(getattr(self, name), x.ndim, batch, self.shape) for name in self.ranges)
        wide = wider(x.dtype, ranges[0].dtype)
        ranges = tuple(part.astype(wide) for part in ranges)
        return self.rounded(x.astype(wide), ranges, features).astype(x.dtype)


@leaf_kind("fake_learned_input", trainable=("weight", "scale", "offset"), priority=2)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LearnedInput(FakeInput):
    """Activations on a grid whose step (LSQ), and whose offset (LSQ+), train: see `learned_step`.

    Attributes:
        weight: see `FakeInput`.
        scale: the steps, ``[stack..., sites]``.
        offset: of that shape, in units of the data.
        bits: of a code.
        signed: see `StepGrid`.
        learns: what trains: ``"step"``, ``"step and offset"``, or ``"nothing"`` (ranges fixed by calibration).
        sites: see `FakeInput`.
    """

    ranges = ("scale", "offset")

    weight: ArrayOrLeaf
    scale: jax.Array
    offset: jax.Array
    bits: int = dataclasses.field(metadata={"static": True})
    signed: bool = dataclasses.field(metadata={"static": True})
    learns: str = dataclasses.field(metadata={"static": True})
    sites: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    def rounded(self, x: jax.Array, ranges: tuple[jax.Array, ...], features: int) -> jax.Array:
        """The nearest points of the grid."""
        scale, offset = ranges
        scale = jnp.where(scale == 0, jnp.nan, scale)  # a range that was never set shall not pass for one
        if self.learns == "nothing":
            scale = lax.stop_gradient(scale)
        if self.learns != "step and offset":
            offset = lax.stop_gradient(offset)
        step_grid = StepGrid(self.bits, self.signed)
        factor = lsq_gradient_scale(features, step_grid.last)
        return learned_step(x, scale, offset, dataclasses.replace(step_grid, gradient_scale=factor))

    def grid(self) -> tuple[jax.Array, jax.Array]:
        """The steps, and the codes of zero."""
        nothing = jnp.zeros(self.scale.shape, self.scale.dtype)
        _, scale, zero_point = step_codes(nothing, self.scale, self.offset, StepGrid(self.bits, self.signed))
        assert zero_point is not None  # there is an offset
        return scale, zero_point


@leaf_kind("fake_pact", trainable=("weight", "alpha"), priority=2)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PACT(FakeInput):
    """Activations clipped to ``[0, alpha]``: see `pact`.

    Attributes:
        weight: see `FakeInput`.
        alpha: ``[stack..., sites]``.
        bits: of a code.
        learns: False: alpha stays (DoReFa's activations, with 1).
        sites: see `FakeInput`.
    """

    ranges = ("alpha",)

    weight: ArrayOrLeaf
    alpha: jax.Array
    bits: int = dataclasses.field(metadata={"static": True})
    learns: bool = dataclasses.field(metadata={"static": True})
    sites: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    def rounded(self, x: jax.Array, ranges: tuple[jax.Array, ...], features: int) -> jax.Array:
        """Clipped and rounded."""
        del features
        (alpha,) = ranges
        return pact(x, alpha if self.learns else lax.stop_gradient(alpha), bits=self.bits)

    def grid(self) -> tuple[jax.Array, jax.Array]:
        """Steps of ``alpha / (2**bits - 1)`` from zero on."""
        return pact_grid(self.alpha, bits=self.bits)


def _beside(field: jax.Array, ndim: int, batch: Axes, shape: tuple[int, ...]) -> jax.Array:
    """A range ``[stack..., 1]`` with the axes of the data: the layers along those that go in step with the weight's."""
    sizes = [1] * ndim
    place = dict(zip(batch[1], batch[0], strict=True))
    for axis, size in enumerate(field.shape[:-1]):
        if axis in place:
            sizes[place[axis]] = size
        elif size > 1:
            raise ValueError(
                f"the {size} layers along axis {axis} of a weight of shape {shape} have ranges of their own, and one "
                "product meets all of them"
            )
    order = sorted(range(field.ndim - 1), key=lambda axis: place.get(axis, -1))
    return jnp.transpose(field[..., 0], order).reshape(sizes)
