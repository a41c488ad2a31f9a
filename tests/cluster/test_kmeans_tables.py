"""Tables for each layer, channel or group."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.cluster import KMeans, kmeans
from tests.zoo.model import arrays, data

W = arrays(w=(24, 6))["w"]


def error(shared, w, importance=1.0):
    return float(np.sum(importance * np.square(np.asarray(shared.materialize(), np.float64) - np.asarray(w))))


def test_each_channel_is_clustered_alone():
    shared = kmeans({"w": W}, bits=2, granularity="channel")["w"]
    assert shared.codebook.shape == (1, 6, 4)
    for column in range(6):
        alone = kmeans({"w": W[:, column : column + 1]}, bits=2)["w"]
        np.testing.assert_allclose(shared.codebook[0, column], alone.codebook, rtol=1e-6)
        np.testing.assert_array_equal(shared.codes[:, column], alone.codes[:, 0])


@pytest.mark.slow
def test_each_group_is_clustered_alone():
    shared = kmeans({"w": W}, levels=3, granularity="channel", group_size=12)["w"]
    assert shared.codebook.shape == (2, 6, 3)
    alone = kmeans({"w": W[12:, 4:5]}, levels=3)["w"]
    np.testing.assert_allclose(shared.codebook[1, 4], alone.codebook, rtol=1e-6)
    assert error(shared, W) < error(kmeans({"w": W}, levels=3)["w"], W)


def test_output_channels_are_those_of_the_sites():
    """A stacked kernel, used transposed: the channels are rows, and every layer has its own."""
    params = arrays(layers=(3, 6, 24))

    def fn(p, x):
        return jax.lax.scan(lambda x, w: (jnp.tile(x @ w.T, (1, 4)), None), x, p["layers"])[0]

    sites = jc.sites(fn, params, data(2, 24))
    shared = kmeans(params, bits=1, granularity="channel", sites=sites)["layers"]
    assert shared.codebook.shape == (3, 6, 1, 2)
    assert len(shared.unstack()) == 3
    np.testing.assert_allclose(
        jc.lift(fn)({"layers": shared}, data(2, 24)), fn({"layers": shared.materialize()}, data(2, 24)), rtol=1e-5
    )


def test_a_stack_axis_that_does_not_lead_has_tables_too():
    params = arrays(w=(6, 2, 4))
    fn = lambda p, x: jnp.einsum("si,iso->so", x, p["w"])  # noqa: E731
    shared = kmeans(params, bits=1, sites=jc.sites(fn, params, data(2, 6)))["w"]
    assert shared.codebook.shape == (1, 2, 1, 2)
    np.testing.assert_allclose(
        shared.codebook[0, 1, 0], kmeans({"w": params["w"][:, 1]}, bits=1)["w"].codebook, rtol=1e-6
    )


@pytest.mark.slow
def test_masked_channels_keep_their_masks_and_zeros_their_level():
    pruned = jc.prune.magnitude({"w": W}, sparsity=0.5)
    shared = kmeans(pruned, bits=1, granularity="channel")["w"]
    np.testing.assert_array_equal(shared.mask, pruned["w"].mask)
    kept = np.asarray(pruned["w"].mask)[:, 2]
    alone = kmeans({"w": W[:, 2:3][kept]}, bits=1)["w"]
    np.testing.assert_allclose(shared.values.codebook[0, 2], alone.codebook, rtol=1e-6)
    zeros = jc.materialize(pruned)
    held = kmeans(zeros, bits=2, granularity="channel", keep_zero=True)["w"]
    np.testing.assert_array_equal(held.codebook[..., 0], 0)
    np.testing.assert_array_equal(np.asarray(held.materialize()) == 0, np.asarray(zeros["w"]) == 0)


@pytest.mark.slow
def test_weights_lower_the_weighted_error_of_every_channel():
    importance = jnp.asarray(np.random.default_rng(3).exponential(size=W.shape) ** 3, jnp.float32)
    plain, weighted = (
        kmeans({"w": W}, bits=2, granularity="channel", init="optimal", weights=given)["w"]
        for given in (None, {"w": importance})
    )
    of_channels = [np.sum(importance * np.square(leaf.materialize() - W), axis=0) for leaf in (weighted, plain)]
    assert (of_channels[0] <= of_channels[1] * (1 + 1e-5)).all()
    assert error(weighted, W, importance) < 0.7 * error(plain, W, importance)


def test_slices_by_channel_stay_compressed_and_files_hold_it(tmp_path):
    params = {"w": kmeans({"w": W}, bits=2, granularity="channel", group_size=12)["w"]}
    columns = params["w"].map_axis(1, lambda field, axis: jnp.take(field, jnp.array([5, 1]), axis))
    np.testing.assert_array_equal(columns.materialize(), params["w"].materialize()[:, [5, 1]])
    assert params["w"].map_axis(0, lambda field, axis: field) is None  # in groups
    jc.save(tmp_path / "m.jxc", params)
    loaded = jc.load(tmp_path / "m.jxc").params["w"]
    np.testing.assert_array_equal(loaded.materialize(), params["w"].materialize())
    assert loaded.stored_bits == 24 * 6 * 2 + 32 * 2 * 6 * 4


def test_factors_have_channels_of_their_own():
    thin = jc.factorize.svd(arrays(w=(24, 12)), rank=4)
    shared = kmeans(thin, bits=1, granularity="channel")["w"]
    assert (shared.u.codebook.shape, shared.v.codebook.shape) == ((1, 4, 2), (1, 12, 2))
    assert jc.lift(lambda p, x: x @ p["w"])({"w": shared}, data(2, 24)).shape == (2, 12)


def test_what_saves_nothing_is_refused():
    with pytest.raises(ValueError, match=r"tables of 12 levels for 12 weights each save nothing in 'w': .* at 13.71"):
        kmeans({"w": W}, bits=4, granularity="channel", group_size=12)
    with pytest.raises(ValueError, match="granularity must be 'channel' or 'tensor', got 'row'"):
        kmeans({"w": W}, bits=1, granularity="row")
    with pytest.raises(ValueError, match="group_size=5 does not divide"):
        kmeans({"w": W}, bits=1, granularity="channel", group_size=5)
    with pytest.raises(ValueError, match=r"what the axes of 'w' .* mean is not known"):
        kmeans({"w": W.reshape(4, 6, 6)}, bits=1, granularity="channel")


def test_one_program_for_leaves_of_one_shape(compilations):
    params = arrays(a=(24, 6), b=(24, 6))
    KMeans(levels=3, granularity="channel")(params)
    KMeans(levels=3, granularity="channel", iterations=7)(arrays(seed=1, a=(24, 6), b=(24, 6)))
    assert compilations("_cluster") == 1
