import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import jaxcompress as jc
from jaxcompress.cluster import Codebook

CODES = np.array([[[0, 2, 1], [2, 2, 0]], [[1, 1, 0], [0, 2, 2]]], np.uint8)  # two layers of 2 x 3
TABLES = np.array([[-1.0, 0.5, 3.0], [0.0, 10.0, -7.0]], np.float32)
DENSE = np.array([[[-1.0, 3.0, 0.5], [3.0, 3.0, -1.0]], [[10.0, 10.0, 0.0], [0.0, -7.0, -7.0]]], np.float32)


def stacked():
    return Codebook.create(jnp.asarray(CODES), jnp.asarray(TABLES))


def test_each_layer_looks_up_its_own_table():
    leaf = stacked()
    np.testing.assert_array_equal(leaf.materialize(), DENSE)
    np.testing.assert_array_equal(jax.jit(lambda leaf: leaf.materialize())(leaf), DENSE)
    np.testing.assert_array_equal(jax.vmap(lambda layer: layer.materialize())(leaf), DENSE)
    for layer, dense in zip(leaf.unstack(), DENSE, strict=True):
        np.testing.assert_array_equal(layer.materialize(), dense)


def test_taking_entries_takes_codes_and_with_the_stack_the_tables():
    leaf = stacked()
    picked = leaf.map_axis(0, lambda field, axis: jnp.take(field, jnp.array([1]), axis))
    assert picked.codebook.shape == (1, 3)
    np.testing.assert_array_equal(picked.materialize(), DENSE[[1]])
    columns = leaf.map_axis(2, lambda field, axis: jnp.take(field, jnp.array([2, 0]), axis))
    np.testing.assert_array_equal(columns.materialize(), DENSE[:, :, [2, 0]])


@pytest.mark.parametrize(("levels", "bits"), [(1, 0), (2, 1), (3, 2), (4, 2), (17, 5), (32, 5), (256, 8)])
def test_codes_take_as_many_bits_as_the_levels_need(levels, bits):
    leaf = Codebook.create(jnp.zeros((4, 5), jnp.uint8), jnp.ones(levels))
    assert leaf.field_bits("codes") == bits
    assert leaf.stored_bits == 20 * bits + 32 * levels


def test_table_may_be_narrower_than_the_array():
    leaf = Codebook.create(jnp.array([0, 1], jnp.uint8), jnp.array([1.5, -2.0], jnp.bfloat16), jnp.float32)
    assert (leaf.dtype, leaf.materialize().dtype, leaf.stored_bits) == (jnp.float32, jnp.float32, 2 + 32)
    assert leaf.astype(jnp.float16).materialize().dtype == jnp.float16


def test_only_the_table_trains():
    trainable, frozen = jc.split_trainable({"w": stacked()})
    assert trainable["w"].codes is None
    assert frozen["w"].codebook is None
    np.testing.assert_array_equal(jc.merge(trainable, frozen)["w"].materialize(), DENSE)


def test_lowers_for_every_platform_and_comes_back():
    exported = export.export(jax.jit(lambda leaf: leaf.materialize()), platforms=("cpu", "cuda", "tpu"))(stacked())
    back = export.deserialize(exported.serialize())
    np.testing.assert_array_equal(back.call(stacked()), DENSE)


def test_create_names_what_is_wrong():
    table = jnp.ones(4)
    with pytest.raises(TypeError, match="codes must be uint8 or uint16, got int32"):
        Codebook.create(jnp.zeros(3, jnp.int32), table)
    with pytest.raises(TypeError, match="codebook must be float, got int32"):
        Codebook.create(jnp.zeros(3, jnp.uint8), jnp.arange(4))
    with pytest.raises(ValueError, match=r"got \(2, 4\) for codes of shape \(3,\)"):
        Codebook.create(jnp.zeros(3, jnp.uint8), jnp.ones((2, 4)))
    with pytest.raises(ValueError, match="below the 4 levels, got 4"):
        Codebook.create(jnp.array([0, 4], jnp.uint8), table)
    with pytest.raises(ValueError, match="uint8 codes cannot number the 300 levels"):
        Codebook.create(jnp.zeros(3, jnp.uint8), jnp.ones(300))
