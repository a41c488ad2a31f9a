import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcompress.core.observe import observe
from jaxcompress.core.tree import materialize, split_trainable
from jaxcompress.prune import magnitude
from jaxcompress.quantize import (
    QAT,
    Diagonal,
    fisher,
    gptq,
    hessian_trace,
    prepare,
    rtn,
    second_moments,
    sensitivity,
)
from jaxcompress.quantize.second_order.hessian import trace_probes
from tests.zoo.model import arrays, data

KEY = jax.random.key(0)


def net(params, x):
    return jnp.tanh(x @ params["a"]) @ params["b"]


def loss(params, batch):
    x, y = batch
    return jnp.mean(jnp.sum(jnp.square(net(params, x) - y), axis=-1))


def problem():
    return arrays(a=(6, 8), b=(8, 3)), [(data(10, 6, seed=i), data(10, 3, seed=i + 9)) for i in range(2)]


@pytest.mark.slow
def test_traces_are_those_of_the_hessian():
    """Against the full Hessian of every block, formed by JAX; within four of the standard errors that are reported."""
    params, batches = problem()
    found = hessian_trace(loss, params, batches, key=KEY, probes=256)
    for path in params:
        exact = 0.0
        for batch in batches:
            block = jax.hessian(lambda w, batch=batch, path=path: loss(params | {path: w}, batch))(params[path])
            size = params[path].size
            exact += np.trace(np.asarray(block, np.float64).reshape(size, size)) / size / len(batches)
        assert abs(found.mean[path] - exact) < 4 * found.error[path]
        assert found.error[path] < 0.05 * found.mean["b"]
    assert "256 probes" in repr(found)


def test_reported_error_is_the_analytic_one():
    """For ``v A v`` with random signs the variance is ``2 sum of A_ij^2, i != j``; a diagonal Hessian has none."""
    a = np.random.RandomState(0).standard_normal((12, 12))
    a = a @ a.T
    quadratic = lambda p, batch: 0.5 * p["w"][:, 0] @ batch @ p["w"][:, 0]  # noqa: E731
    found = hessian_trace(quadratic, arrays(w=(12, 1)), [jnp.asarray(a, jnp.float32)], key=KEY, probes=400)
    expected = np.sqrt(2 * (np.sum(a**2) - np.sum(np.diag(a) ** 2)) / 400) / 12
    # A standard deviation of 400 draws is off by 1 / sqrt(800) = 3.5 % (more for heavy tails).
    assert found.error["w"] == pytest.approx(expected, rel=0.15)
    assert abs(found.mean["w"] - np.trace(a) / 12) < 4 * expected


def test_same_key_same_traces_and_one_program():
    """The loss is traced once for all probes and batches of a shape, and for later calls."""
    traced = []

    def counted(params, batch):
        traced.append(1)
        return loss(params, batch)

    params, batches = problem()
    first = hessian_trace(counted, params, batches, key=KEY, probes=4)
    count = len(traced)
    again = hessian_trace(counted, params, batches, key=KEY, probes=4)
    assert len(traced) == count <= 2
    assert again.mean == first.mean
    assert hessian_trace(counted, params, batches, key=jax.random.key(1), probes=4).mean != first.mean


def test_probes_lower_for_every_platform():
    params, (batch, _) = problem()
    run = jax.jit(lambda w, batch, keys: trace_probes(jax.grad(lambda w: loss(w, batch)), w, keys))
    program = jax.export.export(run, platforms=("cpu", "cuda", "tpu"))(params, batch, jax.random.split(KEY, 3))
    assert program.platforms == ("cpu", "cuda", "tpu")


@pytest.mark.parametrize("chunk", [1, 4, 64])
def test_fisher_is_the_mean_of_squared_gradients_of_examples(chunk):
    """A linear model by hand: the gradient of one example is ``2 x (x w - y)``; ten examples are no multiple of 4."""
    x, y, w = (np.asarray(data(*shape, seed=i), np.float64) for i, shape in enumerate([(10, 6), (10, 3), (6, 3)]))
    square = lambda p, batch: jnp.sum(jnp.square(batch[0] @ p["w"] - batch[1]))  # noqa: E731
    batches = [tuple(jnp.asarray(a[part], jnp.float32) for a in (x, y)) for part in (slice(0, 7), slice(7, 10))]
    found = fisher(square, {"w": jnp.asarray(w, jnp.float32)}, batches, chunk=chunk)
    gradients = 2 * x[:, :, None] * (x @ w - y)[:, None, :]
    np.testing.assert_allclose(found["w"], np.mean(gradients**2, axis=0), rtol=1e-4)
    whole = fisher(square, {"w": jnp.asarray(w, jnp.float32)}, batches, per="batch")
    sums = [gradients[part].sum(0) for part in (slice(0, 7), slice(7, 10))]
    np.testing.assert_allclose(whole["w"], np.mean(np.square(sums), axis=0), rtol=1e-4)


WRAPPED = {
    "adam": lambda: optax.adam(0.1, b2=0.9),
    "chain": lambda: optax.chain(optax.clip_by_global_norm(1e6), optax.adamw(0.1, b2=0.9)),
    "hyperparameters": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=0.1, b2=0.9),
    "masked": lambda: optax.masked(optax.adam(0.1, b2=0.9), {"a": True, "b": False}),
    "two parts": lambda: optax.multi_transform(
        {"a": optax.adam(0.1, b2=0.9), "b": optax.nadam(0.1, b2=0.9)}, {"a": "a", "b": "b"}
    ),
}


@pytest.mark.standard_promotion
@pytest.mark.parametrize("name", WRAPPED)
def test_second_moments_are_found_however_the_optimizer_is_wrapped(name):
    params, grads = arrays(a=(6, 8), b=(8, 3)), arrays(seed=3, a=(6, 8), b=(8, 3))
    tx = WRAPPED[name]()
    state = tx.init(params)
    for _ in range(3):
        _, state = tx.update(grads, state, params)
    found = second_moments(state, params, b2=0.9)
    assert set(found) == ({"a"} if name == "masked" else {"a", "b"})
    for path, moment in found.items():  # three equal gradients: the corrected moment is the square
        np.testing.assert_allclose(moment, np.square(np.asarray(grads[path], np.float64)), rtol=1e-5)


@pytest.mark.standard_promotion
def test_second_moments_of_what_trained_inside_of_leaves():
    """Fake-quantized weights, and the trainable half of a pruned tree: the field of the dense shape counts."""
    plain = arrays(a=(6, 8))
    for params in (prepare(plain, QAT(bits=4, method="lsq")), split_trainable(magnitude(plain, sparsity=0.5))[0]):
        tx = optax.scale_by_adam(b2=0.9)
        _, state = tx.update(jax.tree.map(lambda a: 2 * jnp.ones_like(a), params), tx.init(params))
        np.testing.assert_allclose(second_moments(state, plain, b2=0.9)["a"], 4.0, rtol=1e-6)


@pytest.mark.standard_promotion
def test_second_moments_that_are_not_there():
    params = arrays(a=(6, 8))
    with pytest.raises(ValueError, match="none of Adam's kind"):
        second_moments(optax.sgd(0.1).init(params), params)
    with pytest.raises(ValueError, match="no step yet"):
        second_moments(optax.adam(0.1).init(params), params)
    tx = optax.adam(0.1)
    _, state = tx.update(params, tx.init(params))
    with pytest.raises(ValueError, match=r"none of the moments belongs to .*other"):
        second_moments(state, {"other": params["a"]})
    with pytest.raises(ValueError, match="b2 must be"):
        second_moments(state, params, b2=1.0)
    with pytest.raises(ValueError, match="two states hold moments of 'a'"):
        second_moments((state, state), params)


def test_scores_are_the_formulas():
    """Mean trace times squared error (HAWQ-V2); squared errors weighted one by one; the error of the outputs."""
    params, batches = problem()
    trace = hessian_trace(loss, params, batches, key=KEY, probes=8)
    diagonal = fisher(loss, params, batches)
    stats = observe(net, params, [x for x, _ in batches])
    slope = {path: trace.mean[path] if trace.mean[path] > 0 else trace.error[path] for path in params}
    for bits in (3, 8):
        after = materialize(rtn(params, bits=bits))
        difference = {path: np.asarray(after[path] - params[path], np.float64) for path in params}
        for path, d in difference.items():
            scored = {
                "trace": (sensitivity(params, trace, bits=(3, 8)), slope[path] * np.sum(d**2)),
                "diagonal": (sensitivity(params, diagonal, bits=(3, 8)), np.sum(np.asarray(diagonal[path]) * d**2)),
            }
            for scores, expected in scored.values():
                assert scores.at(path)[bits] == pytest.approx(expected, rel=1e-4)
    x = np.concatenate([np.asarray(x, np.float64) for x, _ in batches])
    outputs = sensitivity(params, stats, bits=(8,))
    error = np.mean(np.sum((x @ difference["a"]) ** 2, axis=1))  # of the last width, 8
    assert outputs.at("a")[8] == pytest.approx(error, rel=1e-3)


def test_scores_fall_with_the_width_and_know_the_bytes():
    params = arrays(a=(64, 32), b=(32, 16))
    scores = sensitivity(params, Diagonal({path: jnp.ones_like(w) for path, w in params.items()}))
    assert scores.bits == (2, 3, 4, 8)
    assert (np.diff(scores.values) < 0).all()
    np.testing.assert_allclose(scores.values, scores.errors, rtol=1e-6)
    codes = 64 * 32 + 32 * 16
    for bits in (4, 8):  # a scale in float32 for each of the 32 + 16 output channels
        assert scores.bytes_at(bits) == (bits * codes + 32 * 48) // 8
    text = repr(scores)
    assert "4 bits" in text
    assert "a     2,048" in text
    assert "<td>2,048</td>" in scores._repr_html_()


def test_any_method_can_be_scored():
    """Rounding with clipped ranges makes less squared error, which is what these scores are."""
    params = arrays(a=(16, 24), b=(24, 16))
    ones = Diagonal({path: jnp.ones_like(w) for path, w in params.items()})
    clipped = sensitivity(params, ones, bits=(3,), method=functools.partial(rtn, ranges="mse"))
    assert (clipped.values < sensitivity(params, ones, bits=(3,)).values).all()


@pytest.mark.slow
def test_a_method_with_statistics_can_be_scored():
    """GPTQ: less error of the outputs than rounding."""
    params = arrays(a=(16, 24), b=(24, 8))
    stats = observe(net, params, [data(64, 16)])
    fitted = sensitivity(params, stats, bits=(3,), method=functools.partial(gptq, stats=stats))
    assert (fitted.values < sensitivity(params, stats, bits=(3,)).values).all()


def test_a_masked_leaf_is_scored_as_it_is():
    pruned = magnitude(arrays(a=(8, 6)), sparsity=0.5)
    scores = sensitivity(pruned, Diagonal({"a": jnp.ones((8, 6))}), bits=(8,))
    assert scores.stored_bits[0, 0] == rtn(pruned, bits=8)["a"].stored_bits


def test_what_is_wrong_is_named():
    params, batches = problem()
    bad = [(batches[0][0].at[0, 0].set(jnp.nan), batches[0][1])]
    for method in (functools.partial(hessian_trace, key=KEY, probes=2), fisher):
        with pytest.raises(ValueError, match="batch 1 gives at 'a' is not finite"):
            method(loss, params, [batches[0], *bad])
        with pytest.raises(ValueError, match="no batch"):
            method(loss, params, [])
        with pytest.raises(ValueError, match="third"):
            method(loss, params, batches, where="third")
    with pytest.raises(ValueError, match="probes must be"):
        hessian_trace(loss, params, batches, key=KEY, probes=1)
    with pytest.raises(ValueError, match="per must be"):
        fisher(loss, params, batches, per="row")
    with pytest.raises(ValueError, match="leading axis"):
        fisher(loss, params, [(batches[0][0], jnp.ones((3, 3)))])
    ones = Diagonal({"a": jnp.ones((6, 8))})
    with pytest.raises(ValueError, match="does not know 'b'"):
        sensitivity(params, ones)
    assert sensitivity(params, ones, where="a").paths == ("a",)
    with pytest.raises(ValueError, match="must come from"):
        sensitivity(params, {"a": 3.0})
    with pytest.raises(ValueError, match=r"functools\.partial"):
        sensitivity(params, ones, method=rtn, where="a")
    with pytest.raises(ValueError, match="not finite"):
        sensitivity(params, Diagonal({"a": jnp.full((6, 8), jnp.inf)}), where="a")
