import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.prune.nm import nm_mask
from jaxcompress.prune.packed_nm import PackedNM

W = np.random.default_rng(0).normal(size=(8, 24, 3)).astype(np.float32)


@jax.jit
def both(leaf):
    return leaf.materialize(), leaf.support()


@pytest.mark.parametrize(("n", "m", "axis"), [(2, 4, 1), (4, 8, 0), (1, 1, 2), (5, 12, -2)])
def test_dense_array_is_the_masked_one(n, m, axis):
    mask = nm_mask(jnp.abs(jnp.asarray(W)), n=n, m=m, axis=axis)
    leaf = PackedNM.create(jnp.asarray(W), mask, n=n, m=m, axis=axis)
    assert (leaf.shape, leaf.dtype, leaf.axis) == (W.shape, np.float32, axis % 3 - 3)
    dense, support = both(leaf)
    np.testing.assert_array_equal(dense, np.where(mask, W, 0))
    np.testing.assert_array_equal(support, mask)
    size = W.size * n // m
    assert leaf.values.size == size
    lines = W.size // W.shape[axis]
    width = max(1, int(np.ceil(np.log2(m))))
    assert leaf.places.size == lines * int(np.ceil(W.shape[axis] * n // m * width / 8))
    assert leaf.stored_bits == 32 * size + 8 * leaf.places.size


def test_layout_is_that_of_ampere():
    """Mishra 2021, figure 3: two values of every four and two-bit indices, the first in the lowest bits."""
    w = jnp.array([[0.0, 5.0, 0.0, 7.0, 1.0, 2.0, 0.0, 0.0]])
    leaf = PackedNM.create(w, w != 0, n=2, m=4, axis=1)
    assert leaf.values.tolist() == [[5.0, 7.0, 1.0, 2.0]]
    assert leaf.places.tolist() == [[0b01_00_11_01]]


def test_groups_that_keep_fewer_are_filled_with_zeros():
    mask = jnp.zeros((4, 2), bool).at[3, 0].set(True)
    leaf = PackedNM.create(jnp.ones((4, 2)), mask, n=2, m=4, axis=0)
    assert leaf.values.tolist() == [[0.0, 0.0], [1.0, 0.0]]
    np.testing.assert_array_equal(both(leaf)[0], mask.astype(jnp.float32))


def test_slices_across_the_groups_stay_compressed_and_others_are_refused():
    w = jnp.asarray(W[0])  # (24, 3)
    leaf = PackedNM.create(w, nm_mask(jnp.abs(w), n=2, m=4, axis=0), n=2, m=4, axis=0)
    taken = leaf.map_axis(1, lambda field, axis: jnp.take(field, jnp.array([2, 0]), axis))
    dense = np.asarray(both(leaf)[0])
    np.testing.assert_array_equal(both(taken)[0], dense[:, [2, 0]])
    assert leaf.map_axis(0, lambda field, axis: field) is None
    assert leaf.axis_positions(0) is None
    one = PackedNM.create(w[:4], nm_mask(w[:4], n=2, m=4, axis=0), n=2, m=4, axis=0)  # a single group: fields of size 1
    assert one.map_axis(0, lambda field, axis: field) is None
    x = jnp.ones((5, 24))
    np.testing.assert_allclose(
        jc.lift(lambda p, x: x[:, 4:12] @ p[4:12])(leaf, x), np.asarray(x)[:, 4:12] @ dense[4:12], rtol=1e-6
    )


def test_values_may_be_quantized_and_clustered():
    tree = jc.prune.nm({"w": jnp.asarray(W[0])}, n=2, m=4, packed=True)
    exact = tree["w"].materialize()
    for inner in (jc.quantize.rtn(tree, bits=8), jc.cluster.kmeans(tree, bits=6)):
        leaf = inner["w"]
        assert leaf.kind == "nm"
        assert leaf.values.kind in ("quantized", "codebook")
        assert leaf.values.shape == (12, 3)
        assert float(jnp.abs(leaf.materialize() - exact).max()) < 0.1
        np.testing.assert_array_equal(leaf.support(), tree["w"].support())


def test_files_round_trip_and_places_are_smaller_than_a_mask(tmp_path):
    w = {"w": jnp.asarray(np.random.default_rng(1).normal(size=(256, 128)), jnp.bfloat16)}
    masked, packed = (jc.prune.nm(w, n=2, m=4, packed=packed) for packed in (False, True))
    sizes = [jc.save(tmp_path / f"{i}.jxc", tree, coder="constriction") for i, tree in enumerate((masked, packed))]
    loaded = jc.load(tmp_path / "1.jxc").params["w"]
    assert (loaded.n, loaded.m, loaded.axis) == (2, 4, -2)
    np.testing.assert_array_equal(loaded.materialize(), masked["w"].materialize())
    # Six of sixteen nibbles: 2.6 bits for four entries, where a mask of halves has a bit for each.
    assert sizes[1] < sizes[0] - 0.2 * 256 * 128 / 8


def test_training_keeps_the_places():
    params = jc.prune.nm({"w": jnp.asarray(W[0])}, n=2, m=4, packed=True)
    trainable, frozen = jc.split_trainable(params)
    x = jnp.asarray(W[1].T)

    def loss(trainable):
        return jnp.square(jc.lift(lambda p, x: x @ p["w"])(jc.merge(trainable, frozen), x)).sum()

    gradient = jax.grad(loss)(trainable)["w"].values
    dense = jax.grad(lambda w: jnp.square(x @ w).sum())(params["w"].materialize())
    np.testing.assert_allclose(
        params["w"].replace(values=gradient).materialize(), jnp.where(params["w"].support(), dense, 0), rtol=1e-5
    )


def test_create_names_what_is_wrong():
    w, mask = jnp.ones((4, 6)), jnp.ones((4, 6), bool)
    with pytest.raises(TypeError, match="mask must be bool"):
        PackedNM.create(w, w, n=2, m=4, axis=0)
    with pytest.raises(ValueError, match=r"got \(4, 6\) and \(4, 5\)"):
        PackedNM.create(w, mask[:, :5], n=2, m=4, axis=0)
    with pytest.raises(ValueError, match=r"1 <= n <= m <= 256, got n=0"):
        PackedNM.create(w, mask, n=0, m=4, axis=0)
    with pytest.raises(ValueError, match="axis must be one of the 2 axes"):
        PackedNM.create(w, mask, n=2, m=4, axis=2)
    with pytest.raises(ValueError, match=r"m=4 does not divide axis 1 of shape \(4, 6\)"):
        PackedNM.create(w, mask, n=2, m=4, axis=1)
    with pytest.raises(ValueError, match="mask keeps 4 of a group of 4, more than n=2"):
        PackedNM.create(w, mask, n=2, m=4, axis=0)
