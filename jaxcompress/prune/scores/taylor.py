"""First-order Taylor scores: gradient times weight."""

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
from jaxcompress.prune.scores.units import AxisRoles, Members, dense_arrays, unit_totals

if TYPE_CHECKING:
    from jaxcompress.core.groups import Group


@jax.jit
def taylor(w: jax.Array, gradient: jax.Array) -> jax.Array:
    """``|gradient * w|``: to first order, how much the loss changes when the weight becomes zero.

    Args:
        w: weights, any float dtype.
        gradient: of the loss, of the same shape.

    Example:
        >>> taylor(jnp.array([2.0, -3.0]), jnp.array([0.5, 1.0])).tolist()
        [1.0, 3.0]

    References:
        Molchanov et al., 2017, equation 7. https://arxiv.org/abs/1611.06440
    """
    return jnp.abs(wide(w) * wide(gradient))


@dataclasses.dataclass(frozen=True, eq=False)
class Taylor:
    """Scores by the mean gradient times the weight.

    Of a weight, ``|mean(g) * w|``. Of a unit, ``|sum of mean(g) * w over the unit|``: the sum keeps its signs, because
    the weights of a unit go together. The mean is taken before the absolute value, so that noise that cancels over the
    batches does not count; where the gradient vanishes on the whole (a converged model, all of its data), `Fisher`
    still tells weights apart.

    Attributes:
        gradients: what `jaxcompress.prune.scores.gradients` gathered.
        members: which members of a group make up a unit: ``"consumers"`` are the weights that read it, so that the sum
            is the first-order change of the loss when it is removed.
    """

    gradients: Gradients
    members: Members = "consumers"

    def of_parts(self, params: Any, parts: Sequence[Part]) -> list[jax.Array]:
        """See `jaxcompress.prune.scores.WeightScore`."""
        del params
        return [taylor(dense(part.array), self.gradients.at(part.name, "mean")) for part in parts]

    def of_groups(self, groups: Sequence[Group], params: Any, roles: AxisRoles) -> Mapping[int, np.ndarray]:
        """See `jaxcompress.prune.scores.GroupScore`."""
        members = {group.index: roles.members(group, self.members) for group in groups}
        arrays = dense_arrays(params, members.values())
        products = {path: (w, self.gradients.at(path, "mean")) for path, w in arrays.items()}
        return {index: np.abs(total) for index, total in unit_totals(_signed(products), members).items()}


@jax.jit
def _signed(pairs: dict[str, tuple[jax.Array, jax.Array]]) -> dict[str, jax.Array]:
    return {path: wide(w) * wide(g) for path, (w, g) in pairs.items()}
