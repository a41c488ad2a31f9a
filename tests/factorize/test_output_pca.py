"""What folds statistics of inputs and outputs into kernels: against NumPy, each other, and the naive SVD."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.datasets

import jaxcompress as jc
from jaxcompress.factorize import (
    LowRank,
    drone,
    drone_factors,
    energy,
    input_pca,
    output_factors,
    output_pca,
    svd,
    whitened_svd,
)
from jaxcompress.prune import Masked
from jaxcompress.quantize import rtn

RNG = np.random.default_rng(0)
METHODS = {"output_pca": output_pca, "input_pca": input_pca, "drone": drone, "output_factors": output_factors}


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def correlated(rows, features):
    """Inputs away from zero, of a spectrum over two decades."""
    turn, _ = np.linalg.qr(RNG.normal(size=(features, features)))
    scales = 2.0 ** -np.linspace(0, 7, features)
    return jnp.asarray(1 + (RNG.normal(size=(rows, features)) * scales) @ turn, jnp.float32)


def dense(params, x):
    return x @ params["kernel"] + params["bias"][None]


def problem(features=12, outputs=10, rows=200):
    params = {"kernel": normal(features, outputs), "bias": normal(outputs)}
    x = correlated(rows, features)
    return params, x, jc.observe(dense, params, [x])


def error(params, changed, x):
    return float(jnp.mean((jc.lift(dense)(changed, x) - dense(params, x)) ** 2))


def test_output_pca_is_numpy_s_pca_of_the_outputs():
    params, x, stats = problem()
    y = np.asarray(dense(params, x), np.float64)
    _, vectors = np.linalg.eigh(np.cov(y.T))
    top = vectors[:, -3:]
    expected = (y - y.mean(0)) @ top @ top.T + y.mean(0)
    found = output_pca(params, stats, rank=3)
    assert isinstance(found["kernel"], LowRank)
    np.testing.assert_allclose(jc.lift(dense)(found, x), expected, atol=1e-3)


@pytest.mark.parametrize("outputs", [10, 16])  # fewer and more than inputs: two ways to the same directions
def test_errors_fall_from_svd_over_the_uncentred_optimum_to_the_one_with_a_bias(outputs):
    params, x, stats = problem(outputs=outputs)
    plain = error(params, svd(params, rank=3, where="kernel"), x)
    uncentred = error(params, whitened_svd(params, stats, rank=3, damping=0.0), x)
    centred = error(params, output_pca(params, stats, rank=3), x)
    inputs = error(params, input_pca(params, stats, rank=3), x)
    assert centred < 0.9 * uncentred < 0.09 * plain
    assert centred <= inputs < 0.2 * plain
    # No rank-3 kernel with any bias does better: what is left are the variances beyond the third.
    left = np.linalg.eigvalsh(np.cov(np.asarray(dense(params, x), np.float64).T, bias=True))[:-3].sum()
    np.testing.assert_allclose(centred, left / outputs, rtol=1e-3)


def test_on_trained_weights_and_images_held_out_the_clever_beats_the_naive():
    """A network that has learned 64-pixel digits (scikit-learn's), judged on the outputs for images it has not seen."""
    digits = sklearn.datasets.load_digits()
    x, labels = jnp.asarray(digits.data / 16, jnp.float32), jnp.asarray(digits.target)
    start = {"kernel": 0.2 * normal(64, 48), "bias": jnp.zeros(48), "out": 0.2 * normal(48, 10)}

    def loss(params):
        logits = jnp.tanh(dense(params, x[:900])) @ params["out"]
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:900, None], 1))

    descend = lambda _, params: jax.tree.map(lambda p, g: p - 0.5 * g, params, jax.grad(loss)(params))  # noqa: E731
    params = jax.jit(lambda params: jax.lax.fori_loop(0, 150, descend, params))(start)
    stats = jc.observe(dense, params, [x[:900]])
    trees = {name: method(params, stats, rank=8) for name, method in METHODS.items()}
    errors = {name: error(params, tree, x[900:]) for name, tree in trees.items()}
    plain = error(params, svd(params, rank=8, where="kernel"), x[900:])
    assert errors["output_pca"] < errors["drone"] < 0.5 * plain
    assert errors["output_pca"] < errors["input_pca"] < 0.8 * plain
    assert errors["output_factors"] < 0.5 * plain


def test_drone_is_whitened_svd_and_forgets_what_data_never_took():
    params, x, stats = problem()
    ours, theirs = drone(params, stats, rank=3), whitened_svd(params, stats, rank=3, damping=0.0)
    np.testing.assert_allclose(ours["kernel"].materialize(), theirs["kernel"].materialize(), atol=5e-3)
    flat = x.at[:, 4].set(0.0)
    stats = jc.observe(dense, params, [flat])
    ours, theirs = drone(params, stats, rank=3), whitened_svd(params, stats, rank=3, damping=0.0)
    np.testing.assert_allclose(error(params, ours, flat), error(params, theirs, flat), rtol=1e-3)
    assert jnp.abs(ours["kernel"].materialize()[4]).max() < 1e-4
    assert jnp.abs(theirs["kernel"].materialize()[4]).max() > 0.1


def test_drone_factors_are_the_closed_form_in_float64_and_exact_at_full_rank():
    w, x = np.asarray(normal(7, 5), np.float64), np.asarray(correlated(40, 7), np.float64)
    lower = np.linalg.cholesky(x.T @ x / 40)
    u, s, vt = np.linalg.svd(lower.T @ w, full_matrices=False)
    expected = np.linalg.inv(lower.T) @ (u[:, :2] * s[:2]) @ vt[:2]
    found = jnp.matmul(*drone_factors(jnp.asarray(w, jnp.float32), jnp.asarray(x.T @ x / 40, jnp.float32), rank=2))
    np.testing.assert_allclose(x @ found, x @ expected, atol=2e-3)
    whole = jnp.matmul(*drone_factors(jnp.asarray(w, jnp.float32), jnp.asarray(x.T @ x / 40, jnp.float32), rank=5))
    np.testing.assert_allclose(whole, w, atol=2e-3)


def test_outputs_of_low_rank_from_a_kernel_of_full_rank_lose_nothing():
    """The title of the AFM paper: four directions of data through a kernel of rank ten."""
    params = {"kernel": normal(12, 10), "bias": normal(10)}
    x = normal(60, 4) @ normal(4, 12) + 2
    stats = jc.observe(dense, params, [x])
    for method in (output_pca, input_pca):
        assert error(params, method(params, stats, rank=4), x) < 1e-6
    assert output_pca(params, stats, rank=0.9999)["kernel"].rank == 4
    assert error(params, svd(params, rank=4, where="kernel"), x) > 1


def test_factors_keep_what_outputs_share_where_pca_keeps_the_loudest():
    """Nine outputs share two inputs; three loud ones have an input each."""
    shared = np.zeros((5, 12))
    shared[:2, :9] = RNG.normal(size=(2, 9))
    shared[2:, 9:] = np.diag([6.0, 7.0, 8.0])
    params = {"kernel": jnp.asarray(shared, jnp.float32), "bias": normal(12)}
    params["kernel"] += 0.05 * normal(5, 12)
    x = normal(500, 5) + 1
    stats = jc.observe(dense, params, [x])
    y = dense(params, x)

    def relative(changed):
        lost = jnp.mean((jc.lift(dense)(changed, x) - y) ** 2, axis=0)
        return float(jnp.median(lost / jnp.var(y, axis=0)))

    ours, pca = output_factors(params, stats, rank=2), output_pca(params, stats, rank=2)
    assert relative(ours) < 0.05
    assert relative(pca) > 0.5
    assert error(params, pca, x) < error(params, ours, x)


def model(params, x):
    x = jax.lax.conv_general_dilated(x, params["conv"], (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW"))
    x = jnp.tanh(x + params["bias"][None, :, None, None])
    x = jnp.einsum("bchw,cnd->bhwnd", x, params["heads"])
    x = jnp.einsum("bhwnd,ndo->bhwo", x, params["out"])
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w["kernel"].T + w["bias"]), None), x, params["layers"])[0]


def params_of_model():
    return {
        "conv": normal(12, 4, 3, 3),
        "bias": normal(12),
        "heads": normal(12, 2, 4),
        "out": normal(2, 4, 8),
        "layers": {"kernel": normal(3, 8, 8), "bias": 0.1 * normal(3, 1, 1, 1, 8)},
    }


@pytest.mark.parametrize(
    "name", ["output_pca", "drone", *(pytest.param(n, marks=pytest.mark.slow) for n in ("input_pca", "output_factors"))]
)
def test_convolutions_heads_and_scanned_layers(name):
    params, x = params_of_model(), correlated(4 * 25, 4).reshape(4, 5, 5, 4).transpose(0, 3, 1, 2)
    stats = jc.observe(model, params, [x])
    more = {} if name == "drone" else {"biases": {"conv": "bias"}}
    thin = METHODS[name](params, stats, rank=2, **more)
    shapes = {"conv": thin["conv"], "heads": thin["heads"], "out": thin["out"], "layers": thin["layers"]["kernel"]}
    assert {key: (leaf.u.shape, leaf.v.shape) for key, leaf in shapes.items()} == {
        "conv": ((12, 2), (2, 4, 3, 3)),
        "heads": ((12, 2), (2, 2, 4)),
        "out": ((2, 4, 2), (2, 8)),
        "layers": ((3, 8, 2), (3, 2, 8)),
    }
    expected = model(jc.materialize(thin), x)
    np.testing.assert_allclose(jc.lift(model)(thin, x), expected, atol=1e-4 * np.abs(expected).max())
    if name == "output_pca":  # the mean of every channel survives
        assert (thin["bias"] != params["bias"]).any()
        before, after = (_conv_mean(p, x) for p in (params, jc.materialize(thin)))
        np.testing.assert_allclose(after, before, atol=1e-3)


def _conv_mean(params, x):
    y = jax.lax.conv_general_dilated(x, params["conv"], (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW"))
    return (y + params["bias"][None, :, None, None]).mean((0, 2, 3))


def test_without_a_bias_output_pca_is_whitened_svd():
    w, x = {"w": normal(9, 9)}, correlated(50, 9)
    stats = jc.observe(lambda p, x: x @ p["w"], w, [x])
    ours, theirs = output_pca(w, stats, rank=3)["w"], whitened_svd(w, stats, rank=3, damping=0.0)["w"]
    np.testing.assert_allclose(x @ ours.materialize(), x @ theirs.materialize(), atol=1e-3)


def test_masks_stay_factors_quantize_files_keep_them_and_later_layers_see_earlier(tmp_path):
    params, x, stats = problem()
    mask = jnp.asarray(RNG.random((12, 10)) < 0.6)
    pruned = {"kernel": Masked.create(params["kernel"], mask), "bias": params["bias"]}
    thin = output_pca(pruned, jc.observe(jc.lift(dense), pruned, [x]), rank=3)
    assert isinstance(thin["kernel"].values, LowRank)
    np.testing.assert_array_equal(np.asarray(thin["kernel"].materialize())[~np.asarray(mask)], 0)
    jc.save(tmp_path / "thin.jxc", thin)
    loaded = jc.load(tmp_path / "thin.jxc").params
    jax.tree.map(np.testing.assert_array_equal, loaded, thin)
    packed = rtn(output_pca(params, stats, rank=3), bits=8, where="kernel")["kernel"]
    assert (packed.kind, packed.u.kind) == ("lowrank", "quantized")
    layers = {"a": normal(12, 12), "b": normal(12, 12)}
    fn = lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"]  # noqa: E731
    both = jc.prune.sequential(fn, layers, [x], lambda p, s: output_pca(p, s, rank=3))
    assert (both["a"].rank, both["b"].rank) == (3, 3)


def test_one_program_for_layers_of_one_shape_and_jit(compilations):
    params = {"a": normal(8, 8), "b": normal(8, 8)}
    stats = jc.observe(lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"], params, [correlated(30, 8)])
    eager = output_pca(params, stats, rank=2)
    before = compilations()
    output_pca(jax.tree.map(lambda w: 2 * w, params), stats, rank=energy(0.5, or_dense=True))
    output_pca(params, stats, rank={"a": 1, "b": 3})
    assert compilations("_factors") == 1
    assert before > 0
    traced = jax.jit(lambda p: output_pca(p, stats, rank=2))(params)
    np.testing.assert_allclose(traced["a"].materialize(), eager["a"].materialize(), atol=1e-4)


@pytest.mark.parametrize("unit", [1e25, 1e-25])
def test_units_of_weights_do_not_matter(unit):
    params, _, stats = problem()
    scaled = {"kernel": params["kernel"] * jnp.float32(unit), "bias": params["bias"] * jnp.float32(unit)}
    for method in (*METHODS.values(), whitened_svd):
        expected, found = method(params, stats, rank=3), method(scaled, stats, rank=3)
        difference = found["kernel"].materialize() / jnp.float32(unit) - expected["kernel"].materialize()
        assert jnp.linalg.norm(difference) < 0.02 * jnp.linalg.norm(params["kernel"])


def test_float64_weights_meet_float32_statistics():
    with jax.enable_x64(True):
        params = {"kernel": jnp.asarray(RNG.normal(size=(6, 1)) * RNG.normal(size=(1, 5)))}
        stats = jc.observe(lambda p, x: x @ p["kernel"], params, [jnp.asarray(RNG.normal(size=(20, 6)))])
        for method in (output_pca, output_factors):
            found = method(params, stats, rank=1)["kernel"]
            assert found.dtype == jnp.float64
            np.testing.assert_allclose(found.materialize(), params["kernel"], atol=1e-10)
        assert input_pca(params, stats, rank=1)["kernel"].dtype == jnp.float64


def test_what_cannot_be_asked_is_named():
    params, _, stats = problem()
    with pytest.raises(ValueError, match=r"output_pca: rank 9 saves nothing in 'kernel': .* break even at rank 5\.4"):
        output_pca(params, stats, rank=9)
    with pytest.raises(ValueError, match=r"input_pca: biases= names 'kernel', which is no array of the size"):
        input_pca(params, stats, rank=2, biases={"kernel": "kernel"})
    for method in (output_pca, whitened_svd):
        with pytest.raises(ValueError, match=r"damping must be a finite number of 0 or more, got nan"):
            method(params, stats, rank=2, damping=float("nan"))
    for noise in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"output_factors: noise must be a fraction in \(0, 1\], got"):
            output_factors(params, stats, rank=2, noise=noise)
    with pytest.raises(ValueError, match=r"moment must be \(12, 12\) for w of shape \(12, 10\), got \(3, 3\)"):
        drone_factors(params["kernel"], jnp.eye(3), rank=2)
    assert drone_factors(params["kernel"].astype(jnp.bfloat16), jnp.eye(12), rank=2)[0].dtype == jnp.bfloat16
    with pytest.raises(ValueError, match="drone: stats hold no 'second_moment'"):
        drone(params, {}, rank=2)
    grouped = {"w": normal(3, 3, 2, 8)}
    fn = lambda p, x: jax.lax.conv_general_dilated(  # noqa: E731
        x, p["w"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=2
    )
    seen = jc.observe(fn, grouped, [normal(2, 4, 4, 4)])
    with pytest.raises(ValueError, match=r"'w' is the kernel of a convolution of 2 groups"):
        output_pca(grouped, seen, rank=1)
    with pytest.raises(TypeError, match="concrete"):
        jax.jit(lambda p: output_pca(p, stats, rank=0.5))(params)
