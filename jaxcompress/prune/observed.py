"""The patterns that methods which fit weights to observed data can be asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxcompress.core.parts import setting_at
from jaxcompress.core.targets import Target


@dataclasses.dataclass(frozen=True)
class Pattern:
    """What is to be dropped: a fraction, or all but ``n`` of every ``m`` neighbouring features.

    Attributes:
        sparsity: fraction to drop, a dict from globs over paths to that, or None.
        n: entries to keep of each group; None with ``sparsity``.
        m: length of a group.
    """

    sparsity: ArrayLike | Mapping[str, ArrayLike] | None
    n: ArrayLike | None
    m: int | None

    @classmethod
    def read(
        cls, method: str, sparsity: ArrayLike | Mapping[str, ArrayLike] | None, n: ArrayLike | None, m: int | None
    ) -> Pattern:
        """Checks the three arguments.

        Raises:
            ValueError: unless either ``sparsity`` or both ``n`` and ``m`` are given, ``n`` in ``[0, m]``.
        """
        if (sparsity is None) == (m is None) or (n is None) != (m is None):
            raise ValueError(
                f"{method}: give either sparsity= or both n= and m=, got sparsity={sparsity!r}, n={n!r}, m={m!r}"
            )
        if m is not None and (m < 1 or (not isinstance(n, Tracer) and not 0 <= int(np.asarray(n)) <= m)):
            raise ValueError(f"{method}: n must lie in [0, m] and m be 1 or more, got n={n!r}, m={m!r}")
        return cls(sparsity, n, m)

    @property
    def settings(self) -> Any:
        """What `find_targets` selects by: the dict of globs, if there is one."""
        return self.sparsity if isinstance(self.sparsity, Mapping) else None

    def at(self, target: Target) -> ArrayLike:
        """The sparsity of one weight (without N:M)."""
        return setting_at(self.sparsity, target.path)

    def check_fits(self, target: Target) -> None:
        """Raises ValueError if groups of ``m`` neighbours do not divide the input features of a weight."""
        neighbours = target.layout.feature_sizes[-1]
        if self.m is not None and neighbours % self.m:
            raise ValueError(
                f"{target.method}: m={self.m} does not divide the {neighbours} input features of {target.path!r} "
                f"(shape {target.weight.shape}): leave it out with where="
            )
