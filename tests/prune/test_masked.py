import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.core.leaf import CompressedArray, leaf_kind
from jaxcompress.prune import Masked


@leaf_kind("test_scaled_int8")
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ScaledInt8(CompressedArray):
    """One int8 per weight and one scale per column: enough of a quantized leaf to nest."""

    qvalue: jax.Array
    scale: jax.Array

    def alignment(self):
        axes = tuple(range(len(self.qvalue.shape)))
        return {"qvalue": axes, "scale": axes}

    @property
    def dtype(self):
        return self.scale.dtype

    def materialize(self):
        return self.qvalue.astype(self.scale.dtype) * self.scale


VALUES = np.array([[3.0, np.nan, -2.0], [0.5, 7.0, -0.0]], np.float32)
MASK = np.array([[True, False, True], [False, True, True]])


def test_dropped_entries_are_zero_whatever_stood_there():
    leaf = Masked.create(jnp.asarray(VALUES), jnp.asarray(MASK))
    np.testing.assert_array_equal(leaf.materialize(), [[3.0, 0.0, -2.0], [0.0, 7.0, 0.0]])
    np.testing.assert_array_equal(leaf.values, leaf.materialize())
    assert (leaf.shape, leaf.dtype, leaf.support() is leaf.mask) == ((2, 3), jnp.float32, True)


def test_gradient_stops_at_the_mask():
    leaf = Masked.create(jnp.asarray(VALUES), jnp.asarray(MASK))
    gradient = jax.grad(lambda values: leaf.replace(values=values).materialize().sum())(leaf.values)
    np.testing.assert_array_equal(gradient, MASK.astype(np.float32))


def test_stored_bits_count_the_mask_and_what_is_kept():
    mask = jnp.asarray(MASK)
    assert Masked.create(jnp.ones((2, 3), jnp.bfloat16), mask).stored_bits == 6 + 4 * 16
    nested = Masked.create(ScaledInt8(jnp.ones((2, 3), jnp.int8), jnp.ones((1, 3))), mask)
    assert nested.stored_bits == 6 + 4 * 8 + 3 * 32  # every scale is needed, codes only where kept
    np.testing.assert_array_equal(nested.materialize(), MASK.astype(np.float32))
    assert nested.component_paths() == ("values/qvalue", "values/scale", "mask")


def test_cast_slice_and_vmap_keep_the_mask():
    leaf = Masked.create(jnp.asarray(VALUES), jnp.asarray(MASK))
    assert leaf.astype(jnp.bfloat16).dtype == jnp.bfloat16
    rows = leaf.map_axis(1, lambda field, axis: jnp.take(field, jnp.array([2, 0]), axis))
    np.testing.assert_array_equal(rows.materialize(), [[-2.0, 3.0], [0.0, 0.0]])
    np.testing.assert_array_equal(jax.vmap(lambda row: row.materialize())(leaf), leaf.materialize())
    assert [row.shape for row in leaf.unstack()] == [(3,), (3,)]


def test_create_names_what_is_wrong():
    with pytest.raises(TypeError, match=r"mask must be bool .* got int32"):
        Masked.create(jnp.ones(3), jnp.ones(3, jnp.int32))
    with pytest.raises(ValueError, match=r"got \(3,\) and \(2,\)"):
        Masked.create(jnp.ones(3), jnp.ones(2, bool))
