import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxcompress as jc
from jaxcompress.factorize import LowRank, channel_decomposition, output_pca

NUMBERS = ("NHWC", "HWIO", "NHWC")
LAYERS = ("a", "b", "c")


def net(params, x):
    """Three convolutions, each followed by a ReLU, and a linear layer."""
    for name in LAYERS:
        x = lax.conv_general_dilated(x, params[name]["kernel"], (1, 1), "SAME", dimension_numbers=NUMBERS)
        x = jax.nn.relu(x + params[name]["bias"][None, None, None])
    return x.mean((1, 2)) @ params["head"]


def arrays(seed):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    params: dict = {"head": normal(12, 6)}
    for name, size in zip(LAYERS, (4, 12, 12), strict=True):
        params[name] = {
            "kernel": normal(3, 3, size, 12) / np.float32((9 * size) ** 0.5),
            "bias": 0.2 * normal(12) - 0.1,
        }
    waves = normal(4, 4)
    batches = [jnp.einsum("nhwk,kc->nhwc", normal(16, 6, 6, 4), waves) for _ in range(4)]
    return params, batches


@pytest.mark.slow
def test_without_relu_and_asymmetry_it_is_the_pca_of_outputs():
    params, batches = arrays(0)
    ours = channel_decomposition(net, params, batches, rank=5, asymmetric=False, where="*/kernel")
    # 16 x 36 pixels of a batch, of which 512 were drawn: the same rows as statistics are those of all 576.
    stats = jc.observe(net, params, batches, what=("second_moment", "mean"), where="*/kernel")
    theirs = output_pca(params, stats, rank=5)
    for name in LAYERS:
        assert isinstance(ours[name]["kernel"], LowRank)
        assert ours[name]["kernel"].u.shape == theirs[name]["kernel"].u.shape
        x = jnp.concatenate(batches)
        dense = jax.jit(net)(params, x)
        errors = [float(jnp.linalg.norm(net(jc.materialize(tree), x) - dense)) for tree in (ours, theirs)]
    assert errors[0] < 1.1 * errors[1]


def test_each_step_of_the_article_lowers_the_error_of_the_outputs():
    """Linear and symmetric > asymmetric > with the ReLU, on data that were not used."""
    params, batches = arrays(1)
    held = batches.pop()
    dense = net(params, held)
    settings = {
        "linear": {"asymmetric": False},
        "asymmetric": {},
        "both": {"relu": "*/kernel"},
    }
    errors = {}
    for name, options in settings.items():
        small = channel_decomposition(net, params, batches, rank=4, where="*/kernel", **options)
        errors[name] = float(jnp.linalg.norm(jc.lift(net)(small, held) - dense) / jnp.linalg.norm(dense))
    assert errors["both"] < errors["asymmetric"] < errors["linear"]


def test_fractions_second_calls_and_inputs(compilations):
    params, batches = arrays(2)
    options = {"where": ["a/kernel", "b/kernel"], "relu": "a/*", "rank": 0.9}
    first = channel_decomposition(net, params, batches, **options)
    before = compilations()
    second = channel_decomposition(net, params, batches, **options)
    assert compilations() == before
    assert first["c"]["kernel"] is params["c"]["kernel"]
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)
    x = jnp.concatenate(batches)
    out = lax.conv_general_dilated(x, params["a"]["kernel"], (1, 1), "SAME", dimension_numbers=NUMBERS)
    s = np.linalg.svd(np.asarray(out - out.mean((0, 1, 2), keepdims=True)).reshape(-1, 12), compute_uv=False)
    held = np.cumsum(s**2) / np.sum(s**2)
    assert abs(first["a"]["kernel"].rank - (int(np.sum(held < 0.9)) + 1)) <= 1  # from a part of the rows
    with pytest.raises(ValueError, match="fits no observed weight"):
        channel_decomposition(net, params, batches, rank=3, relu="z/*")
    with pytest.raises(ValueError, match="saves nothing in 'head'"):
        channel_decomposition(net, params, batches, rank=5)
    with pytest.raises(ValueError, match="give a list, not an iterator"):
        channel_decomposition(net, params, iter(batches), rank=3)
    masked = jc.prune.magnitude(params, sparsity=0.5, where="a/kernel")
    with pytest.raises(ValueError, match="'a/kernel' is masked"):
        channel_decomposition(net, masked, batches, rank=3, where="a/kernel")


def test_a_stack_is_refused():
    params = {"w": jnp.ones((2, 6, 6))}
    fn = lambda p, x: lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, p["w"])[0]  # noqa: E731
    with pytest.raises(ValueError, match="'w' holds 2 layers or groups"):
        channel_decomposition(fn, params, [jnp.ones((4, 6))], rank=1)


def test_sampled_rows_of_outputs():
    """Rows that any call draws alike; layers of a stack each have theirs; a branch that was not taken has none."""
    params = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 6)), jnp.float32)}
    fn = lambda p, x: lax.scan(lambda x, w: (x @ w, None), x, p["w"])[0]  # noqa: E731
    x = jnp.asarray(np.random.default_rng(1).normal(size=(700, 6)), jnp.float32)
    (entry,) = jc.observe(fn, params, [x, x[:10]], what="output_rows")["w"]
    rows = entry["output_rows"]
    assert rows.shape == (2, 522, 6)
    outputs = np.asarray(x @ params["w"][0])
    chosen = [int(np.abs(outputs - row).sum(1).argmin()) for row in rows[0, :512]]
    assert chosen == sorted(set(chosen))
    np.testing.assert_allclose(rows[0, :512], outputs[chosen], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(rows[1, :512], rows[0, :512] @ np.asarray(params["w"][1]), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(rows[0, 512:], outputs[:10], rtol=1e-4, atol=1e-4)
    branch = lambda p, x: lax.cond(x[0, 0] > 0, lambda: x @ p["w"][0], lambda: x)  # noqa: E731
    (entry,) = jc.observe(branch, params, [jnp.ones((3, 6)), -jnp.ones((3, 6))], what="output_rows")["w"]
    assert np.isnan(entry["output_rows"]).all(-1).tolist() == [False] * 3 + [True] * 3
