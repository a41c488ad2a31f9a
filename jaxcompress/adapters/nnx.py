"""Flax NNX: a module as a pure function over a tree of arrays, and back.

fn, variables = jc.nnx.split(model)
packed = jc.quantize.rtn(variables, bits=8, sites=jc.sites(fn, variables, x))
y = jc.lift(fn)(packed, x)
jc.nnx.update(model, jc.materialize(packed))          # back into the same module
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxcompress.core.leaf import is_compressed
from jaxcompress.core.paths import flatten_with_paths


def split(model: nnx.Module, *, method: str = "__call__") -> tuple[Callable[..., Any], dict[str, Any]]:
    """Splits a module into a pure function and the tree of its variables.

    Args:
        model: any NNX module. It is not changed, and calls of the returned function do not change it either: updates
            that
            a call makes to its variables (running statistics, counters of random streams) are dropped. Use
            `split_stateful` to get them.
        method: the method to call.

    Returns:
        ``(fn, variables)`` with ``fn(variables, *args, **kwargs) == model(*args, **kwargs)``; ``variables`` is a
        nested dict of arrays with paths such as ``layers/0/kernel``.
    """
    graph, variables = _parts(model)

    def fn(variables: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(_rebuilt(graph, variables), method)(*args, **kwargs)

    fn.__name__ = f"{type(model).__name__}.{method}"
    return fn, variables


def split_stateful(model: nnx.Module, *, method: str = "__call__") -> tuple[Callable[..., Any], dict[str, Any]]:
    """As `split`, but the function returns ``(result, new variables)``."""
    graph, variables = _parts(model)

    def fn(variables: Any, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        module = _rebuilt(graph, variables)
        out = getattr(module, method)(*args, **kwargs)
        return out, nnx.to_pure_dict(nnx.state(module))

    fn.__name__ = f"{type(model).__name__}.{method}"
    return fn, variables


def update(model: nnx.Module, variables: Any) -> None:
    """Writes a tree of dense arrays into a module, in place, as `flax.nnx.update` does.

    Raises:
        TypeError: if a leaf is still compressed: an NNX layer cannot compute with it; call ``fn`` of `split` under
            `lift`.
        ValueError: if a path or a shape does not fit the module. Nothing is written then.
    """
    state = nnx.state(model)
    have = dict(zip(*flatten_with_paths(nnx.to_pure_dict(state))[:2], strict=True))
    paths, leaves, _ = flatten_with_paths(variables)
    for path, leaf in zip(paths, leaves, strict=True):
        if is_compressed(leaf):
            raise TypeError(
                f"nnx.update: {path!r} is a compressed {leaf.kind} leaf; pass jaxcompress.materialize(variables)"
            )
        if path not in have:
            raise ValueError(f"nnx.update: the module has no variable at {path!r}; it has {sorted(have)}")
        if jnp.shape(leaf) != jnp.shape(have[path]):
            raise ValueError(f"nnx.update: {path!r} has shape {jnp.shape(leaf)}, the module {jnp.shape(have[path])}")
    nnx.replace_by_pure_dict(state, variables)
    nnx.update(model, state)


def _parts(model: nnx.Module) -> tuple[Any, dict[str, Any]]:
    graph, state = nnx.split(model)
    return (graph, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)), nnx.to_pure_dict(state)


def _rebuilt(parts: Any, variables: Any) -> Any:
    graph, skeleton = parts
    state = jax.tree.map(lambda x: x, skeleton)
    nnx.replace_by_pure_dict(state, variables)
    return nnx.merge(graph, state)
