"""An executor for many devices and many hosts."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxcompress.search.executors.executor import Executor, One, Population, length
from jaxcompress.search.executors.local import filled_up, one_by_one

AXIS = "population"


@dataclasses.dataclass(frozen=True)
class Sharded(Executor):
    """Every device takes its part of the candidates, one after another, and all get all results.

    Candidates are dealt like cards, so that the first ``count`` are spread evenly; where their number is no multiple of
    the devices', some devices have a round less. The bits are those of `Map` on one device. With several processes
    (``jax.distributed``) each calls it with the same candidates.

    Args:
        mesh: devices to use, along its only axis; by default all there are.

    Raises:
        ValueError: for a mesh of several axes.
    """

    mesh: Mesh | None = None

    def __post_init__(self) -> None:
        if self.mesh is not None and len(self.mesh.axis_names) != 1:
            raise ValueError(
                f"Sharded(mesh=) must have one axis, as jax.make_mesh((n,), ('all',)), got {self.mesh.axis_names}"
            )

    def population(self, one: One) -> Population:
        """See `Executor`."""
        mesh = self._mesh()
        (axis,), devices = mesh.axis_names, mesh.size

        def part(items: Any, count: jax.Array, shared: Any) -> Any:
            own = (count - lax.axis_index(axis) + devices - 1) // devices
            results = one_by_one(one, jax.tree.map(lambda x: x[0], items), own, shared)
            return lax.all_gather(results, axis)

        in_specs = (P(axis), P(), P())
        everywhere = jax.shard_map(part, mesh=mesh, in_specs=in_specs, out_specs=P(), check_vma=False)

        def dealt(items: Any, count: Any, shared: Any) -> Any:
            n = length(items)
            rounds = -(-n // devices)
            places = filled_up(n, rounds * devices).reshape(rounds, devices).T
            results = everywhere(jax.tree.map(lambda x: x[places], items), jnp.asarray(count, jnp.int32), shared)
            return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])[:n], results)

        return dealt

    def place(self, tree: Any) -> Any:
        """Copies to every device. Keys must come as their data: a typed key cannot be put on devices of other hosts."""
        return jax.device_put(tree, NamedSharding(self._mesh(), P()))

    def _mesh(self) -> Mesh:
        if self.mesh is not None:
            return self.mesh
        return jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))
