"""Which results of a function depend on which of its inputs, found by trying."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.lift import merge_static, split_static

if TYPE_CHECKING:
    from jaxcompress.core.groups import Groups


_TRIES = 4  # a single one may meet units that are off


class Reach:
    """Tells whether parameters keep every result of the analysed function dependent on the inputs it depends on.

    Each input is changed by itself, from one set of numbers to another: normal floats, integers 0 and 1, bools. What
    depends on it in any of a few tries depends on it. The function is compiled once.
    """

    def __init__(self, groups: Groups, params: Any) -> None:
        """Finds what depends on what with the dense parameters."""
        static, arrays = split_static(groups.fn, groups.inputs, groups.kwargs)

        def flat(params: Any, arrays: Sequence[Any]) -> list[Any]:
            args, kwargs = merge_static(static, arrays)
            return jax.tree.leaves(groups.fn(params, *args, **kwargs))

        self._run = jax.jit(flat)
        self._arrays = arrays
        self._dense = self._depends(params, until=None)

    def kept(self, params: Any) -> bool:
        """True if no result is cut off from an input with these parameters."""
        return bool((self._depends(params, until=self._dense) >= self._dense).all())

    def _depends(self, params: Any, *, until: np.ndarray | None) -> np.ndarray:
        """Bool ``[inputs, results]``; no further tries once everything of ``until`` is found."""
        found = self._try(params, 0)
        for seed in range(1, _TRIES):
            if until is not None and (found >= until).all():
                break
            found |= self._try(params, seed)
        return found

    def _try(self, params: Any, seed: int) -> np.ndarray:
        plain = [_probe(array, (seed, place)) for place, array in enumerate(self._arrays)]
        base, rows = self._run(params, plain), []
        for place, array in enumerate(self._arrays):
            if not _is_key(array):
                probe = [*plain[:place], _probe(array, (seed, place), other=True), *plain[place + 1 :]]
                rows.append([not _same(a, b) for a, b in zip(base, self._run(params, probe), strict=True)])
        return np.asarray(rows, bool).reshape(len(rows), len(base))


def _same(a: jax.Array, b: jax.Array) -> bool:
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        return True
    return np.array_equal(np.asarray(a), np.asarray(b), equal_nan=jnp.issubdtype(a.dtype, jnp.inexact))


def _is_key(array: Any) -> bool:
    return jnp.issubdtype(array.dtype, jax.dtypes.prng_key)


def _probe(array: Any, seed: tuple[int, int], *, other: bool = False) -> Any:
    if _is_key(array):
        return jnp.broadcast_to(jax.random.key(seed[0]), array.shape)
    rng = np.random.default_rng([*seed, other])
    if jnp.issubdtype(array.dtype, jnp.inexact):
        return jnp.asarray(rng.standard_normal(array.shape), array.dtype)
    if array.dtype == jnp.bool_:  # all True first: a mask that hides everything gives NaN
        return jnp.asarray(rng.random(array.shape) < 0.5 if other else np.ones(array.shape, bool))
    return jnp.full(array.shape, int(other), array.dtype)
