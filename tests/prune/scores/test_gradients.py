"""The gatherer of gradients, held against loops over examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.prune.scores import Fisher, gradients, group_scores

PARAMS = {"a": jnp.asarray(np.random.default_rng(0).standard_normal((3, 4)), jnp.float32), "b": jnp.linspace(-1, 1, 4)}
BATCHES = [
    (
        jnp.asarray(np.random.default_rng(seed).standard_normal((5, 3)), jnp.float32),
        jnp.asarray(np.random.default_rng(seed + 9).standard_normal(5), jnp.float32),
    )
    for seed in (1, 2)
]


def loss(params, batch):
    x, y = batch
    return jnp.mean((jnp.tanh(x @ params["a"]) @ params["b"] - y) ** 2)


def one_by_one(batches):
    return [jax.grad(loss)(PARAMS, batch) for batch in batches]


def means(found, fn):
    return {name: np.mean([fn(np.float64(g[name])) for g in found], 0) for name in ("a", "b")}


def check(found, each):
    for name in ("a", "b"):
        np.testing.assert_allclose(found.mean[name], means(each, lambda g: g)[name], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found.square[name], means(each, np.square)[name], rtol=1e-4, atol=1e-7)


def test_per_batch():
    found = gradients(loss, PARAMS, BATCHES)
    check(found, one_by_one(BATCHES))
    assert (found.count, found.per, dict(found.gate)) == (2, "batch", {})


@pytest.mark.parametrize("chunk", [1, 2, 9])  # a divisor, one that leaves a rest, more than there are
def test_per_example_is_the_empirical_fisher(chunk):
    found = gradients(loss, PARAMS, BATCHES, per="example", chunk=chunk)
    check(found, one_by_one([(x[i : i + 1], y[i : i + 1]) for x, y in BATCHES for i in range(5)]))
    assert found.count == 10
    per_batch = gradients(loss, PARAMS, BATCHES)
    np.testing.assert_allclose(found.mean["a"], per_batch.mean["a"], rtol=1e-4, atol=1e-6)
    assert (found.square["a"] > per_batch.square["a"]).all()  # the mean over a batch averages noise away


def test_second_call_compiles_nothing(compilations):
    gradients(loss, PARAMS, BATCHES, per="example")
    before = compilations()
    gradients(loss, jax.tree.map(lambda a: a + 1, PARAMS), BATCHES, per="example")
    assert compilations() == before + 2  # the two shapes of a + 1


def test_compressed_leaves_arrive_dense_and_integers_are_left_alone():
    mask = jnp.arange(12).reshape(3, 4) % 2 == 0
    tree = {"a": jc.prune.Masked.create(PARAMS["a"], mask), "b": PARAMS["b"], "steps": jnp.int32(3)}
    found = gradients(loss, tree, BATCHES)
    assert set(found.mean) == {"a", "b"}
    dense = jax.grad(loss)(jc.materialize(tree) | {"steps": jnp.float32(0)}, BATCHES[0])["a"]
    assert found.mean["a"].shape == dense.shape
    assert float(jnp.abs(found.mean["a"][~mask]).max()) > 0  # what regrowth needs


def test_bad_data_is_named():
    with pytest.raises(ValueError, match="no batch"):
        gradients(loss, PARAMS, [])
    with pytest.raises(ValueError, match="'a' is not finite in batch 1"):
        gradients(loss, PARAMS, [BATCHES[0], (BATCHES[1][0] * jnp.nan, BATCHES[1][1])])
    with pytest.raises(ValueError, match="per must be"):
        gradients(loss, PARAMS, BATCHES, per="sample")
    with pytest.raises(ValueError, match="leading axis"):
        gradients(loss, PARAMS, [(BATCHES[0][0], BATCHES[0][1][:4])], per="example")
    with pytest.raises(ValueError, match="chunk"):
        gradients(loss, PARAMS, BATCHES, per="example", chunk=0)


def test_gates_are_gates():
    """The gradient of a gate on a unit is that of a factor on its activation, per example."""
    groups = jc.groups(lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"], PARAMS, BATCHES[0][0])
    assert [group.size for group in groups] == [4]

    def gated(gate, x, y):
        return jnp.mean((jnp.tanh(x @ PARAMS["a"]) * gate[None] @ PARAMS["b"] - y) ** 2)

    by_gate = [jax.grad(gated)(jnp.ones(4), x[i : i + 1], y[i : i + 1]) for x, y in BATCHES for i in range(5)]
    found = gradients(loss, PARAMS, BATCHES, per="example", groups=groups)
    expected = np.mean(np.square(np.float64(by_gate)), 0)
    np.testing.assert_allclose(found.gate[0], expected, rtol=1e-4)
    np.testing.assert_allclose(group_scores(groups, PARAMS, Fisher(found))[0], expected / 2, rtol=1e-4)
    with pytest.raises(ValueError, match="no gates were gathered for group 0"):
        group_scores(groups, PARAMS, Fisher(gradients(loss, PARAMS, BATCHES)))
