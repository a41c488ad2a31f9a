import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxcompress as jc
from jaxcompress.cluster import Codebook, KMeans, kmeans
from jaxcompress.factorize import LowRank
from jaxcompress.prune import Masked
from jaxcompress.quantize import rtn

RNG = np.random.default_rng(0)


def normal(*shape, dtype=np.float32):
    return jnp.asarray(RNG.normal(size=shape), dtype)


def lowest_inertia(values, levels):
    """Least squared error of any clustering into intervals, by trying all of them (float64)."""
    values = np.sort(np.asarray(values, np.float64).reshape(-1))
    costs = {0: 0.0}
    for _ in range(levels):
        costs = {
            j: min(costs[i] + ((values[i:j] - values[i:j].mean()) ** 2).sum() for i in costs if i < j)
            for j in range(1, values.size + 1)
            if any(i < j for i in costs)
        }
    return costs[values.size]


def test_a_tiny_example_by_hand():
    shared = kmeans({"w": jnp.array([[0.0, 1.0, 10.0], [11.0, 12.0, 0.5]])}, bits=1)["w"]
    np.testing.assert_allclose(shared.codebook, [0.5, 11.0])
    np.testing.assert_array_equal(shared.codes, [[0, 0, 1], [1, 1, 0]])
    assert (shared.codes.dtype, shared.dtype) == (jnp.uint8, jnp.float32)


def test_optimal_start_is_the_exact_optimum_of_a_small_layer():
    w = jnp.asarray(np.random.default_rng(1).normal(size=(5, 6)), jnp.float32)
    shared = kmeans({"w": w}, levels=4, init="optimal")["w"]
    error = np.sum((np.asarray(w, np.float64) - np.asarray(shared.materialize(), np.float64)) ** 2)
    assert error <= (1 + 1e-5) * lowest_inertia(w, 4)  # float32 moments


@pytest.mark.parametrize("init", ["linear", "density", "quantile"])
def test_other_starts_end_no_worse_than_they_began(init):
    w = jnp.asarray(np.random.default_rng(1).normal(size=(6, 6)), jnp.float32)
    start, end = (kmeans({"w": w}, bits=2, init=init, iterations=n)["w"].materialize() for n in (0, 100))
    before, after = (
        np.sum(np.square(np.asarray(w, np.float64) - np.asarray(part, np.float64))) for part in (start, end)
    )
    assert after < before


def test_masked_leaf_clusters_what_is_kept():
    values = jnp.array([[5.0, 0.1, 7.0, 0.2], [0.3, 5.0, 7.0, 0.4]])
    mask = jnp.array([[True, False, True, False], [False, True, True, False]])
    shared = kmeans({"w": Masked.create(values, mask)}, bits=1)["w"]
    assert isinstance(shared, Masked)
    assert isinstance(shared.values, Codebook)
    np.testing.assert_allclose(shared.values.codebook, [5.0, 7.0])  # the zeros have no say
    np.testing.assert_array_equal(shared.values.codes, [[0, 0, 1, 0], [0, 0, 1, 0]])
    np.testing.assert_allclose(shared.materialize(), [[5.0, 0.0, 7.0, 0.0], [0.0, 5.0, 7.0, 0.0]])
    assert shared.stored_bits == 8 + 4 * 1 + 2 * 32  # mask, a code per kept weight, the table


def test_all_masked_out_and_constant_layers_stay_finite():
    nothing = Masked.create(jnp.ones((3, 3)), jnp.zeros((3, 3), bool))
    shared = kmeans({"a": nothing, "b": jnp.full((3, 3), 2.5), "c": jnp.zeros((3, 3))}, bits=2)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.tree.map(jnp.asarray, shared)))
    np.testing.assert_array_equal(shared["a"].materialize(), np.zeros((3, 3)))
    np.testing.assert_array_equal(shared["b"].materialize(), np.full((3, 3), 2.5))
    np.testing.assert_array_equal(shared["c"].materialize(), np.zeros((3, 3)))


def test_keep_zero_holds_a_level_of_exactly_zero():
    w = jnp.where(jnp.asarray(RNG.random((8, 8)) < 0.6), 0.0, normal(8, 8))
    shared = kmeans({"w": w}, bits=2, keep_zero=True)["w"]
    assert shared.levels == 4
    assert float(shared.codebook[0]) == 0.0
    np.testing.assert_array_equal(np.asarray(shared.codes) == 0, np.asarray(w) == 0)


@settings(max_examples=20)
@given(st.integers(1, 2), st.lists(st.sampled_from([-1.5, 0.0, 0.25, 2.0, 1e4]), min_size=6, max_size=6))
def test_few_distinct_values_are_met_and_bits_never_exceeded(bits, values):
    w = np.array(values, np.float32).reshape(2, 3)
    shared = kmeans({"w": jnp.asarray(w)}, bits=bits)["w"]
    assert shared.field_bits("codes") <= bits
    assert np.isfinite(np.asarray(shared.codebook)).all()
    if len(set(values)) <= min(2**bits, 6):
        np.testing.assert_allclose(shared.materialize(), w, rtol=1e-6)  # a mean of equal values may round once


def test_stacked_layers_get_their_own_tables_and_batching_is_the_loop():
    params = {"layers": normal(3, 6, 6)}

    def fn(p, x):
        return jax.lax.scan(lambda x, w: (x @ w, None), x, p["layers"])[0]

    sites = jc.sites(fn, params, jnp.ones((2, 6)))
    shared = kmeans(params, bits=2, sites=sites)
    assert shared["layers"].codebook.shape == (3, 4)
    alone = [kmeans({"w": w}, bits=2)["w"] for w in params["layers"]]
    for ours, theirs in zip(shared["layers"].unstack(), alone, strict=True):
        np.testing.assert_allclose(ours.codebook, theirs.codebook, rtol=1e-6)
        np.testing.assert_array_equal(ours.codes, theirs.codes)
    assert kmeans(params, bits=2)["layers"].codebook.shape == (4,)  # without sites: one layer


def test_jit_is_eager_and_does_not_change_the_input():
    params = {"w": normal(6, 6)}
    before = np.array(params["w"])
    eager = kmeans(params, bits=2)["w"]
    traced = jax.jit(lambda p: kmeans(p, bits=2))(params)["w"]
    np.testing.assert_allclose(traced.codebook, eager.codebook, rtol=1e-6)
    np.testing.assert_array_equal(traced.codes, eager.codes)
    np.testing.assert_array_equal(params["w"], before)


def test_settings_by_glob_leave_the_rest_alone():
    params = {"conv": {"kernel": normal(6, 6)}, "dense": {"kernel": normal(6, 6), "bias": jnp.ones(8)}}
    shared = kmeans(params, bits={"conv/*": 2, "dense/*": 1}, where="**/kernel")
    assert (shared["conv"]["kernel"].levels, shared["dense"]["kernel"].levels) == (4, 2)
    assert shared["dense"]["bias"] is params["dense"]["bias"]
    assert kmeans(params, levels={"conv/*": 4})["dense"]["kernel"] is params["dense"]["kernel"]
    with pytest.raises(ValueError, match=r"glob 'nothing/\*' fits none"):
        kmeans(params, bits={"nothing/*": 4})


def test_codes_are_chosen_for_the_stored_table():
    w = normal(6, 6)
    shared = kmeans({"w": w}, bits=3, codebook_dtype="bfloat16")["w"]
    assert (shared.codebook.dtype, shared.dtype) == (jnp.bfloat16, jnp.float32)
    table = np.asarray(shared.codebook, np.float32)
    nearest = np.abs(np.asarray(w)[..., None] - table).min(-1)
    np.testing.assert_array_equal(np.abs(np.asarray(w) - np.asarray(shared.materialize())), nearest)


def test_low_rank_leaf_gets_a_table_per_factor():
    shared = kmeans({"w": LowRank.create(normal(6, 6), normal(6, 6))}, bits=2)["w"]
    assert isinstance(shared, LowRank)
    assert isinstance(shared.u, Codebook)
    assert isinstance(shared.v, Codebook)


def test_what_cannot_be_clustered_is_named():
    with pytest.raises(ValueError, match="either bits= or levels="):
        kmeans({"w": normal(2, 2)})
    with pytest.raises(ValueError, match="bits must be an integer from 1 to 16, got 0"):
        kmeans({"w": normal(2, 2)}, bits=0)
    with pytest.raises(ValueError, match="init must be"):
        kmeans({"w": normal(2, 2)}, bits=1, init="magic")
    with pytest.raises(ValueError, match="'a/w' holds NaN or infinity"):
        kmeans({"a": {"w": jnp.array([[1.0, np.nan]])}}, bits=1)
    with pytest.raises(TypeError, match="'w' is int32, not float"):
        kmeans({"w": jnp.ones((2, 2), jnp.int32)}, bits=1, where="w")
    with pytest.raises(ValueError, match="'w' is a quantized leaf, coded already"):
        kmeans(rtn({"w": normal(4, 4)}, bits=8), bits=1)
    with pytest.raises(ValueError, match="'w' is a codebook leaf, coded already"):
        kmeans(kmeans({"w": normal(4, 4)}, bits=1), bits=1)


def test_stage_is_the_function():
    params = {"w": normal(6, 6)}
    stage = KMeans(bits=2, init="quantile", codebook_dtype="float16")
    ours, theirs = stage(params)["w"], kmeans(params, bits=2, init="quantile", codebook_dtype="float16")["w"]
    np.testing.assert_array_equal(ours.codebook, theirs.codebook)
    fields = json.loads(json.dumps(dataclasses.asdict(stage)))
    assert KMeans(**fields) == stage
