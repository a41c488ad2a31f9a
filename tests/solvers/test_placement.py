import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxcompress.prune import magnitude, nm_mask, topk_mask


@pytest.mark.parametrize("axes", [AxisType.Explicit, AxisType.Auto])
def test_masks_of_sharded_weights_are_those_of_one_device_and_stay_in_place(axes):
    mesh = jax.make_mesh((4, 2), ("rows", "columns"), axis_types=(axes, axes))
    rng = np.random.default_rng(0)
    specs = {"a": PartitionSpec("rows", "columns"), "b": PartitionSpec(None, "rows")}
    here = {name: jnp.asarray(rng.normal(size=(16, 8)), jnp.float32) for name in specs}
    there = {name: jax.device_put(here[name], NamedSharding(mesh, spec)) for name, spec in specs.items()}
    for scope in ("layer", "global"):
        pruned = magnitude(there, sparsity=0.7, scope=scope)
        expected = magnitude(here, sparsity=0.7, scope=scope)
        for name, spec in specs.items():
            np.testing.assert_array_equal(pruned[name].mask, expected[name].mask)
            assert pruned[name].mask.sharding.is_equivalent_to(NamedSharding(mesh, spec), 2)
            assert pruned[name].values.sharding.is_equivalent_to(NamedSharding(mesh, spec), 2)
    np.testing.assert_array_equal(topk_mask(there["a"], sparsity=0.5), topk_mask(here["a"], sparsity=0.5))
    np.testing.assert_array_equal(nm_mask(there["b"], n=2, m=4, axis=1), nm_mask(here["b"], n=2, m=4, axis=1))
