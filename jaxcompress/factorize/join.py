"""Separate kernels that read one input, joined to one: its factorization shares the factor that meets the input."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.core.interpreter import Interpreter, Use
from jaxcompress.core.leaf import is_compressed
from jaxcompress.core.lift import evaluate, split_static
from jaxcompress.core.paths import Where, flatten_with_paths, select
from jaxcompress.core.sites import sites as sites_of
from jaxcompress.core.tag import tagged


@dataclasses.dataclass(frozen=True, eq=False)
class Joined:
    """A function whose kernels that read one input are one array: ``fn(params, x)`` is the original's.

    Attributes:
        fn: the function, of the new tree.
        params: the new tree: at the path of the first kernel of each group their join, at those of the others nothing.
        groups: for each join, by the path of its first kernel: the paths of all of them and their axis.
    """

    fn: Callable[..., Any]
    params: Any
    groups: dict[str, tuple[tuple[str, ...], int]]


def join_kernels(fn: Callable[..., Any], params: Any, *inputs: Any, where: Where = None, **kwargs: Any) -> Joined:
    """Joins the kernels of a function that read one input: the gates of an LSTM, the projections of attention.

    Low-rank factors of the join are ``[u v1, u v2, ...]``: one factor ``u`` that all gates share, stored, trained and
    multiplied with the data once. Any method does it on the new tree, and `jaxcompress.lift` runs the new function::

        joined = join_kernels(model.apply, variables, x)
        thin = jc.factorize.svd(joined.params, rank=32, sites=jc.sites(joined.fn, joined.params, x))
        y = jc.lift(joined.fn)(thin, x)

    Args:
        fn: a function that ``jit`` accepts.
        params: its first argument: a tree of arrays. Not changed.
        *inputs: further positional arguments; may be `jax.ShapeDtypeStruct`. Only their shapes count.
        where: kernels that may be joined: globs over paths or a predicate; by default all that are contracted.
        **kwargs: keyword arguments.

    Returns:
        The new function and tree.

    Raises:
        ValueError: if no two kernels read one input and have one shape but for their outputs.

    Example:
        >>> fn = lambda p, x: jnp.tanh(x @ p["a"]) * (x @ p["b"])
        >>> params = {"a": jnp.ones((8, 4)), "b": jnp.ones((8, 6))[:, :4], "c": jnp.ones(3)}
        >>> joined = join_kernels(fn, params, jnp.ones((2, 8)))
        >>> joined.params["a"].shape, joined.groups, joined.fn(joined.params, jnp.ones((2, 8))).shape
        ((8, 8), {'a': (('a', 'b'), 1)}, (2, 4))
    """
    groups = _groups(fn, params, inputs, kwargs, where)
    paths, leaves, treedef = flatten_with_paths(params)
    held = dict(zip(paths, leaves, strict=True))
    if not groups:
        raise ValueError(f"join_kernels: no two kernels read one input, of those there are: {list(paths)}")
    widths = {path: held[path].shape[axis] for members, axis in groups.values() for path in members}
    joined: dict[str, Any] = dict(held)
    for first, (members, axis) in groups.items():
        joined.update(dict.fromkeys(members))
        joined[first] = jnp.concatenate([held[path] for path in members], axis)

    def run(params: Any, *args: Any, **kwargs: Any) -> Any:
        parts = dict(zip(*flatten_with_paths(params)[:2], strict=True))
        for first, (members, axis) in groups.items():
            whole, start = parts[first], 0
            for path in members:
                parts[path] = lax.slice_in_dim(whole, start, start + widths[path], axis=axis)
                start += widths[path]
        return fn(jax.tree.unflatten(treedef, [parts[path] for path in paths]), *args, **kwargs)

    return Joined(run, jax.tree.unflatten(treedef, [joined[path] for path in paths]), groups)


def _groups(
    fn: Callable[..., Any], params: Any, inputs: Sequence[Any], kwargs: Any, where: Where
) -> dict[str, tuple[tuple[str, ...], int]]:
    paths, leaves, _ = flatten_with_paths(params)
    shapes = {path: leaf.shape for path, leaf in zip(paths, leaves, strict=True) if not is_compressed(leaf)}
    allowed = set(select(params, where, default=lambda path, leaf: True)) & set(shapes)
    found = sites_of(fn, params, *inputs, **kwargs)
    groups: dict[Any, list[str]] = {}
    for path, source in _sources(fn, params, inputs, kwargs).items():
        places = found.at(path)
        same = {(site.stack, site.contracting, site.output, site.spatial) for site in places}
        if path not in allowed or len(same) != 1 or not places[0].contracting or not places[0].output:
            continue
        axis = places[0].output[0]
        rest = tuple(size for i, size in enumerate(shapes[path]) if i != axis)
        groups.setdefault((source, *same, axis, rest, places[0].dtype, places[0].primitive), []).append(path)
    return {members[0]: (tuple(members), key[2]) for key, members in groups.items() if len(members) > 1}


def _sources(fn: Callable[..., Any], params: Any, inputs: Sequence[Any], kwargs: Any) -> dict[str, tuple[int, ...]]:
    """For each parameter the values that it was contracted with, by number."""
    watch = _Watch()
    run = Interpreter(watch)
    static, arrays = split_static(fn, (tagged(params), *inputs), kwargs)
    jax.eval_shape(lambda values: evaluate(run, fn, static, values), arrays)
    return {path: tuple(numbers) for path, numbers in watch.met.items()}


class _Watch:
    """A listener that notes which value each parameter meets; it gathers no statistics."""

    def __init__(self) -> None:
        self.met: dict[str, list[int]] = {}
        self.seen: list[Any] = []  # kept alive: an identity is that of one value only as long as it lives

    def contraction(self, run: Interpreter, use: Use, x: jax.Array, out: jax.Array, axes: dict[str, Any]) -> None:
        """Notes the value."""
        del run, out, axes
        number = next((i for i, value in enumerate(self.seen) if value is x), len(self.seen))
        if number == len(self.seen):
            self.seen.append(x)
        self.met.setdefault(use.origin.path or "", []).append(number)

    def convolution(self, run: Interpreter, use: Use, x: jax.Array, out: jax.Array, params: dict[str, Any]) -> None:
        """Notes the value."""
        self.contraction(run, use, x, out, params)

    def lookup(self, run: Interpreter, use: Use, indices: jax.Array) -> None:
        """A lookup meets no data."""

    def combine(self, a: Any, b: Any) -> Any:
        """Nothing is gathered."""
        return a

    def empty(self, like: Any) -> Any:
        """Nothing is gathered."""
        return like

    def across(self, found: Any, axes: tuple[str, ...]) -> Any:
        """Nothing is gathered."""
        return found
