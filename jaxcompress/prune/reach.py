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


class Reach:
    """Tells whether parameters keep every result of the analysed function dependent on the inputs it depends on.

    Each input is changed by itself, from one set of numbers to another: normal floats, integers 0 and 1, bools. The
    function is compiled once.
    """

    def __init__(self, groups: Groups, params: Any) -> None:
        """Finds what depends on what with the dense parameters."""
        static, arrays = split_static(groups.fn, groups.inputs, groups.kwargs)

        def flat(params: Any, arrays: Sequence[Any]) -> list[Any]:
            args, kwargs = merge_static(static, arrays)
            return jax.tree.leaves(groups.fn(params, *args, **kwargs))

        self._run = jax.jit(flat)
        self._plain = [_probe(array, seed) for seed, array in enumerate(arrays)]
        self._changed = [_probe(array, seed, other=True) for seed, array in enumerate(arrays)]
        self._places = [i for i, array in enumerate(arrays) if not _is_key(array)]
        self._dense = self._depends(params)

    def kept(self, params: Any) -> bool:
        """True if no result is cut off from an input with these parameters."""
        return bool((self._depends(params) >= self._dense).all())

    def _depends(self, params: Any) -> np.ndarray:
        """Bool ``[inputs, results]``."""
        base = self._run(params, self._plain)
        rows = []
        for place in self._places:
            probe = [self._changed[i] if i == place else array for i, array in enumerate(self._plain)]
            rows.append([not _same(a, b) for a, b in zip(base, self._run(params, probe), strict=True)])
        return np.asarray(rows, bool).reshape(len(self._places), len(base))


def _same(a: jax.Array, b: jax.Array) -> bool:
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        return True
    return np.array_equal(np.asarray(a), np.asarray(b), equal_nan=jnp.issubdtype(a.dtype, jnp.inexact))


def _is_key(array: Any) -> bool:
    return jnp.issubdtype(array.dtype, jax.dtypes.prng_key)


def _probe(array: Any, seed: int, *, other: bool = False) -> Any:
    if _is_key(array):
        return jnp.broadcast_to(jax.random.key(seed), array.shape)
    rng = np.random.default_rng([seed, other])
    if jnp.issubdtype(array.dtype, jnp.inexact):
        return jnp.asarray(rng.standard_normal(array.shape), array.dtype)
    if array.dtype == jnp.bool_:  # all True first: a mask that hides everything gives NaN
        return jnp.asarray(rng.random(array.shape) < 0.5 if other else np.ones(array.shape, bool))
    return jnp.full(array.shape, int(other), array.dtype)
