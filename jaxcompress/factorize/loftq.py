"""Quantized weights and low-rank deltas that start as close to the float weights as they can be together (LoftQ)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcompress.core.leaf import dense, is_compressed
from jaxcompress.core.parts import find_parts, require_finite, with_parts
from jaxcompress.core.paths import Where
from jaxcompress.factorize.lora import Lora, require_rank
from jaxcompress.factorize.lowrank import LowRank
from jaxcompress.factorize.matrix import Matrix, matrix_of
from jaxcompress.factorize.svd import svd_factors

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites


def loftq(
    params: Any,
    stage: Callable[..., Any],
    *,
    rank: int,
    iterations: int = 5,
    where: Where = None,
    sites: Sites | None = None,
) -> Any:
    """Quantizes weights and puts low-rank deltas over them that make up for the error.

    In turn the weight less the delta is quantized, and the delta becomes the best one of its rank for what is then
    missing; of all turns the one that comes nearest is kept (the article keeps the last). `lora` over a quantized
    weight starts with its whole error; this start is nearer to the float model, which counts most at 2 to 4 bits.
    Deltas are multiplied by 1.

    Args:
        params: tree of float arrays. Not changed.
        stage: what quantizes, a stage such as ``jc.quantize.RTN(bits=4)``: called with a dict from paths to arrays, and
            ``sites=``.
        rank: of the deltas.
        iterations: how often both are found, 1 or more.
        where: leaves to change: globs over paths or a predicate; by default those that ``sites`` show as contraction
            weights or embeddings, without ``sites`` the float leaves of two axes or more.
        sites: what `jaxcompress.sites` found. Without it only kernels of two axes are taken, read as (in, out).

    Returns:
        The tree with `Lora` leaves over what ``stage`` makes.

    Raises:
        ValueError: if ``rank`` or ``iterations`` is out of range, ``where`` fits nothing, a chosen leaf is compressed
            already, is no matrix, or holds NaN or infinity, or ``stage`` leaves one of them dense.
        TypeError: if a chosen leaf is not float.

    Example:
        >>> params = {"w": jax.random.normal(jax.random.key(0), (64, 32))}
        >>> stage = jc.quantize.RTN(bits=2)
        >>> trees = {"rtn": stage(params), "loftq": loftq(params, stage, rank=8)}
        >>> error = {name: jnp.linalg.norm(tree["w"].materialize() - params["w"]) for name, tree in trees.items()}
        >>> bool(error["loftq"] < 0.8 * error["rtn"])
        True

    References:
        Li et al., 2024, algorithm 1. https://arxiv.org/abs/2310.08659
    """
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 1:
        raise ValueError(f"loftq: iterations must be a positive integer, got {iterations!r}")
    parts = find_parts(params, where=where, sites=sites, method="loftq", whole=lambda leaf: True)
    for part in parts:
        if is_compressed(part.array):
            raise ValueError(
                f"loftq: {part.name!r} is compressed already: this starts from float weights. Use lora, or leave it "
                "out with where="
            )
    require_finite(parts, "loftq")
    matrices = {part.path: matrix_of(part, "loftq") for part in parts}
    for part in parts:
        require_rank(part.name, rank, matrices[part.path], "loftq")
    weights = {part.path: dense(part.array) for part in parts}
    deltas: dict[str, LowRank] = {}
    best: dict[str, _Start] = {}
    for _ in range(iterations):
        rest = {path: _less(weight, deltas[path]) if deltas else weight for path, weight in weights.items()}
        coded = stage(rest) if sites is None else stage(rest, sites=sites)
        left = [path for path in weights if not is_compressed(coded[path])]
        if left:
            raise ValueError(f"loftq: stage= leaves {left[0]!r} dense: let its where= and bits= choose what loftq does")
        for path, weight in weights.items():
            found = _start(weight, coded[path], matrix=matrices[path], rank=rank)
            deltas[path] = found.delta
            best[path] = _better(best[path], found) if path in best else found
    return with_parts(params, parts, [Lora(best[part.path].base, best[part.path].delta, 1.0) for part in parts])


class _Start(NamedTuple):
    base: Any
    delta: LowRank
    error: jax.Array


@jax.jit
def _less(weight: jax.Array, delta: LowRank) -> jax.Array:
    return weight - delta.materialize()


@functools.partial(jax.jit, static_argnames=("matrix", "rank"))
def _start(weight: jax.Array, coded: Any, *, matrix: Matrix, rank: int) -> _Start:
    """The best delta over a base, and the squared error of their sum."""
    missing = weight - dense(coded)
    u, v = svd_factors(missing.reshape(*matrix.stack, *matrix.shape), rank=rank)
    u, v = u.reshape(*matrix.stack, *matrix.rows, rank), v.reshape(*matrix.stack, rank, *matrix.cols)
    delta = LowRank(u, v, *matrix.axes)
    return _Start(coded, delta, jnp.sum(jnp.square(missing - delta.materialize())))


@jax.jit
def _better(a: _Start, b: _Start) -> _Start:
    return jax.tree.map(lambda x, y: jnp.where(b.error < a.error, y, x), a, b)
