import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.cluster import Hashed
from jaxcompress.cluster import hashed as method
from jaxcompress.cluster.hashed import bucket_means
from tests.cluster.test_xxhash import reference
from tests.core.kinds import floats_of_shape, served

KEY = jax.random.key(0)


def virtual(values, shape, seed):
    """The definition, entry by entry, in Python integers."""
    out = np.zeros(shape, np.asarray(values).dtype)
    for place in np.ndindex(*shape):
        words = [place[0], int(np.ravel_multi_index(place[1:], shape[1:])) if len(shape) > 1 else 0]
        sign = -1 if reference(words, seed ^ 0x9E3779B9) >> 31 else 1
        out[place] = sign * values[reference(words, seed) % len(values)]
    return out


@pytest.mark.parametrize("shape", [(7,), (5, 6), (2, 3, 4)])
def test_means_what_it_says(shape):
    values = np.arange(1, 6, dtype=np.float32)
    leaf = Hashed.create(jnp.asarray(values), shape, seed=11)
    np.testing.assert_array_equal(leaf.materialize(), virtual(values, shape, 11))


def test_files_stay_readable():
    """Pinned: whoever changes the hash breaks every file that was written."""
    expected = [[2.0, -1.0, -2.0], [2.0, -2.0, 2.0]]
    for wide in (False, True):
        with jax.enable_x64(wide):
            leaf = Hashed.create(jnp.array([1.0, 2.0], jnp.float32), (2, 3))
            np.testing.assert_array_equal(leaf.materialize(), expected)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(sys.modules[Hashed.__module__], "BLOCK", 64)


def test_products_build_one_block_at_a_time(small_blocks):
    leaf = Hashed.init(KEY, (40, 30), buckets=50)
    x = jax.random.normal(KEY, (5, 40))

    def fn(w, x):
        return jnp.tanh(x @ w) @ w.T

    run = jc.lift(fn)
    np.testing.assert_allclose(run(leaf, x), fn(leaf.materialize(), x), rtol=2e-5, atol=2e-5)
    assert served(fn, leaf, x)
    lines = jc.explain(fn, leaf, x)
    assert [line.how.partition("in ")[2] for line in lines] == ["30 blocks of 40", "20 blocks of 60"]
    assert floats_of_shape(run, leaf.shape, leaf, x) == 0

    def loss(leaf, run):
        return jnp.sum(run(leaf, x) ** 2)

    assert floats_of_shape(jax.grad(lambda leaf: loss(leaf, run)), leaf.shape, leaf) == 0
    ours = jax.grad(lambda leaf: loss(leaf, run))(leaf).values
    theirs = jax.grad(lambda leaf: loss(leaf, lambda leaf, x: fn(leaf.materialize(), x)))(leaf).values
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_gradient_of_a_value_is_the_signed_sum_over_its_weights():
    values, shape = np.array([1.0, -2.0, 0.5], np.float32), (4, 5)
    weight = np.random.RandomState(0).standard_normal(shape).astype(np.float32)
    grad = jax.grad(lambda v: jnp.sum(Hashed.create(v, shape, seed=2).materialize() * weight))(jnp.asarray(values))
    expected = [np.sum(virtual(np.eye(3, dtype=np.float32)[k], shape, 2) * weight) for k in range(3)]
    np.testing.assert_allclose(grad, expected, rtol=1e-5)


def test_rows_and_columns_are_hashed_alone():
    leaf = Hashed.init(KEY, (3, 50, 8), buckets=10, stack_ndim=1)
    dense = leaf.materialize()
    ids = jnp.array([[4, 50], [-1, 0]])
    for fn in (lambda w, i: w[1][i], lambda w, i: jnp.take(w[2], i % 8, axis=1), lambda w, i: w[:, i]):
        np.testing.assert_array_equal(jc.lift(fn)(leaf, ids), fn(dense, ids))
        assert served(fn, leaf, ids)
        assert floats_of_shape(jc.lift(fn), dense.shape, leaf, ids) == 0


def test_fit_is_the_least_squares_solution():
    w = np.random.RandomState(1).standard_normal((6, 7)).astype(np.float32)
    weights = np.random.RandomState(2).rand(6, 7).astype(np.float32)
    design = np.stack([virtual(row, w.shape, 5).ravel() for row in np.eye(4, dtype=np.float32)], 1)
    root = np.sqrt(weights.ravel().astype(np.float64))
    expected = np.linalg.lstsq(design * root[:, None], w.ravel() * root, rcond=None)[0]
    found = bucket_means(jnp.asarray(w), buckets=4, seed=5, weights=jnp.asarray(weights))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    # An array that has the structure is met exactly, and buckets that nothing falls into are zero.
    exact = Hashed.create(found, w.shape, seed=5)
    np.testing.assert_allclose(bucket_means(exact.materialize(), buckets=4, seed=5), found, rtol=1e-6)
    assert float(bucket_means(jnp.ones((1, 2)), buckets=100).astype(bool).sum()) <= 2


def test_initialization_keeps_the_variance_of_outputs():
    leaf = Hashed.init(KEY, (400, 300), buckets=3000, scale=2.0)
    y = jax.random.normal(jax.random.key(1), (64, 400)) @ leaf.materialize()
    assert abs(float(y.var()) / 2 - 1) < 0.1  # 3000 values: their variance is known to 2.6 %, times a margin


def test_layers_of_a_stack_have_values_of_their_own():
    params = {"w": jax.random.normal(KEY, (3, 8, 6)), "one": jax.random.normal(KEY, (8, 6))}

    def fn(p, x):
        return jax.lax.scan(lambda c, w: (jnp.tanh(c @ w @ p["one"].T), None), x, p["w"])[0]

    sites = jc.sites(fn, params, jnp.ones((2, 8)))
    out = method(params, compression=4, sites=sites)
    assert out["w"].values.shape == (3, 12)
    for layer in range(3):
        alone = method({"w": params["w"][layer]}, compression=4)["w"]
        np.testing.assert_allclose(out["w"].values[layer], alone.values, rtol=1e-6)


def test_masked_leaves_keep_their_mask_and_are_fitted_where_they_are_kept():
    params = {"w": jax.random.normal(KEY, (12, 12))}
    pruned = jc.prune.magnitude(params, sparsity=0.5)
    out = method(pruned, buckets=9)["w"]
    mask = np.asarray(pruned["w"].mask)
    assert (np.asarray(out.materialize())[~mask] == 0).all()
    expected = bucket_means(params["w"], buckets=9, weights=jnp.asarray(mask))
    np.testing.assert_allclose(out.values.values, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "chain",
    [
        lambda p: jc.quantize.rtn(p),
        lambda p: jc.cluster.kmeans(p, bits=3),
        lambda p: jc.prune.magnitude(p, sparsity=0.5),
    ],
    ids=["rtn", "kmeans", "magnitude"],
)
def test_the_values_go_on_to_other_methods(chain, tmp_path):
    params = {"w": Hashed.init(KEY, (40, 30), buckets=64)}
    out = chain(params)
    assert jc.core.leaf.is_compressed(out["w"].values)
    assert out["w"].stored_bits < params["w"].stored_bits

    def fn(p, x):
        return x @ p["w"]

    x = jax.random.normal(KEY, (5, 40))
    np.testing.assert_allclose(jc.lift(fn)(out, x), fn(jc.materialize(out), x), rtol=1e-5, atol=1e-5)
    jc.save(tmp_path / "m.jxc", out)
    np.testing.assert_array_equal(jc.load(tmp_path / "m.jxc").params["w"].materialize(), out["w"].materialize())


def test_methods_that_need_a_matrix_refuse():
    with pytest.raises(ValueError, match="w/values"):
        jc.factorize.svd({"w": Hashed.init(KEY, (40, 30), buckets=64)}, rank=2)


def test_low_rank_factors_may_be_hashed():
    params = {"w": jax.random.normal(KEY, (40, 30))}
    out = method(jc.factorize.svd(params, rank=4), compression=2)
    assert isinstance(out["w"].u, Hashed)
    x = jax.random.normal(KEY, (5, 40))
    np.testing.assert_allclose(
        jc.lift(lambda p, x: x @ p["w"])(out, x), x @ out["w"].materialize(), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"values": jnp.zeros(3, jnp.int8)}, "float"),
        ({"values": jnp.zeros((3, 0))}, "bucket"),
        ({"core_shape": ()}, "core_shape"),
        ({"seed": -1}, "seed"),
    ],
)
def test_create_checks(change, match):
    with pytest.raises((TypeError, ValueError), match=match):
        Hashed.create(**{"values": jnp.ones(3), "core_shape": (2, 2), **change})


def test_training_from_scratch_learns():
    """A hashed layer with 16 values fits what a hashed teacher of the same hash computes."""
    teacher = Hashed.init(jax.random.key(1), (12, 8), buckets=16)
    x = jax.random.normal(KEY, (64, 12))
    y = x @ teacher.materialize()
    run = jc.lift(lambda w, x: x @ w)
    loss = jax.jit(lambda leaf: jnp.mean((run(leaf, x) - y) ** 2))
    step = jax.jit(lambda leaf: jax.tree.map(lambda v, g: v - 0.2 * g, leaf, jax.grad(loss)(leaf)))
    leaf = Hashed.init(KEY, (12, 8), buckets=16)
    before = float(loss(leaf))
    for _ in range(60):
        leaf = step(leaf)
    assert float(loss(leaf)) < 0.01 * before
