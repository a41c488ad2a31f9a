"""The small function: traces the dense one at each input shape and evaluates the trace on what is left."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress.core.leaf import is_compressed
from jaxcompress.core.lift import Static, array_paths, split_static, trace
from jaxcompress.core.shrink.cut import Keep, array_of, small_shape, value_of
from jaxcompress.core.shrink.keep import by_leaf, checked
from jaxcompress.core.shrink.propagate import Propagation


def small_function(
    fn: Callable[..., Any], keeps: Mapping[str, Keep], shapes: Mapping[str, tuple[int, ...]]
) -> Callable[..., Any]:
    """``fn`` on a cut parameter tree, its first argument.

    Args:
        fn: the dense function.
        keeps: what the axes of leaves keep, by path; leaves that lose nothing are not in it.
        shapes: their dense shapes, by path.

    Returns:
        A function of the signature of ``fn``, compiled and cached as `jaxcompress.lift` has it.
    """
    name = getattr(fn, "__name__", type(fn).__name__)

    def evaluated(static: Static, arrays: Sequence[Any]) -> Any:
        outs, treedef = walk(fn, keeps, shapes, static, arrays)
        return jax.tree.unflatten(treedef, [array_of(out) for out in outs])

    evaluated.__name__ = name
    run = jax.jit(evaluated, static_argnums=0)

    @functools.wraps(fn)
    def small(*args: Any, **kwargs: Any) -> Any:
        static, arrays = split_static(fn, args, kwargs)
        if any(map(is_compressed, arrays)):
            raise TypeError(f"shrink: {name} got a compressed leaf; call jaxcompress.lift(small.fn) with it")
        return run(static, arrays)

    return small


def bound(
    fn: Callable[..., Any], keep: Mapping[tuple[str, int], np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> Callable[..., Any]:
    """The small function of a dense one, from what a file holds: checked kept indices and dense shapes."""
    return small_function(fn, by_leaf(checked(keep, shapes), shapes), shapes)


def walk(
    fn: Callable[..., Any],
    keeps: Mapping[str, Keep],
    shapes: Mapping[str, tuple[int, ...]],
    static: Static,
    arrays: Sequence[Any],
) -> tuple[list[Any], Any]:
    """Results of a call, still with what their axes keep, and the structure they stand in."""
    paths = array_paths(static)
    missing = sorted(set(keeps) - set(paths))
    if missing:
        raise ValueError(
            f"shrink: the first argument has no array at {missing[0]!r}; small.fn takes the shrunk parameters first, "
            "by position, in the tree that was shrunk"
        )
    cut = {path: array for path, array in zip(paths, arrays, strict=True) if path in keeps}
    for path, array in cut.items():
        wanted = small_shape(shapes[path], keeps[path])
        if tuple(array.shape) != wanted:
            raise ValueError(f"shrink: {path!r} has the shape {tuple(array.shape)}, shrunk parameters have {wanted}")
    dense = jax.eval_shape(lambda cut: {path: _grown(array, keeps[path]) for path, array in cut.items()}, cut)
    values = [value_of(a, keeps[path]) if path in cut else a for path, a in zip(paths, arrays, strict=True)]
    closed, out_shape = trace(fn, static, [dense.get(path, a) for path, a in zip(paths, arrays, strict=True)])
    outs = Propagation().evaluate(closed.jaxpr, closed.consts, values)
    return outs, jax.tree.structure(out_shape)


def _grown(array: jax.Array, keep: Keep) -> jax.Array:
    """Something of the dense shape: `jax.eval_shape` of it knows the manual mesh axes that a trace must know."""
    config = [(0, 0 if kept is None else kept.size - len(kept), 0) for kept in keep]
    return lax.pad(array, jnp.zeros((), array.dtype), config)
