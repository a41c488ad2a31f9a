"""Training towards low ranks: a trace-norm penalty, as a proximal step or as a term of the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcompress.core.parts import require_finite
from jaxcompress.core.paths import Where
from jaxcompress.factorize.matrix import matrix_of
from jaxcompress.solvers.spectral import soft_threshold, trace_norm_of
from jaxcompress.train.ranks import RankState, full_ranks, matrices, moved
from jaxcompress.train.selection import Selection, beside, require_params

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites


class NuclearNormState(NamedTuple):
    """State of `nuclear_norm`: calls so far, the ranks after the last proximal step, the wrapped optimizer's state."""

    step: jax.Array
    ranks: RankState
    inner: optax.OptState


def nuclear_norm(
    tx: optax.GradientTransformation,
    *,
    strength: float | jax.Array,
    learning_rate: optax.ScalarOrSchedule,
    every: int = 1,
    where: Where = None,
    sites: Sites | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Drives singular values of weights to zeros while ``tx`` trains.

    The loss gets ``strength`` times the trace norms of the weights, the sums of their singular values. After every
    ``every``-th update of ``tx`` the weights take the proximal step of that penalty, which shrinks each singular value
    ``s`` towards zero and stops there:

        s <- max(s - every * learning_rate * strength, 0)

    Gradients of the penalty would leave small singular values that are never zero, and an optimizer such as Adam would
    divide them by the size of the gradient: the step is apart from the optimizer, as AdamW's decay is. With plain SGD
    and ``every=1`` it is the proximal gradient method, exact for this penalty. It costs an eigendecomposition of the
    smaller Gram matrix of each weight: ``every`` spreads that.

    The state names the ranks (`jaxcompress.train.reached_ranks`); after the last proximal step,
    `jaxcompress.train.factorized` makes two factors of every weight whose rank saves something, and loses only
    rounding. Between two of these steps ranks are full again, so let training end on one: ``steps % every == 0``.
    Weights of half precision are rounded after the step, and are of low rank up to that rounding. `optax.MultiSteps`
    belongs around it. Nothing may change the updates afterwards: in `optax.chain` it is the last link.

    Args:
        tx: any optimizer, with its learning rate.
        strength: of the penalty, 0 or more. May be traced.
        learning_rate: that of ``tx``, a number or an `optax` schedule of the calls.
        every: calls between two proximal steps, 1 or more.
        where: weights; by default those that ``sites`` show, or the float leaves of two axes or more.
        sites: what `jaxcompress.sites` found; it says how kernels of other than two axes are matrices, and layers of a
            stack then have ranks of their own.

    Returns:
        A transformation around ``tx``. ``update`` needs ``params``, plain arrays.

    Raises:
        ValueError: if ``strength`` is negative or ``every`` below 1; at ``init``, if ``where`` fits nothing or a weight
            cannot be read as matrices.
        TypeError: at ``init``, if a chosen leaf is compressed.

    Example:
        >>> import optax
        >>> tx = nuclear_norm(optax.sgd(0.5), strength=1.0, learning_rate=0.5)
        >>> params = {"w": jnp.diag(jnp.array([2.0, 1.0, 0.25]))}
        >>> updates, state = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
        >>> jnp.diagonal(optax.apply_updates(params, updates)["w"]).round(3).tolist(), state.ranks.ranks["w"].tolist()
        ([1.5..., 0.5, 0.0], [2])

    References:
        Cai, Candes and Shen, 2010. https://arxiv.org/abs/0810.3286; Alvarez and Salzmann, 2017 (in training).
        https://arxiv.org/abs/1711.02638
    """
    if not isinstance(strength, jax.Array) and not strength >= 0:
        raise ValueError(f"nuclear_norm: strength must be 0 or more, got {strength}")
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ValueError(f"nuclear_norm: every must be an integer of 1 or more, got {every!r}")
    selection = Selection("nuclear_norm", where, sites)
    wrapped = optax.with_extra_args_support(tx)

    def init(params: Any) -> NuclearNormState:
        full = full_ranks(matrices(selection.parts(params), "nuclear_norm"))
        return NuclearNormState(jnp.int32(0), RankState(beside(params, full)), wrapped.init(params))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, NuclearNormState]:
        require_params(params, "nuclear_norm")
        updates, inner = wrapped.update(updates, state.inner, params, **extra)
        found = matrices(selection.parts(params), "nuclear_norm")
        rate = learning_rate(state.step) if callable(learning_rate) else learning_rate

        def shrink(path: str, w: jax.Array) -> tuple[jax.Array, jax.Array]:
            threshold = jnp.asarray(rate, jnp.float32) * jnp.asarray(strength, jnp.float32) * every
            after = soft_threshold(w, threshold)
            return after.matrix, jnp.sum(after.factors > 0, axis=-1, dtype=jnp.int32)

        def step() -> tuple[Any, Any]:
            moves, ranks = moved(params, updates, found, shrink)
            return moves, beside(params, ranks)

        count = jnp.asarray(optax.safe_increment(state.step))
        if every == 1:
            moves, ranks = step()
        else:
            wide = moved(params, updates, found, lambda path, w: (w, None))[0]  # the same sums, in the same dtypes
            moves, ranks = jax.lax.cond(count % every == 0, step, lambda: (wide, state.ranks.ranks))
        return moves, NuclearNormState(count, RankState(ranks), inner)

    return optax.GradientTransformationExtraArgs(init, update)


def trace_norm(params: Any, *, where: Where = None, sites: Sites | None = None) -> jax.Array:
    """The sum of all singular values of the weights, to be added to a loss.

    Its gradient is ``U V^T`` of every weight, where singular values are not zero. Under it singular values come close
    to zero and never are; see `nuclear_norm`.

    Args:
        params: tree of plain float arrays.
        where: weights; by default those that ``sites`` show, or the float leaves of two axes or more.
        sites: what `jaxcompress.sites` found; for kernels of other than two axes.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: if ``where`` fits nothing, a weight cannot be read as matrices, or holds NaN or infinity (seen only
            outside ``jit``).
        TypeError: if a chosen leaf is compressed.

    Example:
        >>> float(trace_norm({"w": jnp.diag(jnp.array([3.0, -4.0])), "b": jnp.ones(2)}))
        7.0

    References:
        Xu et al., 2020, equation 5 (trained rank pruning). https://arxiv.org/abs/2004.14566
    """
    parts = Selection("trace_norm", where, sites).parts(params)
    require_finite(parts, "trace_norm")
    total = jnp.float32(0)
    for part in parts:
        array: Any = part.array
        norms = trace_norm_of(array.reshape(-1, *matrix_of(part, "trace_norm").shape))
        total = total + jnp.sum(norms.astype(jnp.float32))
    return total
