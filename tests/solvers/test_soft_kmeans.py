import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.solvers import soft_kmeans as module
from jaxcompress.solvers.soft_kmeans import nearest_error, soft_kmeans, soft_values
from tests.core.kinds import avals_of

RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 2)).astype(np.float32)
START = RNG.normal(size=(4, 2)).astype(np.float32)
COUNTS = (RNG.random((50, 2)) < 0.7).astype(np.float32)


def attention(x, c, counts, temperature):
    distances = (counts[:, None] * (x[:, None] - c[None]) ** 2).sum(-1)
    logits = -distances / temperature
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def by_hand(x, c, counts, temperature, steps):
    """Equations of section 3 of the paper, in float64."""
    x, c, counts = (np.asarray(a, np.float64) for a in (x, c, counts))
    for _ in range(steps):
        a = attention(x, c, counts, temperature)
        c = (a.T @ (counts * x)) / (a.T @ counts)
    return c, attention(x, c, counts, temperature) @ c


@pytest.mark.parametrize("counts", [None, COUNTS], ids=["all", "some"])
def test_against_the_equations_in_float64(counts, monkeypatch):
    monkeypatch.setattr(module, "_AT_ONCE", 4 * 15)  # four chunks, the last one padded
    ours = soft_kmeans(X, START, temperature=jnp.float32(0.3), iterations=3, weights=counts)
    values = soft_values(X, ours, temperature=jnp.float32(0.3), weights=counts)
    centroids, mixed = by_hand(X, START, np.ones_like(X) if counts is None else counts, 0.3, 3)
    np.testing.assert_allclose(ours, centroids, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(values, mixed, rtol=1e-4, atol=1e-5)


def test_gradients_reach_vectors_and_start_through_every_step(monkeypatch):
    """Against central differences of the float64 equations, along random directions."""
    monkeypatch.setattr(module, "_AT_ONCE", 4 * 15)
    target = RNG.normal(size=X.shape)

    @jax.grad
    def gradient(inputs):
        x, start = inputs
        c = soft_kmeans(x, start, temperature=jnp.float32(0.5), iterations=2)
        return jnp.sum(soft_values(x, c, temperature=jnp.float32(0.5)) * target.astype(np.float32))

    ours = gradient((jnp.asarray(X), jnp.asarray(START)))
    loss = lambda x, start: np.sum(by_hand(x, start, np.ones_like(X), 0.5, 2)[1] * target)  # noqa: E731
    for _ in range(3):
        dx, dc, h = RNG.normal(size=X.shape), RNG.normal(size=START.shape), 1e-5
        slope = (loss(X + h * dx, START + h * dc) - loss(X - h * dx, START - h * dc)) / (2 * h)
        np.testing.assert_allclose(np.sum(ours[0] * dx) + np.sum(ours[1] * dc), slope, rtol=1e-3)


def test_no_attention_of_all_vectors_exists_at_once(monkeypatch):
    monkeypatch.setattr(module, "_AT_ONCE", 64 * 100)
    x = jnp.zeros((2000, 2))

    def loss(x, start):
        c = soft_kmeans(x, start, temperature=jnp.float32(1.0), iterations=4)
        return jnp.sum(soft_values(x, c, temperature=jnp.float32(1.0)))

    jaxpr = jax.make_jaxpr(jax.grad(loss))(x, jnp.ones((64, 2))).jaxpr
    assert max(np.prod(shape) for shape, _ in avals_of(jaxpr)) <= max(64 * 100, 4 * 2000)  # not 64 * 2000


def test_mean_error_by_hand():
    counts = jnp.array([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    x = jnp.array([[1.0, 0.0], [5.0, 99.0], [7.0, 7.0]])
    assert nearest_error(x, jnp.array([[0.0, 0.0], [8.0, 0.0]]), weights=counts).tolist() == (1 + 9) / 2
