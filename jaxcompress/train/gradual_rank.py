"""Gradual rank reduction inside any `optax` optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcompress.core.parts import setting_at
from jaxcompress.core.paths import Where
from jaxcompress.factorize.matrix import Matrix
from jaxcompress.factorize.rank.candidate import Candidate, check_saving
from jaxcompress.solvers.spectral import keep_largest, product
from jaxcompress.train.ranks import RankState, full_ranks, layers_of, matrices, moved
from jaxcompress.train.selection import Selection, beside, by_path, require_params

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites

METHOD = "gradual_rank"


class GradualRankState(NamedTuple):
    """State of `gradual_rank`.

    Attributes:
        step: calls so far.
        ranks: those of the last truncation.
        bases: tree of the structure of the parameters: the leading singular vectors of the shorter side once the last
            truncation is done, ``[layers, min(m, n), rank]``; `optax.MaskedNode` at leaves that keep their rank.
        inner: the state of the wrapped optimizer.
    """

    step: jax.Array
    ranks: RankState
    bases: Any
    inner: optax.OptState


def gradual_rank(
    tx: optax.GradientTransformation,
    *,
    rank: int | Mapping[str, int],
    begin_step: int,
    end_step: int,
    every: int = 100,
    power: float = 3.0,
    where: Where = None,
    sites: Sites | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Truncates the singular values of weights step by step while ``tx`` trains.

    At ``begin_step``, every ``every`` steps after it, and at ``end_step``, the weights that the step is about to
    produce are replaced by their best approximation of the rank

        r(t) = rank + (full - rank) * (1 - (t - begin_step) / (end_step - begin_step)) ** power

    rounded up. In between they train freely, so that the directions can change; what training brings back beyond the
    rank is cut again at the next truncation, and the loss has time to move into the directions that stay. From
    ``end_step`` on the rank is held at every step: the leading singular vectors of the shorter side are followed by one
    step of orthogonal iteration (two thin products and a QR of ``rank`` columns), and the weight is projected onto
    them, so that training goes on on the matrices of that rank, at little cost.

    Parameters remain plain arrays. The state names the ranks (`jaxcompress.train.reached_ranks`), and after
    ``end_step`` `jaxcompress.train.factorized` makes two factors of the weights and loses only rounding. Weights of
    half precision are rounded after each step, and are of low rank up to that rounding. Nothing may change the updates
    afterwards: in `optax.chain` it is the last link.

    Args:
        tx: any optimizer.
        rank: the final rank, or a dict from globs over paths to ranks (`jaxcompress.factorize.budget_ranks`, say): the
            first that fits counts, leaves that fit none keep their rank.
        begin_step: number of updates before the first truncation.
        end_step: number of updates before the last truncation.
        every: updates between truncations.
        power: exponent of the schedule.
        where: weights; by default those that ``sites`` show, or the float leaves of two axes or more.
        sites: what `jaxcompress.sites` found; it says how kernels of other than two axes are matrices.

    Returns:
        A transformation around ``tx``. ``update`` needs ``params``, plain arrays.

    Raises:
        ValueError: if the steps are not ``0 <= begin_step <= end_step``, ``every`` is below 1 or ``power``
            not above 0; at ``init``, if a rank is no positive integer or saves nothing (the break-even is named),
            ``where`` or a glob fits nothing, or a weight cannot be read as matrices.
        TypeError: at ``init``, if a chosen leaf is compressed.

    Example:
        >>> import optax
        >>> tx = gradual_rank(optax.sgd(0.1), rank=1, begin_step=0, end_step=2, every=1, power=1.0)
        >>> params = {"w": jnp.diag(jnp.array([4.0, 3.0, 2.0, 1.0]))}
        >>> state, seen = tx.init(params), []
        >>> for _ in range(4):
        ...     updates, state = tx.update(jax.tree.map(jnp.zeros_like, params), state, params)
        ...     params = optax.apply_updates(params, updates)
        ...     seen.append(jnp.diagonal(params["w"]).round().astype(int).tolist())
        >>> seen[1:]
        [[4, 3, 2, 0], [4, 0, 0, 0], [4, 0, 0, 0]]
        >>> jc.train.reached_ranks(state)
        {'w': 1}

    References:
        Xu et al., 2020 (truncation in alternation with training). https://arxiv.org/abs/2004.14566;
        Zhu and Gupta, 2017, equation 1 (the schedule). https://arxiv.org/abs/1710.01878
    """
    if not 0 <= begin_step <= end_step or not all(isinstance(step, int) for step in (begin_step, end_step)):
        raise ValueError(
            f"{METHOD}: steps must be integers with 0 <= begin_step <= end_step, got {begin_step} and {end_step}"
        )
    if not power > 0:
        raise ValueError(f"{METHOD}: power must be above 0, got {power}")
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ValueError(f"{METHOD}: every must be an integer of 1 or more, got {every!r}")
    selection = Selection(METHOD, where, sites, rank)
    wrapped = optax.with_extra_args_support(tx)

    def init(params: Any) -> GradualRankState:
        parts = selection.parts(params)
        found = matrices(parts, METHOD)
        for part in parts:
            _check(setting_at(rank, part.path), part.path, found[part.path])
        bases = {path: _start(matrix, setting_at(rank, path), params, path) for path, matrix in found.items()}
        ranks = RankState(beside(params, full_ranks(found)))
        return GradualRankState(jnp.int32(0), ranks, beside(params, bases), wrapped.init(params))

    def scheduled(full: int, final: int, step: jax.Array) -> jax.Array:
        left = 1 - (step - begin_step).astype(jnp.float32) / jnp.float32(max(1, end_step - begin_step))
        now = jnp.ceil(final + (full - final) * jnp.maximum(left, 0) ** jnp.float32(power) - 1e-4).astype(jnp.int32)
        return jnp.where(step >= end_step, jnp.int32(final), now)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, GradualRankState]:
        require_params(params, METHOD)
        updates, inner = wrapped.update(updates, state.inner, params, **extra)
        found = matrices(selection.parts(params), METHOD)
        before = by_path(state.bases)

        def free() -> tuple[Any, Any, Any]:
            return moved(params, updates, found, lambda path, w: (w, None))[0], state.ranks.ranks, state.bases

        def truncate() -> tuple[Any, Any, Any]:
            def cut(path: str, w: jax.Array) -> tuple[jax.Array, Any]:
                final = setting_at(rank, path)
                now = scheduled(min(w.shape[-2:]), final, state.step)
                kept = keep_largest(w, now)
                basis = kept.basis[..., :final].astype(before[path].dtype)
                return kept.matrix, (jnp.broadcast_to(now, w.shape[:1]), basis)

            moves, kept = moved(params, updates, found, cut)
            ranks, bases = ({path: pair[i] for path, pair in kept.items()} for i in (0, 1))
            return moves, beside(params, ranks), beside(params, bases)

        def hold() -> tuple[Any, Any, Any]:
            moves, bases = moved(params, updates, found, lambda path, w: _followed(w, before[path]))
            return moves, state.ranks.ranks, beside(params, bases)

        due = (state.step >= begin_step) & (state.step <= end_step)
        due &= ((state.step - begin_step) % every == 0) | (state.step == end_step)
        case = jnp.where(state.step > end_step, 2, due.astype(jnp.int32))
        moves, ranks, bases = jax.lax.switch(case, (free, truncate, hold))
        step = jnp.asarray(optax.safe_increment(state.step))
        return moves, GradualRankState(step, RankState(ranks), bases, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def _followed(w: jax.Array, basis: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The projection of a matrix that has moved a little onto its leading directions, followed from the last ones."""
    tall = w.mT if w.shape[-2] < w.shape[-1] else w  # the shorter side is that of the columns
    tall = tall.astype(basis.dtype)
    basis, _ = jnp.linalg.qr(product(tall.mT, product(tall, basis)))
    near = product(product(tall, basis), basis.mT)
    return (near.mT if w.shape[-2] < w.shape[-1] else near), basis


def _start(matrix: Matrix, rank: int, params: Any, path: str) -> jax.Array:
    wide = jnp.float64 if by_path(params)[path].dtype == jnp.float64 else jnp.float32
    return jnp.zeros((layers_of(matrix), min(matrix.shape), rank), wide)


def _check(rank: Any, path: str, matrix: Matrix) -> None:
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(
            f"{METHOD}: rank must be a positive integer, got {rank!r} for {path!r}: rules and fractions decide by "
            "singular values, which training changes"
        )
    check_saving(Candidate(path, path, matrix.shape), rank, method=METHOD)
