"""Squared-gradient scores: optimal brain damage with the Fisher information for the Hessian."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.leaf import dense
from jaxcompress.core.parts import Part
from jaxcompress.prune.scores.gradients import Gradients
from jaxcompress.prune.scores.lp import wide
from jaxcompress.prune.scores.units import AxisRoles

if TYPE_CHECKING:
    from jaxcompress.core.groups import Group


@jax.jit
def fisher(w: jax.Array, square: jax.Array) -> jax.Array:
    """``square * w ** 2 / 2``: the saliency of optimal brain damage, for ``square`` the diagonal of the Hessian.

    Args:
        w: weights, any float dtype.
        square: mean squared gradient, which approximates that diagonal at a minimum of a log-likelihood loss.

    Example:
        >>> fisher(jnp.array([2.0, -3.0]), jnp.array([0.5, 1.0])).tolist()
        [1.0, 4.5]

    References:
        LeCun et al., 1990, equation 5. https://papers.nips.cc/paper/250-optimal-brain-damage; Theis et al., 2018.
        https://arxiv.org/abs/1801.05787
    """
    return jnp.square(wide(w)) * wide(square) / 2


@dataclasses.dataclass(frozen=True, eq=False)
class Fisher:
    """Scores by the mean squared gradient: the estimated rise of the loss, to second order.

    Of a weight, ``mean(g ** 2) * w ** 2 / 2``. Of a unit, ``mean((sum of g * w over the unit) ** 2) / 2``, which keeps
    the cross terms between its weights (Theis 2018; with ``per="batch"`` Molchanov 2019, up to the factor). The sum of
    the scores of its weights, which neglects them, is ``Aggregate(Fisher(...))``.

    Attributes:
        gradients: what `jaxcompress.prune.scores.gradients` gathered; for units with ``groups=``. ``per="example"``
            makes it the empirical Fisher information.
    """

    gradients: Gradients

    def of_parts(self, params: Any, parts: Sequence[Part]) -> list[jax.Array]:
        """See `jaxcompress.prune.scores.WeightScore`."""
        del params
        return [fisher(dense(part.array), self.gradients.at(part.name, "square")) for part in parts]

    def of_groups(self, groups: Sequence[Group], params: Any, roles: AxisRoles) -> Mapping[int, np.ndarray]:
        """See `jaxcompress.prune.scores.GroupScore`."""
        del params, roles
        gates = self.gradients.gate
        missing = [group.index for group in groups if group.index not in gates]
        if missing:
            raise ValueError(
                f"Fisher: no gates were gathered for group {missing[0]}: call gradients(..., groups=groups), or take "
                "Aggregate(Fisher(...)), the sum over the weights of a unit"
            )
        return {group.index: np.asarray(gates[group.index], np.float64) / 2 for group in groups}
