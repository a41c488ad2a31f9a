"""Whitened SVD, ASVD and FWSVD on trees: what they share, and who is better on correlated data."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.factorize import LowRank, asvd, asvd_factors, fwsvd, svd, whitened_factors, whitened_svd
from jaxcompress.prune import Masked

RNG = np.random.default_rng(0)
WHAT = ("second_moment", "mean_abs")


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def correlated(rows, features):
    """Data along few directions, of features of uneven size."""
    mix = RNG.normal(size=(features, features)) @ np.diag(np.geomspace(1, 0.03, features))
    return jnp.asarray(RNG.normal(size=(rows, features)) @ mix.T * RNG.uniform(0.2, 3, features), jnp.float32)


def linear(params, x):
    return x @ params["w"]


def output_error(w, leaf, x):
    return float(jnp.linalg.norm(x @ (w - leaf.materialize())) / jnp.linalg.norm(x @ w))


def optimum(w, x, rank):
    """What truncating the outputs themselves leaves out, in float64."""
    s = np.linalg.svd(np.asarray(x, np.float64) @ np.asarray(w, np.float64), compute_uv=False)
    return np.sqrt(np.sum(s[rank:] ** 2) / np.sum(s**2))


def test_whitened_beats_asvd_beats_svd_and_is_the_optimum():
    for seed in range(3):
        x, w = correlated(300, 24), normal(24, 20)
        stats = jc.observe(linear, {"w": w}, [x], what=WHAT)
        found = {
            "svd": svd({"w": w}, rank=5),
            "asvd": asvd({"w": w}, stats, rank=5),
            "searched": asvd({"w": w}, stats, rank=5, alpha="search"),
            "whitened": whitened_svd({"w": w}, stats, rank=5, damping=0.0),
            "damped": whitened_svd({"w": w}, stats, rank=5),
        }
        error = {name: output_error(w, tree["w"], x) for name, tree in found.items()}
        assert error["whitened"] < 0.9 * error["asvd"], (seed, error)
        assert error["asvd"] < error["svd"], (seed, error)
        assert error["whitened"] < error["searched"] <= error["asvd"] * 1.0001, (seed, error)
        np.testing.assert_allclose(error["whitened"], optimum(w, x, 5), rtol=1e-4)
        np.testing.assert_allclose(error["damped"], error["whitened"], rtol=1e-3)


def convolutional(params, x):
    numbers = ("NHWC", "HWIO", "NHWC")
    x = jax.lax.conv_general_dilated(x, params["conv"], (1, 1), "SAME", dimension_numbers=numbers)
    x = jax.lax.conv_general_dilated(x, params["oihw"], (1, 1), "SAME", dimension_numbers=("NHWC", "OIHW", "NHWC"))
    x = jnp.einsum("bhwc,cnd->bhwnd", x, params["heads"])
    x = jnp.einsum("bhwnd,ndo->bhwo", x, params["out"])
    x = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w.T), None), x, params["layers"])[0]
    return x @ params["emb"].T + jnp.sum(x @ params["emb"].T, axis=-1, keepdims=True)


@functools.cache
def kernels():
    params = {
        "conv": normal(3, 3, 4, 10),
        "oihw": normal(9, 10, 3, 1),
        "heads": normal(9, 2, 4),
        "out": normal(2, 4, 6),
        "layers": normal(3, 6, 6),
        "emb": normal(14, 6),
    }
    x = normal(2, 5, 5, 4)
    return params, x, jc.observe(convolutional, params, [x], what=WHAT)


def test_kernels_of_any_rank_meet_their_optimum():
    """Convolutions in either layout, heads, scanned layers, a table used twice: error of the outputs of each alone."""
    params, x, stats = kernels()
    thin = whitened_svd(params, stats, rank=2, damping=0.0)
    shapes = {name: (leaf.u.shape, leaf.v.shape) for name, leaf in thin.items()}
    assert shapes == {
        "conv": ((3, 3, 4, 2), (2, 10)),
        "oihw": ((9, 2), (2, 10, 3, 1)),
        "heads": ((9, 2), (2, 2, 4)),
        "out": ((2, 4, 2), (2, 6)),
        "layers": ((3, 6, 2), (3, 2, 6)),
        "emb": ((14, 2), (2, 6)),
    }
    for target in jc.core.targets.find_targets(params, stats, method="test"):
        moment = np.asarray(target.statistic("second_moment"), np.float64)
        own = np.asarray(target.layout.split(target.weight), np.float64)
        left = np.asarray(target.layout.split(thin[target.path].materialize()), np.float64) - own
        for m, w, d in zip(moment, own, left, strict=True):
            values, vectors = np.linalg.eigh(m)
            s = np.linalg.svd(np.sqrt(np.maximum(values, 0))[:, None] * vectors.T @ w, compute_uv=False)
            np.testing.assert_allclose(
                np.trace(d.T @ m @ d), np.sum(s[2:] ** 2), rtol=1e-3, atol=1e-5 * float(np.sum(s**2))
            )
    dense = np.asarray(convolutional(jc.materialize(thin), x))
    np.testing.assert_allclose(jc.lift(convolutional)(thin, x), dense, atol=1e-4 * float(np.abs(dense).max()))


@pytest.mark.parametrize("method", [whitened_svd, asvd, functools.partial(asvd, alpha="search")])
def test_jit_is_eager_and_ranks_do_not_recompile(method, compilations):
    params = {"a": normal(12, 9), "b": normal(12, 9), "c": normal(12, 9)}
    fn = lambda p, x: x @ p["a"] + x @ p["b"] + x @ p["c"]  # noqa: E731
    stats = jc.observe(fn, params, [correlated(60, 12)], what=WHAT)
    eager = method(params, stats, rank={"a": 2, "b": 3})
    assert (eager["a"].rank, eager["b"].rank, eager["c"] is params["c"]) == (2, 3, True)
    before = compilations("_factors")
    method(params, stats, rank={"a": 3, "b": 4})
    assert compilations("_factors") == before
    traced = jax.jit(lambda p: method(p, stats, rank={"a": 2, "b": 3}))(params)
    np.testing.assert_allclose(traced["b"].materialize(), eager["b"].materialize(), atol=1e-4)


def test_rules_judge_the_outputs():
    x, w = correlated(200, 16), normal(16, 16)
    stats = jc.observe(linear, {"w": w}, [x], what=WHAT)
    leaf = whitened_svd({"w": w}, stats, rank=0.9, damping=0.0)["w"]
    assert output_error(w, leaf, x) ** 2 <= 0.1 < optimum(w, x, leaf.rank - 1) ** 2
    assert leaf.rank < svd({"w": w}, rank=jc.factorize.energy(0.7))["w"].rank
    with pytest.raises(ValueError, match=r"whitened_svd: rank 8 saves nothing in 'w': .* break even at rank 8"):
        whitened_svd({"w": w}, stats, rank=8)
    with pytest.raises(TypeError, match="whitened_svd: a rule or a fraction"):
        jax.jit(lambda p: whitened_svd(p, stats, rank=0.9))({"w": w})


def test_masked_values_are_factorized_under_their_mask():
    mask = RNG.random((12, 10)) < 0.7
    params = {"w": Masked.create(normal(12, 10), jnp.asarray(mask))}
    stats = jc.observe(jc.lift(linear), params, [correlated(60, 12)], what=WHAT)
    fisher = {"w": jnp.asarray(RNG.random((12, 10)), jnp.float32)}
    for thin in (
        whitened_svd(params, stats, rank=3),
        asvd(params, stats, rank=3),
        fwsvd(params, rank=3, weights=fisher),
    ):
        assert isinstance(thin["w"], Masked)
        assert isinstance(thin["w"].values, LowRank)
        assert (np.asarray(thin["w"].materialize())[~mask] == 0).all()


def test_sequential_fits_later_layers_to_what_earlier_ones_let_through():
    fn = lambda p, x: jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"]) @ p["c"]  # noqa: E731
    params, x = {"a": normal(16, 16), "b": 0.4 * normal(16, 16), "c": 0.4 * normal(16, 16)}, correlated(400, 16)
    method = functools.partial(whitened_svd, rank=5)
    error = lambda tree: float(jnp.linalg.norm(jc.lift(fn)(tree, x) - fn(params, x)))  # noqa: E731
    at_once = method(params, jc.observe(fn, params, [x], what="second_moment"))
    assert error(jc.sequential(fn, params, [x], method)) < error(at_once) < error(svd(params, rank=5))


def test_dtypes_files_chains_and_explain(tmp_path):
    params = {"w": normal(12, 9).astype(jnp.bfloat16)}
    stats = jc.observe(linear, params, [correlated(40, 12).astype(jnp.bfloat16)], what=WHAT)
    thin = whitened_svd(params, stats, rank=3)
    assert thin["w"].u.dtype == thin["w"].v.dtype == jnp.bfloat16
    norms = [jnp.linalg.norm(f.astype(jnp.float32), axis=axis) for f, axis in ((thin["w"].u, 0), (thin["w"].v, 1))]
    np.testing.assert_allclose(*norms, rtol=0.02)  # bfloat16
    packed = jc.quantize.rtn(thin, bits=8)
    assert (packed["w"].kind, packed["w"].u.kind, packed["w"].v.kind) == ("lowrank", "quantized", "quantized")
    jc.save(tmp_path / "thin.jxc", packed)
    again = jc.load(tmp_path / "thin.jxc").params
    np.testing.assert_array_equal(again["w"].materialize(), packed["w"].materialize())


def test_arrays_alone():
    w, x = normal(2, 10, 8), jnp.stack([correlated(50, 10), correlated(50, 10)])
    moment = jnp.einsum("bnk,bnl->bkl", x, x) / 50
    mapped = jax.vmap(functools.partial(whitened_factors, rank=2))(w, moment)
    for i in range(2):
        u, v = whitened_factors(w[i], moment[i], rank=2)
        np.testing.assert_allclose(u @ v, mapped[0][i] @ mapped[1][i], atol=1e-3)
    u, v = asvd_factors(w, jnp.mean(jnp.abs(x), axis=1), rank=3, alpha=0.0)
    plain = jc.factorize.svd_factors(w, rank=3)
    np.testing.assert_allclose(u @ v, plain[0] @ plain[1], atol=1e-3)


def test_what_cannot_be_done_is_named():
    x, w = correlated(40, 12), normal(12, 9)
    stats = jc.observe(linear, {"w": w}, [x], what="second_moment")
    with pytest.raises(ValueError, match="asvd: stats hold no 'mean_abs'"):
        asvd({"w": w}, stats, rank=2)
    both = jc.observe(linear, {"w": w}, [x], what=WHAT)
    with pytest.raises(ValueError, match="alpha must be a number or 'search', got 'best'"):
        asvd({"w": w}, both, rank=2, alpha="best")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="alpha must not be negative, got -1"):
        asvd({"w": w}, both, rank=2, alpha=-1)
    with pytest.raises(ValueError, match="'w' holds NaN or infinity"):
        whitened_svd({"w": w.at[0, 0].set(jnp.nan)}, stats, rank=2)
    with pytest.raises(ValueError, match="materialize the leaf first"):
        whitened_svd(whitened_svd({"w": w}, stats, rank=2), stats, rank=2)

    def grouped(params, x):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, params["k"], (1, 1), "SAME", feature_group_count=2, dimension_numbers=numbers
        )

    params = {"k": normal(3, 3, 2, 8)}
    of_groups = jc.observe(grouped, params, [normal(1, 4, 4, 4)], what="second_moment")
    with pytest.raises(ValueError, match=r"'k' is the kernel of a convolution of 2 groups"):
        whitened_svd(params, of_groups, rank=2)
