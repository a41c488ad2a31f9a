"""Proxies against NumPy in float64, and what must hold of them: masked equals small, jit equals eager, one program."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcompress.search import proxies
from tests.search.proxies.networks import (
    CHANNELS,
    CLASSES,
    CONV1,
    CONV3,
    EDGES,
    FEATURES,
    NONE,
    POOL,
    SKIP,
    WIDTH,
    cell,
    cell_params,
    cut,
    masked_mlp,
    mlp,
    mlp_params,
)

PARAMS = mlp_params()
BATCH = 12
X = jax.random.normal(jax.random.key(7), (BATCH, FEATURES))
LABELS = jnp.arange(BATCH) % CLASSES
WEIGHTS = FEATURES * WIDTH + WIDTH**2 + WIDTH * CLASSES


@functools.partial(jax.jit, static_argnames="fn")
def measured(fn, params, x, labels):
    return proxies.measure(fn, params, x, labels)


def in_numpy(params, x, labels):
    """All four proxies of `mlp` by hand, in float64."""
    a, b, c = (np.asarray(params[name], np.float64) for name in "abc")
    x = np.asarray(x, np.float64)
    before1 = x @ a
    h1 = np.maximum(before1, 0)
    before2 = h1 @ b
    h2 = np.maximum(before2, 0)
    logits = h2 @ c
    on = np.concatenate([before1, before2], 1) > 0
    kernel = on[:, None] == on[None]  # [batch, batch, units]
    d2 = np.where(before2 > 0, c.sum(1), 0)
    jacobian = np.where(before1 > 0, d2 @ b.T, 0) @ a.T
    eigenvalues = np.linalg.eigvalsh(np.corrcoef(jacobian)).clip(0)
    share = np.exp(logits - logits.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    slope = (share - np.eye(CLASSES)[labels]) / len(x)
    s2 = np.where(before2 > 0, slope @ c.T, 0)
    s1 = np.where(before1 > 0, s2 @ b.T, 0)
    flow = np.abs(a).sum(0) @ np.abs(b) @ np.abs(c)
    return {
        "synflow": np.log(3 * flow.sum()),  # each of three layers carries all of it
        "nwot": np.linalg.slogdet(kernel.sum(-1))[1],
        "jacobian_covariance": -(np.log(eigenvalues + 1e-5) + 1 / (eigenvalues + 1e-5)).sum(),
        "gradient_norm": sum(np.linalg.norm(g) for g in (x.T @ s1, h1.T @ s2, h2.T @ slope)),
    }


def test_against_numpy_in_float64():
    found = measured(mlp, PARAMS, X, LABELS)
    wanted = in_numpy(PARAMS, X, np.asarray(LABELS))
    assert found["parameters"] == WEIGHTS + WIDTH
    for name in ("synflow", "nwot", "gradient_norm"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=2e-5, err_msg=name)  # float32 sums of some hundred
    # 12 rows of 6 features: 7 eigenvalues are zero, and 1/(s + 1e-5) tells them from 1e-12
    np.testing.assert_allclose(found["jacobian_covariance"], wanted["jacobian_covariance"], rtol=1e-4)


def test_synflow_beyond_the_range_of_floats():
    """Scores of e^{700} and more (float32 ends at e^88, float64 at e^709), through a scan and a residual connection."""
    layers = 60
    stack = 1e6 * jax.random.normal(jax.random.key(3), (layers, 8, 8))

    def fn(params, x):
        return lax.scan(lambda h, w: (h + jax.nn.relu(h @ w), None), x, params["stack"])[0].sum(1)

    found = jax.jit(lambda p: proxies.synflow(fn, p, jnp.ones((1, 8))))({"stack": stack})
    weights = np.abs(np.asarray(stack, np.float64))
    forward, backward = [np.ones(8)], [np.ones(8)]  # of every layer, relative to a factor that is kept as logarithm
    logs, later = [0.0], [0.0]
    for w, v in zip(weights, weights[::-1], strict=True):
        up, down = forward[-1] + forward[-1] @ w, backward[-1] + v @ backward[-1]
        forward, logs = [*forward, up / up.max()], [*logs, logs[-1] + np.log(up.max())]
        backward, later = [*backward, down / down.max()], [*later, later[-1] + np.log(down.max())]
    terms = [logs[i] + later[-2 - i] + np.log(forward[i] @ weights[i] @ backward[-2 - i]) for i in range(layers)]
    assert found.score > 700
    assert found.score == pytest.approx(np.logaddexp.reduce(terms), rel=1e-5)
    assert found.parameters == stack.size


def test_masked_is_small_in_one_program(compilations):
    """The genome is a runtime array: the proxies of the masked network are those of the small one."""

    @jax.jit
    def candidate(width):
        return proxies.measure(functools.partial(masked_mlp, width), PARAMS, X, LABELS)

    for width in (16, 13, 9):
        found = candidate(jnp.int32(width))
        wanted = in_numpy(cut(PARAMS, width), X, np.asarray(LABELS))
        assert found["parameters"] == FEATURES * width + width**2 + width * CLASSES + width
        for name, value in wanted.items():
            np.testing.assert_allclose(found[name], value, rtol=2e-4, err_msg=f"{name} of width {width}")
    assert compilations("candidate") == 1


def test_cells_choose_by_genome(compilations):
    """Operations that are not chosen count for nothing; of a population under vmap as of one candidate."""
    params = cell_params()
    images = jax.random.normal(jax.random.key(1), (8, 6, 6, 3))

    @jax.jit
    def candidate(codes):
        return proxies.measure(functools.partial(cell, codes), params, images, proxies=("synflow", "nwot"))

    @jax.jit
    def population(codes):  # the count is known here, and traced
        flow = lambda c: proxies.synflow(functools.partial(cell, c), params, images, parameters=c.sum())  # noqa: E731
        return jax.vmap(flow)(codes)

    genomes = jnp.array([
        [CONV3] * EDGES,
        [NONE] * EDGES,
        [SKIP] * EDGES,
        [CONV1, POOL, CONV3],  # edges 0-1, 0-2, 1-2
        [CONV1, NONE, NONE],  # nothing arrives at the last node
    ])  # fmt: skip
    found = jax.tree.map(lambda *rows: np.stack(rows), *[candidate(codes) for codes in genomes])
    stem, one, three = 27 * CHANNELS, CHANNELS**2, 9 * CHANNELS**2
    head = CHANNELS * CLASSES
    assert found["parameters"].tolist() == [stem + 3 * three + head, 0, stem + head, stem + one + three + head, 0]
    assert np.isneginf(found["synflow"]).tolist() == [False, True, False, False, True]
    assert found["synflow"][0] > found["synflow"][3] > found["synflow"][2]
    assert np.isfinite(found["nwot"]).tolist() == [True, False, False, True, True]
    together = population(genomes)
    assert together.parameters.tolist() == genomes.sum(1).tolist()
    np.testing.assert_allclose(together.score, found["synflow"], rtol=1e-5)
    assert compilations("candidate") == 1


def relu6(x):
    return jnp.clip(x, 0, 6)


@pytest.mark.parametrize(
    "activation",
    [jax.nn.relu, relu6, jax.nn.leaky_relu, lambda x: jnp.where(x > 0, x, 0.0), lambda x: jnp.where(x <= 0, x / 9, x)],
)
def test_relus_are_found_however_they_are_written(activation):
    w = PARAMS["a"]
    wanted = proxies.nwot_score(X @ w)
    assert proxies.nwot(lambda w, x: activation(x @ w), w, X, parameters=96).score == pytest.approx(float(wanted))


def test_examples_are_found_wherever_their_axis_is():
    """Under a scan over time, time first; of another length than the batch or of the same."""
    w = jax.random.normal(jax.random.key(2), (FEATURES, FEATURES))

    def recurrent(w, x):  # [batch, time, features]
        step = lambda h, x: (jax.nn.relu(h @ w + x), h.sum())  # noqa: E731
        return lax.scan(step, x[:, 0] * 0, jnp.swapaxes(x, 0, 1))[0]

    def at_once(w, x):
        return jax.nn.relu(jnp.swapaxes(x, 0, 1) @ w)  # [time, batch, features]

    series = jax.random.normal(jax.random.key(4), (5, 5, FEATURES))
    steps, h = [], np.zeros((5, FEATURES))
    for x in np.swapaxes(np.asarray(series, np.float64), 0, 1):
        steps.append(h @ np.asarray(w, np.float64) + x)
        h = np.maximum(steps[-1], 0)
    found = proxies.nwot(recurrent, w, series, parameters=0)
    wanted = proxies.nwot_score([jnp.asarray(step, jnp.float32) for step in steps])
    assert found.score == pytest.approx(float(wanted), rel=1e-5)
    wanted = proxies.nwot_score((series @ w).reshape(5, -1))
    assert proxies.nwot(at_once, w, series, parameters=0).score == pytest.approx(float(wanted), rel=1e-5)


def test_max_pooling_with_padding_and_other_activations_keep_the_flow_finite():
    def fn(params, x):
        h = lax.conv_general_dilated(x, params["k"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        h = lax.reduce_window(h, np.float32(-np.inf), lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
        h = jnp.tanh(h / jnp.sqrt(jnp.square(h).mean() + 1.0))
        return jax.nn.softmax(h.reshape(len(x), -1) @ params["w"]), h.astype(jnp.int32)

    params = {"k": jnp.ones((3, 3, 1, 2)), "w": jnp.ones((18, 4))}
    found = jax.jit(lambda p: proxies.synflow(fn, p, jnp.ones((2, 6, 6, 1))))(params)
    assert np.isfinite(found.score)
    assert found.parameters == 18 + 72


def test_half_precision_is_measured_as_well():
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS)
    found = measured(mlp, half, X.astype(jnp.bfloat16), LABELS)
    wanted = measured(mlp, PARAMS, X, LABELS)
    assert all(bool(jnp.isfinite(score)) and score.dtype != jnp.bfloat16 for score in found.values())
    np.testing.assert_allclose(found["synflow"], wanted["synflow"], rtol=0.02)
    np.testing.assert_allclose(found["gradient_norm"], wanted["gradient_norm"], rtol=0.1)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), PARAMS)
        found = proxies.gradient_norm(mlp, wide, jnp.asarray(X, jnp.float64), LABELS)
        np.testing.assert_allclose(found.score, wanted["gradient_norm"], rtol=1e-5)
        assert int(found.parameters) == int(wanted["parameters"])


def test_wider_networks_score_higher():
    small, large = (measured(mlp, mlp_params(width=width), X, LABELS) for width in (4, WIDTH))
    assert all(large[name] > small[name] for name in ("synflow", "nwot", "parameters"))


def test_lowers_for_every_platform():
    fn = functools.partial(proxies.measure, mlp)
    exported = jax.export.export(jax.jit(fn), platforms=["cpu", "cuda", "tpu"])(PARAMS, X, LABELS)
    assert exported.platforms == ("cpu", "cuda", "tpu")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: proxies.measure(mlp, PARAMS, X, proxies=("grasp",)), "takes some of .*'synflow'.*got"),
        (lambda: proxies.measure(mlp, PARAMS, X), "gradient_norm needs labels="),
        (lambda: proxies.gradient_norm(mlp, PARAMS, X, jnp.eye(BATCH)), r"takes integer classes \[batch\]"),
        (lambda: proxies.gradient_norm(mlp, PARAMS, X, LABELS[1:]), r"got int32 of shape \(11,\) for outputs"),
        (lambda: proxies.nwot(lambda w, x: jnp.tanh(x @ w), PARAMS["a"], X), "rectifies nothing.*jacobian_covariance"),
        (lambda: proxies.nwot(lambda w, x: jax.nn.relu(w) @ x.T, X, X), r"rectifies nothing"),
        (lambda: proxies.nwot(lambda w, x: jax.nn.relu(jnp.repeat(x, 2, 0)), X, X), "test_proxies.py.*no axis of"),
        (lambda: proxies.nwot(lambda w, x: x["a"], X, {"a": X, "b": X[:3]}), "one leading batch axis"),
        (lambda: proxies.jacobian_covariance(lambda w, x: w[x], X, LABELS), "no input is a float array"),
        (lambda: proxies.synflow(lambda w, x: jnp.int32(3), X, X), "returns no float array"),
        (lambda: proxies.synflow(mlp, PARAMS | {"b": PARAMS["b"].at[0, 0].set(jnp.nan)}, X), "params: 'b' holds NaN"),
        (lambda: proxies.synflow(mlp, PARAMS, X, where="x"), "where='x' matches no leaf"),
    ],
)  # fmt: skip
def test_errors_name_the_argument_and_the_way_out(call, message):
    with pytest.raises(ValueError, match=message):
        call()
