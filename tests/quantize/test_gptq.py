"""GPTQ against the paper's algorithm in NumPy float64, with one exact inverse per feature."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.core.targets import find_targets
from jaxcompress.prune import Masked
from jaxcompress.quantize import FixedTable, Quantized, gptq, rtn
from jaxcompress.quantize.gptq import _solve, plan_of
from jaxcompress.quantize.spec import Spec

F, R, DAMPING = 12, 6, 0.01


def problem(seed=0, features=F, outputs=R, rows=80):
    """A weight, correlated data of uneven size, and what `observe` finds."""
    random = np.random.default_rng(seed)
    mix = np.eye(features) + 0.5 * random.normal(size=(features, features))
    x = (random.normal(size=(rows, features)) @ mix * random.uniform(0.3, 2, features)).astype(np.float32)
    w = random.normal(size=(features, outputs)).astype(np.float32)
    return w, x


@functools.cache
def observed(seed=0, **sizes):
    w, x = problem(seed, **sizes)
    params = {"w": jnp.asarray(w)}
    return params, jc.observe(lambda p, x: x @ p["w"], params, [jnp.asarray(x)], what="second_moment")


def reference(w, x, *, bits, order, scale=None, group=None):
    """Frantar et al., algorithm 1, unblocked; groups find their scales as they are entered."""
    v, s = w.astype(np.float64), x.T.astype(np.float64) @ x / len(x)
    h = s + DAMPING * np.mean(np.diag(s)) * np.eye(len(s))
    top = 2 ** (bits - 1) - 1
    left = list(order)
    for place, i in enumerate(order):
        if group is not None and place % group == 0:
            scale = np.abs(v[order[place : place + group]]).max(0) / top
        inverse = np.linalg.inv(h[np.ix_(left, left)])
        q = np.clip(np.round(v[i] / scale), -top, top) * scale
        error = (v[i] - q) / inverse[0, 0]
        v[left] -= inverse[:, :1] * error[None]
        v[i] = q
        left.remove(i)
    return v


def output_error(w, q, x):
    return np.sum(np.square(x.astype(np.float64) @ (np.float64(w) - np.float64(q))))


def of(params, stats, **options):
    return gptq(params, stats, **options)["w"]


@pytest.mark.parametrize(("act_order", "block_size"), [(False, 128), (True, 5)])
def test_the_algorithm_of_the_paper(act_order, block_size):
    (w, x), (params, stats) = problem(), observed()
    order = np.argsort(-np.sum(np.square(x), 0), kind="stable") if act_order else np.arange(F)
    want = reference(w, x, bits=4, order=order, scale=np.abs(w).max(0) / 7)
    got = of(params, stats, bits=4, ranges="absmax", act_order=act_order, block_size=block_size)
    assert isinstance(got, Quantized)
    np.testing.assert_allclose(got.scale, np.abs(w).max(0, keepdims=True) / 7, rtol=1e-6)
    # Codes are decided in float32: a near tie may fall to the other side, and then what follows in that column differs.
    same = np.isclose(got.materialize(), want, atol=1e-4).all(0)
    assert same.mean() >= 0.8
    assert output_error(w, got.materialize(), x) < 1.05 * output_error(w, want, x)


def test_groups_get_their_scales_as_the_sweep_enters_them():
    (w, x), (params, stats) = problem(1), observed(1)
    want = reference(w, x, bits=4, order=np.arange(F), group=4)
    got = of(params, stats, bits=4, ranges="absmax", act_order=False, group_size=4)
    assert got.scale.shape == (3, R)
    static = np.abs(w.reshape(3, 4, R)).max(1) / 7
    np.testing.assert_allclose(got.scale[0], static[0], rtol=1e-6)
    assert (np.abs(got.scale[1:] - static[1:]) > 1e-3).any()
    assert np.isclose(got.materialize(), want, atol=1e-3).all(0).mean() >= 0.8
    ordered = of(params, stats, bits=4, ranges="absmax", group_size=4)
    np.testing.assert_allclose(ordered.scale, static, rtol=1e-6)  # with act-order they are static


@pytest.mark.slow
def test_each_means_lowers_the_output_error():
    """Over five problems: rounding to nearest, the sweep, its order, weighted clips, descent after it."""
    errors = {name: 0.0 for name in ("rtn", "plain", "ordered", "clipped", "refined")}
    for seed in range(2, 7):
        sizes = {"features": 24, "outputs": 32, "rows": 200}
        (w, x), (params, stats) = problem(seed, **sizes), observed(seed, **sizes)
        found = {
            "rtn": rtn(params, bits=3)["w"],
            "plain": of(params, stats, bits=3, ranges="absmax", act_order=False),
            "ordered": of(params, stats, bits=3, ranges="absmax"),
            "clipped": of(params, stats, bits=3),
            "refined": of(params, stats, bits=3, refine=3),
        }
        for name, leaf in found.items():
            errors[name] += output_error(w, leaf.materialize(), x)
    assert errors["plain"] < 0.6 * errors["rtn"]
    assert errors["ordered"] < 0.95 * errors["plain"]
    assert errors["clipped"] < 0.95 * errors["ordered"]
    assert errors["refined"] < 0.9 * errors["clipped"]


@pytest.mark.parametrize(
    "options",
    [
        {"symmetric": False},
        {"bits": 2},
        {"bits": 3, "format": "levels", "ranges": "kmeans"},
        {"bits": None, "format": "nf4", "group_size": 6},
        {"bits": None, "format": "fp4", "ranges": "absmax"},
    ],
    ids=lambda options: options.get("format", "int"),
)
def test_every_format_beats_rounding_to_nearest(options):
    (w, x), (params, stats) = problem(7), observed(7)
    leaf = of(params, stats, **options)
    kinds = {"levels": jc.quantize.Tabled, "nf4": FixedTable}
    assert isinstance(leaf, kinds.get(options.get("format", "int"), Quantized))
    plain = rtn(params, **{"bits": 4, "ranges": "mse"} | options)["w"]
    assert output_error(w, leaf.materialize(), x) < 0.8 * output_error(w, plain.materialize(), x)
    better = of(params, stats, **options, refine=2)
    assert output_error(w, better.materialize(), x) < 1.001 * output_error(w, leaf.materialize(), x)


def test_what_is_pruned_stays_zero_and_the_rest_makes_up_for_it():
    (w, x), (_, stats) = problem(8), observed(8)
    mask = np.random.default_rng(0).random(w.shape) < 0.6
    params = {"w": Masked.create(jnp.asarray(w * mask), jnp.asarray(mask))}
    for options in ({"refine": 2}, {"bits": 2, "format": "levels", "ranges": "kmeans", "refine": 1}):
        leaf = of(params, stats, **options)
        assert isinstance(leaf, Masked)
        np.testing.assert_array_equal(leaf.mask, mask)
        assert (np.asarray(leaf.materialize())[~mask] == 0).all()
        plain = rtn(params, **{"bits": 4} | {k: v for k, v in options.items() if k != "refine"})["w"]
        assert output_error(w * mask, leaf.materialize(), x) < output_error(w * mask, plain.materialize(), x)


def test_damping_is_raised_where_it_is_needed():
    """Fewer rows than features and hardly any damping: not positive definite in float32, until it is raised."""
    w, x = problem(9, features=64, outputs=4, rows=8)
    params = {"w": jnp.asarray(w)}
    stats = jc.observe(lambda p, x: x @ p["w"], params, [jnp.asarray(100 * x)], what="second_moment")
    leaf = of(params, stats, damping=1e-9)
    assert np.isfinite(leaf.materialize()).all()
    assert output_error(w, leaf.materialize(), x) < output_error(w, rtn(params, bits=4)["w"].materialize(), x)
    entry = stats["w"][0]
    indefinite = jc.core.observe.Observations(
        [jc.core.observe.dataclasses.replace(entry, values={"second_moment": -jnp.eye(64) + 2 * jnp.ones((64, 64))})]
    )
    with pytest.raises(ValueError, match=r"'w' is not positive definite.*damping"):
        of(params, indefinite, damping=1e-9)


def model(params, x):
    """A grouped convolution, one with the output axis first, a scanned stack, a kernel of three axes, a tied table."""
    numbers = ("NHWC", "HWIO", "NHWC")
    x = jax.lax.conv_general_dilated(
        x, params["grouped"], (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=2
    )
    numbers = ("NHWC", "OIHW", "NHWC")
    x = jnp.tanh(jax.lax.conv_general_dilated(x, params["outer"], (1, 1), "SAME", dimension_numbers=numbers))
    x = jnp.einsum("bhwc,ndc->bhwnd", x, params["heads"]).reshape(*x.shape[:-1], -1)
    x, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params["stack"])
    return (x + params["table"][:4][None, None]) @ params["table"].T


@pytest.mark.parametrize(
    "options",
    [
        {"group_size": 4, "act_order": False},
        pytest.param({"group_size": 2}, marks=pytest.mark.slow),
        pytest.param({"granularity": "tensor"}, marks=pytest.mark.slow),
    ],
)
def test_kernels_of_every_shape(options):
    random = np.random.default_rng(10)
    shapes = {"grouped": (3, 3, 4, 8), "outer": (8, 8, 2, 2), "heads": (2, 4, 8), "stack": (3, 8, 8), "table": (10, 8)}
    params = {name: jnp.asarray(random.normal(size=shape) / 3, jnp.float32) for name, shape in shapes.items()}
    x = np.cumsum(np.cumsum(random.normal(size=(16, 4, 4, 8)), 1), 2) @ (np.eye(8) + random.normal(size=(8, 8)) / 2)
    x = jnp.asarray(x / 4, jnp.float32)  # neighbours and channels are correlated
    stats = jc.observe(model, params, [x], what="second_moment")
    sites = jc.sites(model, params, x)
    quantized, plain = gptq(params, stats, **options), rtn(params, bits=4, sites=sites, **_of_rtn(options))
    for target in find_targets(params, stats, method="test"):
        leaf, rounded = quantized[target.path], plain[target.path]
        assert leaf.scale.shape == rounded.scale.shape, target.path
        off = [target.layout.split(target.weight - each.materialize()) for each in (leaf, rounded)]
        errors = [np.einsum("bfo,bfg,bgo->", d, target.statistic("second_moment"), d) for d in off]
        assert errors[0] < errors[1], target.path
    np.testing.assert_allclose(jc.lift(model)(quantized, x), model(jc.materialize(quantized), x), rtol=2e-4, atol=2e-5)


def _of_rtn(options):
    return {name: value for name, value in options.items() if name != "act_order"} | {"ranges": "mse"}


def test_one_program_for_equal_shapes_and_none_anew(compilations):
    random = np.random.default_rng(11)
    params = {name: jnp.asarray(random.normal(size=(6, 6)), jnp.float32) for name in "ab"}
    stats = jc.observe(lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"], params, [jnp.ones((4, 6)), -2 * jnp.ones((4, 6))])
    first = gptq(params, stats)
    assert compilations("_solve") == 1
    second = gptq(params, stats, damping=0.05, refine=0)
    assert compilations("_solve") == 1
    assert jax.tree.structure(first) == jax.tree.structure(second)


def test_widths_by_glob_and_bad_options():
    params, stats = observed()
    assert gptq(params, stats, bits={"w": 3})["w"].bits == 3
    with pytest.raises(ValueError, match="block_size must be 1 or more, got 0"):
        gptq(params, stats, block_size=0)
    with pytest.raises(ValueError, match="gptq: bits must be an integer from 1 to 8, got 9"):
        gptq(params, stats, bits=9)
    with pytest.raises(ValueError, match="gptq: group_size=5"):
        gptq(params, stats, group_size=5)
    with pytest.raises(ValueError, match="ranges"):
        gptq(params, stats, ranges="widest")
    with pytest.raises(ValueError, match=r"'w' holds NaN"):
        gptq({"w": params["w"].at[0, 0].set(jnp.nan)}, stats)


def test_lowers_for_every_platform():
    params, stats = observed()
    target = find_targets(params, stats, method="gptq")[0]
    plan = plan_of(target, Spec(4, ranges="mse"), act_order=True, block_size=4, descends=True)
    arguments = (params["w"], jnp.ones((F, R), bool), target.statistic("second_moment"), 0.01, 1)
    run = jax.jit(lambda *a: _solve(*a, plan=plan)[0])
    assert jax.export.export(run, platforms=("cpu", "cuda", "tpu"))(*arguments).platforms == ("cpu", "cuda", "tpu")
