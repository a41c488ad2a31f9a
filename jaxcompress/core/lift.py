"""`lift`: makes any traceable function accept compressed leaves."""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from jaxcompress.core.interpreter import Interpreter
from jaxcompress.core.leaf import CompressedArray, is_compressed
from jaxcompress.core.paths import path_string
from jaxcompress.core.view import dense_value, view_of

F = TypeVar("F", bound=Callable[..., Any])


class Static(NamedTuple):
    """The static part of a call: its tree structure and everything in it that is not an array."""

    treedef: Any
    leaves: tuple[Any, ...]  # `ARRAY` where an array goes
    types: tuple[type, ...]  # of the leaves: 1, 1.0 and True are equal, yet not the same argument


class _Array:
    """Marks the place of an array among the static leaves."""

    def __repr__(self) -> str:
        return "<array>"


ARRAY = _Array()


def lift(fn: F, *, static_argnames: str | Iterable[str] = ()) -> F:
    """Transforms ``fn`` so that any array in its arguments may be a `CompressedArray`.

    The promise: ``lift(fn)(params, x) == fn(materialize(params), x)`` up to rounding, for every leaf kind, under
    ``jit``, ``vmap``, ``grad``, ``scan`` and ``shard_map``. ``fn`` is traced at the dense shapes and its jaxpr
    re-evaluated; a primitive that meets a leaf whose kind can serve it never sees a dense copy, elsewhere the leaf is
    materialized (`jaxcompress.explain` tells which). Nothing is patched, and ``fn`` itself stays as it is.

    The contract is that of `jax.jit`: outputs are dense arrays; calls are compiled and cached by the identity of
    ``fn``, the structure, shapes and dtypes of the arguments. Arguments that are not arrays, wherever they stand in
    the argument trees (``train=False``, ``mutable=["batch_stats"]``, modules, Python numbers), are static: they must
    be hashable, and a new value traces anew.

    Args:
        fn: any function that ``jit`` accepts.
        static_argnames: parameters of ``fn`` that are static as a whole although they are pytrees (a configuration
            tuple).

    Returns:
        A function of the same signature.

    Raises:
        TypeError: when a static argument cannot be hashed; names it.

    Example:
        >>> import jax.numpy as jnp
        >>> fn = lambda params, x: x @ params["w"]
        >>> lift(fn)({"w": jnp.eye(2)}, jnp.ones(2)).tolist()
        [1.0, 1.0]
    """
    names = (static_argnames,) if isinstance(static_argnames, str) else tuple(static_argnames)
    run = _runner(fn)

    @functools.wraps(fn)
    def lifted(*args: Any, **kwargs: Any) -> Any:
        static, arrays = split_static(fn, args, kwargs, names)
        return run(static, arrays)

    return lifted  # type: ignore[return-value]  # the signature is fn's


_RUNNERS: dict[int, Any] = {}  # by identity of a function, as long as it lives


def _runner(fn: Callable[..., Any]) -> Any:
    """The compiled evaluator of a function: the same one whenever it is lifted, as `jax.jit` has it."""
    if id(fn) in _RUNNERS:
        return _RUNNERS[id(fn)]
    try:
        alive = weakref.ref(fn)
    except TypeError:  # an object without weak references cannot be followed to its end
        return jax.jit(functools.partial(_evaluate, fn), static_argnums=0)
    run = jax.jit(lambda static, arrays: _evaluate(alive(), static, arrays), static_argnums=0)
    _RUNNERS[id(fn)] = run
    weakref.finalize(fn, _RUNNERS.pop, id(fn))
    return run


def _evaluate(fn: Any, static: Static, arrays: Sequence[Any]) -> Any:
    """Traces ``fn`` at the dense shapes and evaluates the trace on the leaves; without a leaf, calls ``fn``."""
    if not any(map(is_compressed, arrays)):
        args, kwargs = merge_static(static, arrays)
        return fn(*args, **kwargs)
    return evaluate(Interpreter(), fn, static, arrays)


def evaluate(run: Interpreter, fn: Callable[..., Any], static: Static, arrays: Sequence[Any]) -> Any:
    """Runs an interpreter over a call that `split_static` took apart; outputs are dense."""
    closed, out_shape = trace(fn, static, arrays)
    paths = array_paths(static)
    values = [view_of(a, p) if isinstance(a, CompressedArray) else a for a, p in zip(arrays, paths, strict=True)]
    outs = run.evaluate(closed.jaxpr, closed.consts, values)
    for out in outs:
        run.record_returned(out)
    return jax.tree.unflatten(jax.tree.structure(out_shape), [dense_value(out) for out in outs])


def trace(fn: Callable[..., Any], static: Static, arrays: Sequence[Any]) -> tuple[Any, Any]:
    """The jaxpr of a call at its dense shapes, and the structure of its result."""

    def flat(*dense: Any) -> Any:
        args, kwargs = merge_static(static, dense)
        return fn(*args, **kwargs)

    flat.__name__ = getattr(fn, "__name__", type(fn).__name__)
    avals = [jax.eval_shape(lambda leaf: leaf.materialize(), a) if is_compressed(a) else a for a in arrays]
    return jax.make_jaxpr(flat, return_shape=True)(*avals)


def split_static(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], static_argnames: Sequence[str] = ()
) -> tuple[Static, list[Any]]:
    """Splits the arguments of a call into what is static and a list of arrays and leaves."""
    whole = _static_arguments(fn, args, kwargs, static_argnames)
    entries, treedef = jax.tree_util.tree_flatten_with_path(
        (args, kwargs), is_leaf=lambda x: is_compressed(x) or id(x) in whole
    )
    leaves, arrays = [], []
    for keys, leaf in entries:
        if _is_array(leaf) and id(leaf) not in whole:
            arrays.append(leaf)
            leaves.append(ARRAY)
        else:
            leaves.append(_hashable(leaf, keys, fn))
    return Static(treedef, tuple(leaves), tuple(map(type, leaves))), arrays


def merge_static(static: Static, arrays: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inverse of `split_static`: ``(args, kwargs)``."""
    entering = iter(arrays)
    leaves = [next(entering) if leaf is ARRAY else leaf for leaf in static.leaves]
    return jax.tree.unflatten(static.treedef, leaves)


def array_paths(static: Static) -> list[str]:
    """Path of every array of a call: relative to its own argument for the first one, else with the argument's name."""
    entries, _ = jax.tree_util.tree_flatten_with_path(
        jax.tree.unflatten(static.treedef, range(static.treedef.num_leaves))
    )
    paths = []
    for keys, index in entries:
        if static.leaves[index] is not ARRAY:
            continue
        inside, position = keys[2:], path_string(keys[1:2])
        first = path_string(keys[:1]) == "0" and position == "0"
        paths.append(path_string(inside) if first else f"[{position}]" + (f"/{path_string(inside)}" if inside else ""))
    return paths


def _is_array(leaf: Any) -> bool:
    kinds = CompressedArray | jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct
    return isinstance(leaf, kinds) or hasattr(leaf, "__jax_array__")


def _static_arguments(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], names: Sequence[str]
) -> set[int]:
    if not names:
        return set()
    bound = inspect.signature(fn).bind(*args, **kwargs).arguments
    unknown = [name for name in names if name not in inspect.signature(fn).parameters]
    if unknown:
        raise ValueError(f"static_argnames: {fn} has no parameter {unknown[0]!r}")
    return {id(bound[name]) for name in names if name in bound}


def _hashable(leaf: Any, keys: Sequence[Any], fn: Callable[..., Any]) -> Any:
    try:
        hash(leaf)
    except TypeError as error:
        name = getattr(fn, "__name__", repr(fn))
        raise TypeError(
            f"lift({name}): the argument at {path_string(keys[1:])!r} is a {type(leaf).__name__}, "
            "neither an array nor hashable. Pass an array to have it traced, or a hashable object to keep it static."
        ) from error
    return leaf
