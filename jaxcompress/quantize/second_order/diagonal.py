"""A curvature that knows every weight by itself: the diagonal of a Hessian, or what stands for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp

from jaxcompress.quantize.second_order.differentiable import wide


class Diagonal(Mapping[str, jax.Array]):
    """Importance of every weight, by path: arrays of the weights' shapes, not negative.

    It is a curvature for `sensitivity`, and ``weights=`` of `jaxcompress.cluster.kmeans`.
    """

    def __init__(self, arrays: Mapping[str, jax.Array], *, name: str = "diagonal") -> None:
        """Holds the arrays, and for tables what they are."""
        self._arrays = dict(arrays)
        self.name = f"{name} x squared differences"

    def __getitem__(self, path: str) -> jax.Array:
        """The importance of one leaf's weights."""
        if path not in self._arrays:
            raise KeyError(f"no importance of {path!r} is known, only of {list(self._arrays)}")
        return self._arrays[path]

    def __iter__(self) -> Iterator[str]:
        """The paths."""
        return iter(self._arrays)

    def __len__(self) -> int:
        """Number of leaves."""
        return len(self._arrays)

    def __repr__(self) -> str:
        """Paths and shapes."""
        return f"Diagonal({ {path: tuple(array.shape) for path, array in self._arrays.items()} })"

    def score(self, path: str, difference: jax.Array) -> jax.Array:
        """The sum over weights of importance times squared difference."""
        return jnp.sum(wide(self[path]) * jnp.square(difference))
