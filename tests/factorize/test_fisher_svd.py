"""FWSVD against Hsu et al.'s equations in NumPy float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.factorize import fwsvd, fwsvd_factors, svd

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def published(w, importance, rank):
    """``(I^ W)_r``, multiplied by ``I^ ^-1`` again."""
    rows = np.sqrt(np.asarray(importance, np.float64).sum(1))[:, None]
    u, s, vt = np.linalg.svd(rows * np.asarray(w, np.float64), full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vt[:rank] / rows


@pytest.mark.parametrize("shape", [(12, 8), (8, 12)])
def test_the_equations_of_the_article(shape):
    w, importance = normal(*shape), jnp.asarray(RNG.gamma(0.5, size=shape), jnp.float32)
    u, v = fwsvd_factors(w, importance, rank=3)
    np.testing.assert_allclose(u @ v, published(w, importance, 3), atol=1e-3)  # rows of little importance are divided
    got = fwsvd({"w": w}, rank=3, weights={"w": importance})["w"].materialize()
    np.testing.assert_allclose(got, u @ v, atol=1e-4)
    plain = svd({"w": w}, rank=3)["w"].materialize()
    cost = lambda left: np.sum(np.asarray(importance).sum(1)[:, None] * np.square(np.asarray(w - left)))  # noqa: E731
    assert cost(got) < 0.95 * cost(plain)


def test_a_loss_rises_less_than_with_plain_svd():
    """Real importance: of a regression in which few inputs matter."""
    x = normal(200, 16) * jnp.asarray(np.geomspace(3, 0.03, 16)[None], jnp.float32)
    params = {"w": normal(16, 12)}
    target = x @ params["w"] + 0.1 * normal(200, 12)
    loss = lambda p, batch: jnp.mean(jnp.square(batch[0] @ p["w"] - batch[1]))  # noqa: E731
    fisher = jc.quantize.fisher(loss, params, [(x, target)])
    risen = {
        name: float(loss(jc.materialize(tree), (x, target)))
        for name, tree in (("fwsvd", fwsvd(params, rank=4, weights=fisher)), ("svd", svd(params, rank=4)))
    }
    assert risen["fwsvd"] < 0.5 * risen["svd"], risen


def test_stacks_by_sites_and_layers_without_importance():
    fn = lambda p, x: jax.lax.scan(lambda x, w: (x @ w, None), x, p["layers"])[0]  # noqa: E731
    params = {"layers": normal(2, 8, 8)}
    sites = jc.sites(fn, params, jnp.ones((1, 8)))
    importance = jnp.asarray(RNG.random((2, 8, 8)), jnp.float32).at[1].set(0)
    thin = fwsvd(params, rank=2, weights={"layers": importance}, sites=sites)["layers"]
    assert (thin.u.shape, thin.v.shape) == ((2, 8, 2), (2, 2, 8))
    np.testing.assert_allclose(thin.materialize()[0], published(params["layers"][0], importance[0], 2), atol=1e-3)
    plain = svd({"w": params["layers"][1]}, rank=2)["w"]
    np.testing.assert_allclose(thin.materialize()[1], plain.materialize(), atol=1e-4)


def test_bad_weights_are_named():
    w = normal(8, 8)
    with pytest.raises(ValueError, match=r"fwsvd: weights= has nothing for 'w' \(shape \(8, 8\)\)"):
        fwsvd({"w": w}, rank=2, weights={})
    with pytest.raises(ValueError, match=r"an array of the shape \(8, 1\) for 'w'"):
        fwsvd({"w": w}, rank=2, weights={"w": w[:, :1]})
    with pytest.raises(ValueError, match="'w' are negative, NaN or infinite somewhere"):
        fwsvd({"w": w}, rank=2, weights={"w": -jnp.abs(w)})
    with pytest.raises(ValueError, match=r"rank 4 saves nothing in 'w'"):
        fwsvd({"w": w}, rank=4, weights={"w": jnp.abs(w)})
    with pytest.raises(ValueError, match="'w' is factorized already"):
        fwsvd(svd({"w": w}, rank=2), rank=1, weights={"w": jnp.abs(w)})
