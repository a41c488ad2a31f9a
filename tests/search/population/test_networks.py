"""Masked networks: what padding may not change, and what candidates cost."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.search.population.problems import CNN, MLP, candidates_for, data_for, nth


@pytest.mark.parametrize(("network", "i"), [(MLP, 1), (CNN, 0)], ids=["mlp", "cnn"])
def test_padding_less_changes_nothing(network, i):
    """The same weights from the same key, the same outputs; the parameters are those counted."""
    layers, x = nth(candidates_for(network), i)["layers"], data_for(network)["x"]
    less = network.padded_to(tuple(int(n) for n in network.shape(layers)))

    @jax.jit
    def begun(layers, key, x):
        params = network.init(layers, key), less.init(layers, key)
        outputs = network.apply(params[0], layers, x), less.apply(params[1], layers, x)
        return params, outputs, (network.parameters(layers), less.parameters(layers))

    (full, cut), outputs, counts = begun(layers, jax.random.key(1), x)
    small = network.extract(full, layers)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), small, less.extract(cut, layers))
    assert counts[0] == counts[1] == sum(x.size for x in jax.tree.leaves(small))
    expected = network.dense(small, x)
    for output in outputs:
        np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)


def test_pooling_stays_when_its_layer_is_not_there():
    cnn = dataclasses.replace(CNN, depth=3, pools=(2,))
    layers = {"width": jnp.array([2, 3, 4]), "count": jnp.array(1)}
    key, x = jax.random.key(0), data_for(CNN)["x"]
    outputs = jax.jit(lambda: [net.apply(net.init(layers, key), layers, x) for net in (cnn, cnn.padded_to((2, 1, 3)))])
    np.testing.assert_allclose(*outputs(), rtol=1e-5, atol=1e-6)


def test_costs_by_hand():
    layers = {"width": jnp.array([3, 2]), "count": jnp.array(2)}
    assert MLP.parameters(layers) == (4 * 3 + 3) + (3 * 2 + 2) + (2 * 3 + 3)
    assert MLP.flops(layers) == 2 * (4 * 3 + 3 * 2 + 2 * 3)
    layers |= {"kernel": jnp.array([1, 3])}
    assert CNN.parameters(layers) == (3 + 3) + (9 * 3 * 2 + 2) + (2 * 3 + 3)
    assert CNN.flops(layers) == 2 * (36 * 3 + 9 * (9 * 3 * 2) + 2 * 3)
    assert CNN.shape(layers).tolist() == [3, 2, 3]


def test_initial_weights_have_the_scale_of_the_candidate_s_own_fan_in():
    """He: variance 2 / fan-in, where the fan-in is 8 of 64 units; 4,000 draws give it to 5 %."""
    mlp = dataclasses.replace(MLP, width=64, depth=2)
    layers = {"width": jnp.array([8, 64])}
    drawn = jax.jit(jax.vmap(lambda key: mlp.init(layers, key)["layer1"]["kernel"][:8]))
    many = drawn(jax.random.split(jax.random.key(0), 20))
    assert float(jnp.var(many)) == pytest.approx(2 / 8, rel=0.05)


def test_candidates_that_do_not_fit_are_refused():
    params = MLP.init(nth(candidates_for(MLP), 0)["layers"], jax.random.key(0))
    with pytest.raises(ValueError, match="do not fit a network of 1 to 2 layers of 1 to 6 units"):
        MLP.extract(params, {"width": jnp.array([7, 2])})
    with pytest.raises(ValueError, match="kernel must be odd, got 4"):
        dataclasses.replace(CNN, kernel=4)
    with pytest.raises(ValueError, match="leave nothing of an image"):
        dataclasses.replace(CNN, pools=(0, 1, 2))
    with pytest.raises(ValueError, match=r"MaskedMLP\(width=\) must be an integer of at least 1, got 0"):
        dataclasses.replace(MLP, width=0)
    with pytest.raises(ValueError, match=r"MaskedCNN\(image height=\) must be an integer of at least 1, got -8"):
        dataclasses.replace(CNN, image=(-8, 8, 1))
