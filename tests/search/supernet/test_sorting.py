"""Units in the order of their importance: the whole network stays, its first units are worth most."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.search import Choice, Space
from jaxcompress.search.supernet import sorted_by_importance
from jaxcompress.search.supernet.elastic import ElasticDense, ElasticNetwork
from tests.search.supernet.test_supernet import mlp
from tests.zoo.model import arrays, data


def test_the_network_stays_and_the_first_units_are_the_largest():
    fn, params, (x,), _ = mlp()
    moved = sorted_by_importance(fn, params, jax.ShapeDtypeStruct(x.shape, x.dtype))
    np.testing.assert_allclose(fn(moved, x), fn(params, x), rtol=1e-4, atol=1e-5)
    for name in ("one", "two"):
        size = np.abs(moved[name]["a"]).sum(0) + np.abs(moved[name]["c"]).sum(1)
        assert (np.diff(size) <= 1e-6).all()
    assert any(bool(jnp.any(a != b)) for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(params), strict=True))


def test_units_whose_place_matters_stay():
    params, x = arrays(a=(3, 6), b=(6, 4), c=(4, 2)), data(5, 3)

    def fn(p, x):
        h = jax.nn.relu(x @ p["a"]) * jnp.linspace(1.0, 2.0, 6)[None]
        return jax.nn.relu(h @ p["b"]) @ p["c"]

    moved = sorted_by_importance(fn, params, x)
    np.testing.assert_array_equal(moved["a"], params["a"])
    assert bool(jnp.any(moved["c"] != params["c"]))
    np.testing.assert_allclose(fn(moved, x), fn(params, x), rtol=1e-4, atol=1e-5)


def test_an_elastic_network_loses_less():
    """Halves of a layer whose units have very different weights, before and after."""
    net = ElasticNetwork(Halved(), Space({"width": Choice((8, 16))}))
    x = data(64, 8)
    params = net.init(jax.random.key(0), x)
    scale = jnp.linspace(0.1, 3.0, 16)  # the last units matter most
    inner = params["params"]["first"]
    params["params"]["first"] = {"kernel": inner["kernel"] * scale[None], "bias": inner["bias"]}
    whole, half = net.largest, net.smallest
    moved = sorted_by_importance(lambda p, x: net.apply(p, {"width": 16}, x), params, x)
    wanted = net.apply(params, whole, x)
    np.testing.assert_allclose(net.apply(moved, whole, x), wanted, rtol=1e-4, atol=1e-4)
    lost = [float(jnp.mean((net.apply(p, half, x) - wanted) ** 2)) for p in (params, moved)]
    assert lost[1] < 0.5 * lost[0]


class Halved(nn.Module):
    @nn.compact
    def __call__(self, x, genome):
        return ElasticDense(4, name="second")(jax.nn.relu(ElasticDense(16, name="first")(x, genome["width"])))


def test_nothing_to_sort():
    params = arrays(w=(3, 2))
    assert sorted_by_importance(lambda p, x: x @ p["w"], params, data(4, 3)) is params
