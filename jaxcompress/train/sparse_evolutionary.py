"""SET, sparse evolutionary training: weak connections go, random ones come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax
import optax

from jaxcompress.core.paths import Where
from jaxcompress.train.dynamic import DropSchedule, Rewiring, sparse_training
from jaxcompress.train.random_masks import Allocation
from jaxcompress.train.selection import Selection

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites


def sparse_evolutionary(
    tx: optax.GradientTransformation,
    *,
    sparsity: float | Mapping[str, float],
    end_step: int,
    key: jax.Array,
    every: int = 100,
    drop_fraction: float = 0.3,
    schedule: DropSchedule = "constant",
    allocation: Allocation = "erk",
    where: Where = None,
    sites: Sites | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Trains a sparse network with ``tx`` from the start, and moves weak connections to random places.

    As `rigl` in everything, but for where connections grow: anywhere among the inactive, with equal chance. What is
    dropped are the weights of smallest magnitude (the paper takes the same fraction of the smallest positive and of the
    largest negative weights), and what grows starts at zero, not at a random value: under a magnitude criterion a
    random value would decide the next rewiring.

    Args:
        tx: any optimizer.
        sparsity: fraction of all chosen weights that is inactive, or a dict from globs to fractions, as in `rigl`.
        end_step: no rewiring at this call or later.
        key: draws the first masks and every growth; its data lies in the state.
        every: calls between two rewirings; the paper takes an epoch.
        drop_fraction: fraction of the active weights that moves; the paper takes 0.3.
        schedule: ``"constant"`` as in the paper, or ``"cosine"`` as in `rigl`.
        allocation: ``"erk"`` or ``"uniform"``, as in `rigl`.
        where: leaves to make sparse, as in `rigl`.
        sites: what `jaxcompress.sites` found.

    Returns:
        A transformation around ``tx``. ``update`` needs ``params``.

    Raises:
        ValueError: as `rigl`.
        TypeError: as `rigl`.

    Example:
        >>> import optax
        >>> tx = sparse_evolutionary(optax.sgd(0.1), sparsity=0.5, end_step=100, every=10, key=jax.random.key(0))
        >>> int(jc.prune.masks_of(tx.init({"kernel": jnp.ones((4, 4))}))["kernel"].sum())
        8

    References:
        Mocanu et al., 2018, algorithm 1. https://arxiv.org/abs/1707.04780
    """
    return sparse_training(
        tx,
        selection=Selection("sparse_evolutionary", where, sites, sparsity),
        sparsity=sparsity,
        allocation=allocation,
        key=key,
        rewiring=Rewiring(every, end_step, drop_fraction, schedule, "random"),
    )
