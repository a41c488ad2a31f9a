"""The policy of a controller over a space: what it decides in which order, and how likely candidates are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxcompress.search.enas.controller import Controller, Decided, Rules, scored
from jaxcompress.search.genes import Genes

if TYPE_CHECKING:
    from jaxcompress.search.space import Space


def rules_of(space: Space, *, constant: ArrayLike = 2.5, temperature: ArrayLike = 5.0) -> Rules:
    """What there is to decide in a space, conditions before what depends on them.

    Raises:
        ValueError: for a space with continuous variables, or none to decide about.
    """
    if space.continuous:
        names = space.names[space.discrete :]
        raise ValueError(
            f"ENAS chooses among values, but {names[0]!r} is continuous: make it a Choice of some of its values"
        )
    if not space.discrete:
        raise ValueError("ENAS: the space has no variable to decide about")
    cardinalities = np.asarray(space.cardinalities)
    layout = space._layout
    positions, discrete = layout.positions(), set(layout.codes)
    order = np.array([positions[slot] for slot in layout.order if slot in discrete], np.int32)
    real = np.arange(cardinalities.max())[None, :] < cardinalities[:, None]
    return Rules(jnp.asarray(order), jnp.asarray(real), lambda codes: active(space, codes), constant, temperature)


def active(space: Space, codes: jax.Array) -> jax.Array:
    """Which decisions ``[..., decisions]`` exist."""
    return space.active(genes_of(codes))[0]


def genes_of(codes: jax.Array) -> Genes:
    """Genes of codes alone."""
    return Genes(codes, jnp.zeros((*codes.shape[:-1], 0), jnp.float32))


def score_all(controller: Controller, rules: Rules, codes: jax.Array) -> Decided:
    """Probabilities of canonical candidates ``[n, decisions]``."""
    return jax.vmap(lambda own: scored(controller, rules, own))(codes)


def reinforce_loss(
    controller: Controller,
    rules: Rules,
    codes: jax.Array,
    advantages: jax.Array,
    *,
    entropy: ArrayLike = 0.0,
    weights: jax.Array | None = None,
) -> jax.Array:
    """Minus an unbiased estimate of what is to grow, in the sense that its gradient is: REINFORCE.

    The gradient is that of ``-(E[reward] + entropy * H(policy))`` in expectation, where ``codes`` were drawn from this
    policy and ``advantages`` are ``reward + entropy * (entropies of the decisions on the way)``, minus anything that
    does not depend on the draw.

    Args:
        controller: the parameters; differentiate with respect to these.
        rules: of the space.
        codes: int32 ``[n, decisions]``, drawn from the policy.
        advantages: float32 ``[n]``, constants.
        entropy: the weight of the entropy.
        weights: float32 ``[n]`` of the candidates in the mean, 0 for those that the policy did not draw.

    References:
        Williams, 1992. Pham et al., 2018, section 2.2. https://arxiv.org/abs/1802.03268
    """
    decided = score_all(controller, rules, codes)
    gains = jax.lax.stop_gradient(advantages) * decided.log_probability + entropy * decided.entropy
    if weights is None:
        return -jnp.mean(gains)
    return -jnp.sum(gains * weights) / jnp.maximum(jnp.sum(weights), 1.0)
