"""RigL: sparse training that grows connections where the dense gradient is largest."""

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


def rigl(
    tx: optax.GradientTransformation,
    *,
    sparsity: float | Mapping[str, float],
    end_step: int,
    key: jax.Array,
    every: int = 100,
    drop_fraction: float = 0.3,
    schedule: DropSchedule = "cosine",
    allocation: Allocation = "erk",
    where: Where = None,
    sites: Sites | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Trains a sparse network with ``tx`` from the start, and moves connections to where the loss asks for them.

    Masks begin random. At calls ``every``, ``2 * every``, ... below ``end_step`` a fraction f(t) of the active weights
    of every layer, those of smallest magnitude, is dropped, and as many grow among all that are then inactive, where
    the gradient is largest in magnitude:

        f(t) = drop_fraction / 2 * (1 + cos(pi * t / end_step))

    The number of active weights of a layer never changes; among equals the lower flat index wins. A weight that grows
    starts at zero, and its moments start anew (one that was dropped in the same call goes on as it was). As in
    algorithm 1 of the paper a call that rewires takes no gradient step: ``tx`` is not called, its state stays.

    Parameters remain plain arrays, so the gradient is dense without further ado; between rewirings ``tx`` sees it with
    zeros where the masks drop, so that no moment builds up there. Nothing may change the updates afterwards: in
    `optax.chain` it is the last link. `optax.MultiSteps` around it makes the gradient that decides an average of
    several batches; inside it works too.

    The parameters are not changed by ``init``, and the first update zeroes what the masks drop. To start there:
    ``params = jc.materialize(jc.prune.finish(params, tx.init(params)))``.

    Args:
        tx: any optimizer.
        sparsity: fraction of all chosen weights that is inactive, in ``[0, 1]``; or a dict from globs over paths to
            fractions per leaf (an allocation of `jaxcompress.prune`): leaves that fit none stay dense.
        end_step: no rewiring at this call or later; the paper takes 3/4 of the training.
        key: draws the first masks.
        every: calls between two rewirings.
        drop_fraction: fraction of the active weights that moves at first.
        schedule: ``"cosine"``, or ``"constant"`` for a fraction that stays.
        allocation: how one ``sparsity`` is shared among the layers: ``"erk"`` (Erdos-Renyi-Kernel: small layers stay
            denser) or ``"uniform"``.
        where: leaves to make sparse; by default those that ``sites`` show as weights, or the float leaves of two axes
            or more.
        sites: what `jaxcompress.sites` found; then the layers of a stacked leaf are rewired one by one.

    Returns:
        A transformation around ``tx``. ``update`` needs ``params``.

    Raises:
        ValueError: if a fraction is outside ``[0, 1]``, ``every`` is below 1, or a word is not one of the above; at
            ``init``, if ``where`` or a glob fits nothing.
        TypeError: at ``init``, if a chosen leaf is compressed.

    Example:
        >>> import optax
        >>> tx = rigl(optax.adam(1e-3), sparsity=0.75, end_step=1000, key=jax.random.key(0))
        >>> state = tx.init({"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)})
        >>> {path: int(mask.sum()) for path, mask in jc.prune.masks_of(state).items()}
        {'kernel': 4}

    References:
        Evci et al., 2020, algorithm 1. https://arxiv.org/abs/1911.11134
    """
    return sparse_training(
        tx,
        selection=Selection("rigl", where, sites, sparsity),
        sparsity=sparsity,
        allocation=allocation,
        key=key,
        rewiring=Rewiring(every, end_step, drop_fraction, schedule, "gradient"),
    )
