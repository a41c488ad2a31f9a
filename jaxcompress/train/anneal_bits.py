"""Fewer and fewer levels as training goes on."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcompress.quantize.training.annealed import AnnealedBits
from jaxcompress.train.selection import require_params


class AnnealState(NamedTuple):
    """State of `anneal_bits`: calls so far, and the state of the wrapped optimizer."""

    step: jax.Array
    inner: optax.OptState


def anneal_bits(tx: optax.GradientTransformation, bits: optax.Schedule) -> optax.GradientTransformationExtraArgs:
    """Moves the width of annealed weights along a schedule while ``tx`` trains them.

    After call ``t`` (from 0) the leaves that ``jc.quantize.prepare(params, jc.quantize.QAT(method="annealed"))`` made
    have ``bits(t + 1)`` bits, which need not be whole. Nothing may change the updates afterwards: in `optax.chain` it
    is the last link.

    Args:
        tx: any optimizer.
        bits: schedule of the calls, `optax.linear_schedule(8, 2, 1000)` say, which ends at a whole number, 8 or less.

    Returns:
        A transformation around ``tx``. ``update`` needs ``params``.

    Raises:
        ValueError: at ``init``, if the parameters hold no annealed leaf.

    Example:
        >>> import optax
        >>> params = jc.quantize.prepare({"w": jnp.ones((2, 2))}, jc.quantize.QAT(8, "annealed"))
        >>> tx = anneal_bits(optax.sgd(0.1), optax.linear_schedule(8, 2, 4))
        >>> updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
        >>> optax.apply_updates(params, updates)["w"].bits.tolist()
        [[6.5]]
    """
    wrapped = optax.with_extra_args_support(tx)

    def init(params: Any) -> AnnealState:
        if jax.tree.leaves(params) and not any(map(_is_annealed, jax.tree.leaves(params, is_leaf=_is_annealed))):
            raise ValueError(
                "anneal_bits: the parameters hold no annealed weights; make them with "
                "jc.quantize.prepare(params, jc.quantize.QAT(method='annealed', ...))"
            )
        return AnnealState(jnp.int32(0), wrapped.init(params))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, AnnealState]:
        require_params(params, "anneal_bits")
        updates, inner = wrapped.update(updates, state.inner, params, **extra)
        step = jnp.asarray(optax.safe_increment(state.step))
        width = jnp.asarray(bits(step), jnp.float32)
        leaves, treedef = jax.tree.flatten(params, is_leaf=_is_annealed)
        moves = [
            move.replace(bits=width - leaf.bits) if _is_annealed(leaf) else move
            for move, leaf in zip(treedef.flatten_up_to(updates), leaves, strict=True)
        ]
        return jax.tree.unflatten(treedef, moves), AnnealState(step, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def _is_annealed(leaf: Any) -> bool:
    return isinstance(leaf, AnnealedBits)
