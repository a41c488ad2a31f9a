"""Hostile input of weight sharing: magnitudes, no importance, narrow tables, bad settings."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.solvers.scalar_kmeans import scalar_kmeans
from jaxcompress.solvers.units import unit_of

tables: Any = jc.cluster.embeddings  # called with what types forbid, too

W = jax.random.normal(jax.random.key(0), (16, 24))
HUGE, TINY = float(2.0**120), float(2.0**-110)  # powers of two: a result may differ by them and by nothing else


solve = jax.jit(scalar_kmeans, static_argnames=("levels", "init"))


def test_scalar_kmeans_does_not_know_the_magnitude():
    plain = solve(W, levels=4)
    for scale in (HUGE, TINY):
        found = solve(W * scale, levels=4)
        np.testing.assert_array_equal(found.codebook / scale, plain.codebook)
        np.testing.assert_array_equal(found.codes, plain.codes)


def test_what_does_not_count_sets_no_unit():
    counts = jnp.ones(W.shape, bool).at[0].set(False)
    hidden = solve(W.at[0].set(3e38), counts, levels=4)
    plain = solve(W.at[0].set(0.0), counts, levels=4)
    np.testing.assert_array_equal(hidden.codebook, plain.codebook)
    assert (np.asarray(hidden.codes[0]) == 3).all()


def test_a_unit_of_extremes_is_a_power_of_two_and_divides_exactly():
    for value in (3.4e38, 1.2e-38, 1.0, 0.75, 3e-39):
        unit = float(unit_of(jnp.array([value, -value / 2])))
        assert np.frexp(unit)[0] == 0.5
        assert value / unit < 8
    assert float(unit_of(jnp.zeros(3))) == 1


def test_importance_may_be_of_any_magnitude():
    importance = jnp.square(W[::-1])
    plain = jc.cluster.kmeans({"w": W}, bits=2, weights={"w": importance})["w"]
    for scale in (HUGE, 2.0**-60):
        found = jc.cluster.kmeans({"w": W}, bits=2, weights={"w": importance * scale})["w"]
        np.testing.assert_array_equal(found.codebook, plain.codebook)


def test_blocks_of_no_importance_go_to_the_nearest_vector():
    shared = lambda importance: jc.cluster.product(  # noqa: E731
        {"w": W}, block=4, levels=8, weights={"w": importance}
    )["w"]
    half = shared(jnp.ones(W.shape).at[:, :12].set(0.0))
    vectors = np.asarray(half.codebook)[0, 0]
    blocks = np.asarray(W).reshape(4, 4, 24).transpose(0, 2, 1)
    distances = np.square(blocks[:, :, None] - vectors).sum(-1)
    reached = np.take_along_axis(distances, np.asarray(half.codes)[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(reached, distances.min(-1), rtol=1e-4)  # both halves; codes of distances in float32
    # None at all: as if all counted the same.
    np.testing.assert_array_equal(shared(jnp.zeros(W.shape)).codes, shared(jnp.ones(W.shape)).codes)


def test_rows_that_are_never_taken_get_the_nearest_codes():
    table, taken = jnp.concatenate([W, W[:8] + 0.01]), jnp.ones(24).at[16:].set(0.0)
    small = jc.cluster.embeddings.product_codes({"e": table}, runs=2, levels=8, weights={"e": taken})["e"]
    # A row of weight nothing next to one that counts: it takes the same entries.
    np.testing.assert_array_equal(small.codes[16:], small.codes[:8])


@pytest.mark.parametrize("method", ["kmeans", "product"])
def test_tables_of_a_narrow_dtype_stay_finite(method):
    options = {"block": 4} if method == "product" else {}
    run = getattr(jc.cluster, method)
    shared = run({"w": W * 1e6}, levels=8, codebook_dtype="float16", **options)["w"]
    assert shared.codebook.dtype == jnp.float16
    assert np.isfinite(np.asarray(shared.materialize())).all()
    with pytest.raises(TypeError, match="codebook_dtype must be a float dtype, got 'int8'"):
        run({"w": W}, levels=8, codebook_dtype="int8", **options)


def test_weights_in_training_do_not_know_the_magnitude():
    soft = lambda w: jc.cluster.dkm({"w": w}, bits=2)  # noqa: E731
    plain, codes = soft(W)["w"].materialize(), jc.cluster.snap(soft(W))["w"].codes
    for scale in (HUGE, TINY):
        params = soft(W * scale)
        np.testing.assert_array_equal(params["w"].materialize() / scale, plain)
        np.testing.assert_array_equal(jc.cluster.snap(params)["w"].codes, codes)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_looked_up_products_of_narrow_dtypes(dtype):
    leaf = jc.cluster.embeddings.product_codes({"e": W.astype(dtype)}, runs=6, levels=4)["e"]
    x = jnp.ones((2, 24), dtype)
    ours = jc.lift(lambda x, table: x @ table.T)(x, leaf)
    assert ours.dtype == dtype
    dense = np.asarray(leaf.materialize(), np.float64).sum(axis=1)
    np.testing.assert_allclose(np.asarray(ours[0], np.float64), dense, rtol=2.0**-7)  # summed in float32, rounded once


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: jc.cluster.kmeans({"w": W}, bits=2, iterations=-2), "kmeans: iterations must be an integer from 0"),
        (
            lambda: jc.cluster.product({"w": W}, block=4, bits=2, iterations=-1),
            "product: iterations must be an integer",
        ),
        (lambda: jc.cluster.kmeans({"w": W[:0]}, bits=2), r"kmeans: 'w' is empty \(shape \(0, 24\)\)"),
        (lambda: jc.cluster.product({"w": W[:0]}, block=4, bits=2), r"product: 'w' is empty"),
        (
            lambda: jc.cluster.hashed({"w": W}, buckets=9, seed=-1),
            "hashed: seed must be an integer from 0 to 429",
        ),
        (lambda: tables.hash_embedding({"w": W}, buckets=2, hashes=0), "hashes must be an integer from 1, got 0"),
        (lambda: tables.quotient_remainder({"w": W}, rounds=0), "quotient_remainder: rounds must be an integer from 1"),
        (lambda: tables.adaptive_embedding({"w": W}, cutoffs=5), "cutoffs must be a sequence of integers, got 5"),
        (lambda: tables.adaptive_embedding({"w": W}, cutoffs=(4.5,)), "every entry of cutoffs must be an integer"),
        (lambda: tables.subword_embedding({"w": W}, words="a" * 16, buckets=2), "words must be a sequence of strings"),
        (lambda: tables.subword_embedding({"w": W}, words=range(16), buckets=2), "words must be .*, got 0"),
        (lambda: tables.subword_embedding({"w": W}, words=["a"] * 16, buckets=2, ridge=-1.0), "ridge must be finite"),
        (lambda: jc.cluster.dkm({"w": W}), "dkm: give either bits= or levels="),
        (lambda: jc.cluster.snap({"w": W}), "snap: no leaf is a weight that jc.cluster.dkm made train"),
    ],
)
def test_bad_calls_name_method_argument_and_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
