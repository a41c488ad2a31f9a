"""Random scores: the control that every method has to beat."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.parts import Part
from jaxcompress.prune.scores.units import AxisRoles

if TYPE_CHECKING:
    from jaxcompress.core.groups import Group


@dataclasses.dataclass(frozen=True, eq=False)
class Random:
    """Uniform scores, independent for every weight or unit.

    What a leaf or group gets follows from the key and its name alone, whatever else is pruned with it.

    Attributes:
        key: a `jax.random.key`, or an integer seed.
    """

    key: jax.Array | int

    def of_parts(self, params: Any, parts: Sequence[Part]) -> list[jax.Array]:
        """See `jaxcompress.prune.scores.WeightScore`."""
        del params
        return [_uniform(self._key(part.name), shape=tuple(part.array.shape)) for part in parts]

    def of_groups(self, groups: Sequence[Group], params: Any, roles: AxisRoles) -> Mapping[int, np.ndarray]:
        """See `jaxcompress.prune.scores.GroupScore`; a group is named by its first member."""
        del params, roles
        names = {group.index: f"{group.members[0].path}:{group.members[0].axis}:{group.index}" for group in groups}
        return {
            group.index: np.asarray(_uniform(self._key(names[group.index]), shape=(group.size,))) for group in groups
        }

    def _key(self, name: str) -> jax.Array:
        key = jax.random.key(self.key) if isinstance(self.key, int) else self.key
        return jax.random.fold_in(key, zlib.crc32(name.encode()))


@partial(jax.jit, static_argnames="shape")
def _uniform(key: jax.Array, *, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.uniform(key, shape, jnp.float32)
