"""Network slimming: the channels of smallest BatchNorm scale go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxcompress.prune.channels import channels
from jaxcompress.prune.scores.batchnorm import BatchNormScale
from jaxcompress.prune.selection import Selection

if TYPE_CHECKING:
    from jaxcompress.core.groups import Group, Groups


def slimming(
    groups: Groups,
    variables: Any,
    *,
    sparsity: float,
    scales: str | Sequence[str] = "**/scale",
    round_to: int | Mapping[str, int] = 1,
    floors: int | float | Mapping[str, int | float] = 1,
    where: str | Sequence[str] | Callable[[Group], bool] | None = None,
    protect: str | Sequence[str] = (),
) -> Selection:
    """Chooses the channels that stay by one threshold on the BatchNorm scales of the whole network.

    Train with an L1 penalty on the scales first, so that they say which channels matter; then shrink, then fine-tune.
    Of all channels that have a scale, at least the fraction ``sparsity`` goes: those of smallest ``|gamma|``, whatever
    layer they are in. Where one channel has several scales (the ends of residual branches), their mean counts.

    Args:
        groups: what `jaxcompress.groups` found.
        variables: the tree it was found for, with the trained scales.
        sparsity: fraction of the channels to drop, in ``[0, 1)``.
        scales: globs over paths of the BatchNorm scales (``**/weight`` of the norms in Equinox); ``!`` leaves out what
            is the scale of another norm.
        round_to: as in `channels`; the paper does not round.
        floors: as in `channels`: no layer is cut off.
        where: groups to prune; default all that have a scale.
        protect: globs; groups with a member that fits stay whole.

    Returns:
        The kept indices, as `channels` returns them.

    Raises:
        ValueError: as `channels`; or if ``scales`` fits no member of a group.

    Example:
        >>> params = {"a": jnp.ones((2, 4)), "bn": {"scale": jnp.array([0.9, 0.0, -0.8, 0.1])}, "b": jnp.ones((4, 2))}
        >>> fn = lambda p, x: jax.nn.relu((x @ p["a"]) * p["bn"]["scale"][None]) @ p["b"]
        >>> found = jc.groups(fn, params, jnp.ones((1, 2)))
        >>> slimming(found, params, sparsity=0.5)["a", 1].tolist()
        [0, 2]

    References:
        Liu et al., 2017. https://arxiv.org/abs/1708.06519
    """
    return channels(
        groups,
        variables,
        scores=BatchNormScale(scales),
        sparsity=sparsity,
        round_to=round_to,
        floors=floors,
        where=where,
        protect=protect,
    )
