"""The control of sparse training: random masks that never change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax
import optax

from jaxcompress.core.paths import Where
from jaxcompress.train.dynamic import sparse_training
from jaxcompress.train.random_masks import Allocation
from jaxcompress.train.selection import Selection

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites


def static_sparse(
    tx: optax.GradientTransformation,
    *,
    sparsity: float | Mapping[str, float],
    key: jax.Array,
    allocation: Allocation = "erk",
    where: Where = None,
    sites: Sites | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Trains a network with ``tx`` under random masks that stay as they are: what any clever choice has to beat.

    The masks are those that `rigl` and `sparse_evolutionary` begin with under the same key.

    Args:
        tx: any optimizer.
        sparsity: fraction of all chosen weights that is inactive, or a dict from globs to fractions, as in `rigl`.
        key: draws the masks.
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
        >>> tx = static_sparse(optax.sgd(0.1), sparsity=0.5, key=jax.random.key(0))
        >>> int(jc.prune.masks_of(tx.init({"kernel": jnp.ones((4, 4))}))["kernel"].sum())
        8

    References:
        Evci et al., 2020, section 4 ("Static"). https://arxiv.org/abs/1911.11134
    """
    return sparse_training(
        tx,
        selection=Selection("static_sparse", where, sites, sparsity),
        sparsity=sparsity,
        allocation=allocation,
        key=key,
        rewiring=None,
    )
