import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from sklearn.datasets import load_digits

import jaxcompress as jc
from jaxcompress.cluster import Product, ProductCodebook, product
from jaxcompress.prune import Masked
from tests.zoo.model import arrays, data, ids

W = arrays(w=(32, 24))["w"]
DIGITS = jnp.asarray(load_digits().data[:400] / 16, jnp.float32)


def squared(leaf, w):
    return float(np.sum(np.square(np.asarray(leaf.materialize(), np.float64) - np.asarray(w))))


def test_few_distinct_patches_are_met_exactly():
    patches = np.random.default_rng(0).normal(size=(4, 3, 3)).astype(np.float32)
    which = np.random.default_rng(1).integers(0, 4, (6, 10))
    kernel = jnp.asarray(np.moveaxis(patches[which], (2, 3), (0, 1)))  # (3, 3, 6, 10)
    fn = lambda p, x: lax.conv_general_dilated(  # noqa: E731
        x, p["w"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    sites = jc.sites(fn, {"w": kernel}, data(1, 4, 4, 6))
    shared = product({"w": kernel}, block=9, bits=2, sites=sites)["w"]
    assert (shared.codes.shape, shared.codebook.shape, shared.block) == (
        (1, 1, 6, 10),
        (1, 1, 1, 1, 4, 9),
        (3, 3, 1, 1),
    )
    np.testing.assert_allclose(shared.materialize(), kernel, atol=1e-5)
    assert shared.stored_bits == 60 * 2 + 4 * 9 * 32


@pytest.mark.slow
def test_activations_choose_better_vectors_for_the_outputs():
    """Real images, whose pixels are far from independent: the error of the outputs, on images not observed."""
    fn = lambda p, x: x @ p["w"]  # noqa: E731
    params = arrays(w=(64, 32))
    seen, new = DIGITS[:200], DIGITS[200:]
    stats = jc.observe(fn, params, [seen])
    error = {}
    for name, given in {"plain": None, "weighted": stats}.items():
        shared = product(params, given, block=4, levels=8)
        error[name] = float(jnp.linalg.norm(jc.lift(fn)(shared, new) - fn(params, new)))
    assert error["weighted"] < 0.85 * error["plain"]


@pytest.mark.slow
def test_sensitivities_lower_the_weighted_error():
    importance = jnp.asarray(np.random.default_rng(3).exponential(size=W.shape) ** 3, jnp.float32)
    leaves = [product({"w": W}, block=4, levels=8, weights=given)["w"] for given in (None, {"w": importance})]
    plain, weighted = (float(jnp.sum(importance * jnp.square(leaf.materialize() - W))) for leaf in leaves)
    assert weighted < 0.7 * plain


@pytest.mark.slow
def test_masks_stay_and_only_what_is_kept_counts():
    pruned = jc.prune.magnitude({"w": W}, sparsity=0.6)
    fn = lambda p, x: x @ p["w"]  # noqa: E731
    stats = jc.observe(jc.lift(fn), pruned, [data(50, 32)])
    dense = pruned["w"].materialize()
    blind = jnp.where(pruned["w"].mask, product({"w": dense}, block=4, levels=8)["w"].materialize(), 0)
    for given in (None, stats):
        shared = product(pruned, given, block=4, levels=8)["w"]
        assert isinstance(shared, Masked)
        assert isinstance(shared.values, ProductCodebook)
        np.testing.assert_array_equal(shared.mask, pruned["w"].mask)
        assert squared(shared, dense) < 0.8 * float(jnp.sum(jnp.square(blind - dense)))


@pytest.mark.slow
def test_rows_of_an_embedding_become_codes():
    params = arrays(table=(60, 8))
    fn = lambda p, i: p["table"][i]  # noqa: E731
    ids_ = ids(3, 4, below=60)
    shared = product(params, block=4, levels=8, sites=jc.sites(fn, params, ids_))
    assert shared["table"].codes.shape == (60, 2)
    np.testing.assert_array_equal(jc.lift(fn)(shared, ids_), shared["table"].materialize()[ids_])
    own = product(params, block=4, levels=8, along="outputs", tables="position")["table"]
    assert own.codebook.shape == (1, 2, 8, 4)
    for place in range(2):
        half = params["table"][:, 4 * place : 4 * place + 4]
        means = [half[np.asarray(own.codes[:, place]) == k].mean(0) for k in range(8)]
        np.testing.assert_allclose(own.codebook[0, place], means, atol=1e-5)


@pytest.mark.slow
def test_a_table_for_every_position_fits_better():
    shared, own = (product({"w": W}, block=4, levels=8, tables=tables)["w"] for tables in ("layer", "position"))
    assert own.codebook.shape == (8, 1, 8, 4)
    assert squared(own, W) < squared(shared, W)


@pytest.mark.slow
def test_layers_of_a_stack_have_their_own_tables_and_moments():
    params = arrays(layers=(2, 16, 16))
    fn = lambda p, x: lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, p["layers"])[0]  # noqa: E731
    stats = jc.observe(fn, params, [data(40, 16)])
    shared = product(params, stats, block=2, levels=8)
    assert shared["layers"].codebook.shape == (2, 1, 1, 8, 2)
    assert len(shared["layers"].unstack()) == 2
    assert not jc.explain(fn, shared, data(2, 16)).materialized or jc.lift(fn)(shared, data(2, 16)).shape == (2, 16)
    later = jc.sequential(fn, params, [data(40, 16)], lambda p, s: product(p, s, block=2, levels=8))
    x = data(40, 16, seed=9)
    assert float(jnp.linalg.norm(jc.lift(fn)(later, x) - fn(params, x))) < float(jnp.linalg.norm(fn(params, x)))


@pytest.mark.slow
def test_factors_files_and_narrow_tables(tmp_path):
    thin = jc.factorize.svd({"w": W}, rank=8)
    shared = product(thin, block=4, levels=6, codebook_dtype="float16")["w"]
    assert (shared.u.codes.shape, shared.v.codes.shape) == ((8, 8), (2, 24))
    jc.save(tmp_path / "m.jxc", {"w": shared})
    loaded = jc.load(tmp_path / "m.jxc").params["w"]
    np.testing.assert_array_equal(loaded.materialize(), shared.materialize())
    assert (shared.u.codebook.dtype, shared.u.dtype) == (jnp.float16, jnp.float32)


def test_codewords_train_by_the_sums_of_their_blocks():
    params = product({"w": W}, block=4, levels=8)
    x, target = data(64, 32), data(64, 32) @ W
    trainable, frozen = jc.split_trainable(params)
    loss = lambda t: jnp.mean((jc.lift(lambda p, x: x @ p["w"])(jc.merge(t, frozen), x) - target) ** 2)  # noqa: E731
    gradient = jax.grad(loss)(trainable)["w"].codebook[0, 0]
    dense = np.asarray(2 * x.T @ (x @ params["w"].materialize() - target) / target.size, np.float64)
    summed, codes = np.zeros((8, 4)), np.asarray(params["w"].codes)
    for i, j in np.ndindex(codes.shape):
        summed[codes[i, j]] += dense[4 * i : 4 * i + 4, j]
    np.testing.assert_allclose(gradient, summed, atol=1e-4)
    step = jax.tree.map(lambda p, g: p - 0.3 * g, trainable, jax.grad(loss)(trainable))
    assert loss(step) < loss(trainable)


def test_jit_is_eager_keys_count_and_programs_are_shared(compilations):
    params = {"a": W, "b": W + 1}
    eager = product(params, block=4, levels=8, key=3)
    seen = compilations("_fit")
    assert seen <= 1  # another test may have compiled it
    assert (np.asarray(eager["a"].codes) != np.asarray(product(params, block=4, levels=8, key=4)["a"].codes)).any()
    alone = product(params, block=4, levels=8, key=jax.random.key(3), where="a", iterations=50)["a"]
    np.testing.assert_array_equal(alone.codes, eager["a"].codes)
    assert compilations("_fit") == seen
    traced = jax.jit(lambda p: product(p, block=4, levels=8, key=3))(params)["a"]
    np.testing.assert_allclose(traced.materialize(), eager["a"].materialize(), atol=1e-5)


def test_stage_is_the_function():
    stage = Product(block={"w": 4}, levels={"w": 8}, key=3)
    np.testing.assert_array_equal(stage({"w": W})["w"].codes, product({"w": W}, block=4, levels=8, key=3)["w"].codes)
    assert Product(**json.loads(json.dumps(dataclasses.asdict(stage)))) == stage


def test_what_does_not_work_is_named():
    with pytest.raises(ValueError, match="either bits= or levels="):
        product({"w": W}, block=4)
    with pytest.raises(ValueError, match="bits must be an integer from 1 to 16, got 17 for 'w'"):
        product({"w": W}, block=4, bits=17)
    with pytest.raises(ValueError, match="along must be"):
        product({"w": W}, block=4, bits=2, along="rows")
    with pytest.raises(ValueError, match=r"no glob of block=.* fits 'w'"):
        product({"w": W}, block={"v": 4}, bits=2)
    with pytest.raises(
        ValueError, match=r"192 vectors of 4 in 1 tables save nothing in 'w' \(192 blocks\): at most 179"
    ):
        product({"w": W}, block=4, bits=8)
    with pytest.raises(ValueError, match="either stats= or weights="):
        product({"w": W}, jc.observe(lambda p, x: x @ p["w"], {"w": W}, [data(2, 32)]), block=4, bits=2, weights={})
    with pytest.raises(ValueError, match="'w' holds NaN or infinity"):
        product({"w": W.at[0, 0].set(jnp.nan)}, block=4, bits=2)
    with pytest.raises(ValueError, match=r"what the axes of 'w' .* is not known"):
        product({"w": W.reshape(4, 8, 24)}, block=4, bits=2)
