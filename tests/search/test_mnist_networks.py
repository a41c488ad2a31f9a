"""The space of `benchmarks.nas_mnist`: the masked network is each of its candidates, and counts are those of arrays."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import mnist_networks

SPACE = mnist_networks.space()
IMAGES = jax.random.uniform(jax.random.key(3), (4, 28, 28))


def test_masked_network_is_the_candidate_on_its_own(compilations):
    @jax.jit
    def masked(genome):
        params = mnist_networks.init(genome, jax.random.key(1))
        return params, mnist_networks.apply(params, genome, IMAGES)

    genes = SPACE.sample(jax.random.key(0), 40)
    rows = [jax.tree.map(lambda x, at=i: x[at], genes) for i in (0, 1, 2)]
    for row in rows:
        params, (logits, _) = masked(SPACE.decode(row))
        config = SPACE.config(row)
        own = mnist_networks.cut(params, config)
        wanted, _ = mnist_networks.own_apply(own, config, IMAGES)
        np.testing.assert_allclose(logits, wanted, atol=1e-5)
        fresh = jax.eval_shape(lambda key, config=config: mnist_networks.own_init(config, key), jax.random.key(0))
        assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, fresh)
    assert compilations("masked") == 1
    choices = [SPACE.config(row) for row in rows]
    assert len({config["norm"] for config in choices} | {config["head"] for config in choices}) == 4


def test_parameters_are_counted():
    genes = SPACE.sample(jax.random.key(0), 40)
    counted = jax.jit(jax.vmap(mnist_networks.parameters))(SPACE.decode(genes))
    configs = [SPACE.config(jax.tree.map(lambda x, at=i: x[at], genes)) for i in range(40)]
    assert counted.tolist() == [mnist_networks.own_parameters(config) for config in configs]
    assert (counted > mnist_networks.MOST_PARAMETERS).any()
    with jax.numpy_rank_promotion("allow"):  # Flax adds biases so
        assert mnist_networks.lenet5_parameters() == mnist_networks.LENET5_PARAMETERS
