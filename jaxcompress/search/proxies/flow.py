"""The linearised network that synaptic flow runs through, and what it tells: scores, and which parameters are alive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxcompress.core.lift import split_static, trace
from jaxcompress.core.paths import Where, flatten_with_paths, select
from jaxcompress.search.proxies.scaled import ScaledWalk, log_of_sum


def log_flow(
    fn: Callable[..., Any], params: Any, inputs: Any, *, weights: Callable[[jax.Array], jax.Array] = jnp.ones_like
) -> jax.Array:
    """Logarithm of the (weighted) sum of what ``fn(params, ones)`` returns, for one example of ones.

    Nothing overflows: the walk keeps a factor beside every array (`jaxcompress.search.proxies.scaled`).

    Args:
        fn: ``(params, inputs) -> outputs``.
        params: a tree of arrays, used as they are.
        inputs: a tree of arrays ``[batch, ...]``, of which the shapes count; integers keep their first example.
        weights: of the outputs, by their arrays; ones by default.
    """
    static, arrays = split_static(fn, (params, jax.tree.map(_ones, inputs)), {})
    closed, _ = trace(fn, static, arrays)
    walk = ScaledWalk()
    outs, _ = walk.evaluate(closed.jaxpr, closed.consts, [walk.entered(array) for array in arrays], ())
    return log_of_sum(outs, weights)


def log_synflow(fn: Callable[..., Any], params: Any, inputs: Any, *, where: Where = None) -> jax.Array:
    """Natural logarithm of ``sum |w * dR/dw|`` over the chosen leaves, for the network of absolute weights.

    With ``R = exp(log_flow)`` that is ``log_flow + log(sum |w * d log_flow/dw|)``. Minus infinity where nothing flows.
    """
    chosen = set(select(params, where))
    absolute = jax.tree.map(_absolute, params)
    paths, leaves, treedef = flatten_with_paths(absolute)
    picked = {path: leaf for path, leaf in zip(paths, leaves, strict=True) if path in chosen}

    def flow(picked: dict[str, jax.Array]) -> jax.Array:
        merged = [picked.get(path, leaf) for path, leaf in zip(paths, leaves, strict=True)]
        return log_flow(fn, jax.tree.unflatten(treedef, merged), inputs)

    total, slopes = jax.value_and_grad(flow)(picked)
    shares = [jnp.sum(jnp.abs(picked[path] * slopes[path])).astype(total.dtype) for path in picked]
    some = jnp.isfinite(total)
    share = jnp.where(some, sum(shares), 1.0)
    return jnp.where(some, total + jnp.log(jnp.where(share > 0, share, 1.0)), total)


def live_parameters(fn: Callable[..., Any], params: Any, inputs: Any) -> jax.Array:
    """How many entries of the float leaves have a way to the outputs: what is left of a network once masks are drawn.

    In the network of absolute weights (zeros, as biases begin, are ones here) an entry with a way has a derivative that
    is not zero; masks and choices among operations inside of ``fn``, be they runtime arrays, cut ways. Rows of a table
    that the one example does not look up have none.
    """
    paths, leaves, treedef = flatten_with_paths(jax.tree.map(_absolute, params))
    floats = {p: jnp.where(x == 0, 1.0, x) for p, x in zip(paths, leaves, strict=True) if _is_float(x)}

    def flow(floats: dict[str, jax.Array]) -> jax.Array:
        merged = [floats.get(path, leaf) for path, leaf in zip(paths, leaves, strict=True)]
        return log_flow(fn, jax.tree.unflatten(treedef, merged), inputs, weights=_uneven)

    slopes = jax.grad(flow)(floats)
    return sum((jnp.count_nonzero(slope).astype(int) for slope in slopes.values()), jnp.zeros((), int))


def _uneven(out: jax.Array) -> jax.Array:
    """Different weights, so that outputs with a constant sum (softmax) do not hide what is before them."""
    return 1.5 + jnp.cos(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape)


def _ones(array: Any) -> Any:
    first = jnp.asarray(array)[:1]
    return jnp.ones_like(first) if _is_float(first) else first


def _absolute(array: Any) -> Any:
    return jnp.abs(array) if _is_float(array) else array


def _is_float(array: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(array), jnp.floating)
