"""Iterative magnitude pruning: prune a little, train, and again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from jaxcompress.core.paths import Where
from jaxcompress.prune.magnitude import Scope, magnitude
from jaxcompress.prune.rewind import rewind

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites


def geometric_sparsities(sparsity: float, *, rounds: int) -> tuple[float, ...]:
    """Sparsities of rounds that each drop the same fraction of what is left: ``1 - (1 - sparsity) ** (r / rounds)``.

    Raises:
        ValueError: if ``sparsity`` is outside ``[0, 1)`` or ``rounds`` below 1.

    Example:
        >>> [round(s, 3) for s in geometric_sparsities(0.875, rounds=3)]
        [0.5, 0.75, 0.875]
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must lie in [0, 1), got {sparsity}: a geometric path never reaches 1")
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    return (*(1 - (1 - sparsity) ** (r / rounds) for r in range(1, rounds)), sparsity)


def iterative(
    params: Any,
    train: Callable[[Any, int], Any],
    *,
    sparsity: float | Mapping[str, float],
    rounds: int,
    rewind_to: Any = None,
    scope: Scope = "layer",
    where: Where = None,
    sites: Sites | None = None,
) -> Any:
    """Prunes trained weights by magnitude in rounds, with training after each.

    Every round drops the same fraction of the weights that are left. What is pruned stays pruned.

    Args:
        params: trained tree. Not changed.
        train: ``train(params, round) -> params``: trains a tree with `Masked` leaves (as `jaxcompress.split_trainable`
            or `jaxcompress.train.fixed_masks` allow) and returns it. With a small learning rate this is Han's
            fine-tuning, with the whole schedule of the first training it is learning-rate rewinding.
        sparsity: after the last round, in ``[0, 1)``; or a dict from globs to fractions, as in `magnitude`.
        rounds: how many.
        rewind_to: the same tree at an earlier time (at initialisation: lottery tickets; at an early step: weight
            rewinding): ``train`` is given the weights of that time under the new masks. None goes on from here.
        scope: as in `magnitude`.
        where: as in `magnitude`.
        sites: as in `magnitude`.

    Returns:
        What ``train`` returned in the last round.

    Raises:
        ValueError: as `geometric_sparsities`, `magnitude` and `rewind`.

    Example:
        >>> seen = []
        >>> params = {"w": jnp.arange(16.0).reshape(4, 4)}
        >>> def train(params, round):
        ...     seen.append(int(params["w"].mask.sum()))
        ...     return params
        >>> pruned = iterative(params, train, sparsity=0.875, rounds=3)
        >>> seen
        [8, 4, 2]

    References:
        Han et al., 2015. https://arxiv.org/abs/1506.02626
        Frankle and Carbin, 2019. https://arxiv.org/abs/1803.03635
        Renda et al., 2020. https://arxiv.org/abs/2003.02389
    """
    for position, now in enumerate(_rounds(sparsity, rounds)):
        params = magnitude(params, sparsity=now, scope=scope, where=where, sites=sites)
        if rewind_to is not None:
            params = rewind(params, rewind_to)
        params = train(params, position)
    return params


def _rounds(sparsity: float | Mapping[str, float], rounds: int) -> list[Any]:
    if not isinstance(sparsity, Mapping):
        return list(geometric_sparsities(sparsity, rounds=rounds))
    by_glob = {glob: geometric_sparsities(fraction, rounds=rounds) for glob, fraction in sparsity.items()}
    return [{glob: path[r] for glob, path in by_glob.items()} for r in range(rounds)]
