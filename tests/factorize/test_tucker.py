import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.factorize import Tucker, TuckerArray, tucker
from jaxcompress.prune import Masked

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def lowrank_kernel(ranks, noise=0.0):
    """A kernel (3, 3, 12, 16) whose feature unfoldings have these ranks, and noise."""
    core, u, v = normal(3, 3, *ranks), normal(12, ranks[0]), normal(16, ranks[1])
    return jnp.einsum("hwab,ia,ob->hwio", core, u, v) + noise * normal(3, 3, 12, 16)


def model(params, x):
    x = jax.lax.conv_general_dilated(x, params["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    x = jnp.einsum("bhwc,cnd->bhwnd", x, params["heads"]).reshape(*x.shape[:3], -1)
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params["layers"])[0]


def params_of_model():
    return {"conv": lowrank_kernel((4, 5)), "heads": normal(16, 4, 6), "layers": normal(2, 24, 24)}


@pytest.mark.slow
def test_axes_are_known_from_the_sites():
    params, x = params_of_model(), normal(2, 5, 5, 12)
    sites = jc.sites(model, params, x)
    small = tucker(params, rank={"conv": (4, 5), "heads": (6, None, 3), "layers": 6}, sites=sites)
    assert {name: leaf.component_paths() for name, leaf in small.items()} == {
        "conv": ("core", "factor2", "factor3"),
        "heads": ("core", "factor0", "factor2"),
        "layers": ("core", "factor0", "factor1"),
    }
    assert {name: leaf.ranks for name, leaf in small.items()} == {
        "conv": (3, 3, 4, 5),
        "heads": (6, 4, 3),
        "layers": (6, 6),
    }
    assert small["layers"].shape == (2, 24, 24)
    np.testing.assert_allclose(small["conv"].materialize(), params["conv"], atol=1e-4)  # its ranks are these
    dense = model(jc.materialize(small), x)
    np.testing.assert_allclose(jc.lift(model)(small, x), dense, atol=2e-4)  # sums of some hundred before a tanh
    everything = tucker(params, rank=2, modes="all", where="conv", sites=sites)["conv"]
    assert everything.ranks == (2, 2, 2, 2)
    first = tucker(params, rank=2, modes=(0, 3), where="conv", sites=sites)["conv"]
    assert first.component_paths() == ("core", "factor0", "factor3")


def test_fractions_hold_at_least_that_part_of_the_whole():
    w = normal(3, 3, 12, 16) * jnp.asarray(0.7 ** np.arange(12), jnp.float32)[None, None, :, None]
    sites = jc.sites(lambda p, x: conv(x, p["w"]), {"w": w}, jnp.ones((1, 4, 4, 12)))
    for fraction in (0.5, 0.8, 0.9):
        small = tucker({"w": w}, rank=fraction, sweeps=0, sites=sites)["w"]
        assert jnp.sum(jnp.square(small.core)) >= fraction * jnp.sum(jnp.square(w))


def conv(x, w):
    return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def test_variational_bayes_finds_the_ranks_under_noise():
    """Kim et al.: the ranks of both unfoldings stand out of the noise."""
    core, u, v = normal(3, 3, 4, 6), normal(48, 4), normal(64, 6)
    w = jnp.einsum("hwab,ia,ob->hwio", core, u, v) + normal(3, 3, 48, 64)
    sites = jc.sites(lambda p, x: conv(x, p["w"]), {"w": w}, jnp.ones((1, 4, 4, 48)))
    small = tucker({"w": w}, rank=jc.factorize.evbmf(), sites=sites)["w"]
    assert small.ranks == (3, 3, 4, 6)
    noise = normal(3, 3, 12, 16)
    with pytest.raises(ValueError, match=r"which 0\.99 of the energy takes, save nothing"):
        tucker(
            {"w": noise}, rank=0.98, sites=jc.sites(lambda p, x: conv(x, p["w"]), {"w": noise}, jnp.ones((1, 4, 4, 12)))
        )
    kept = tucker({"w": normal(8, 8)}, rank=jc.factorize.energy(0.99, or_dense=True))
    assert isinstance(kept["w"], jax.Array)


def test_sweeps_lower_the_error_of_outputs():
    """HOOI against the HOSVD, and Tucker-2 by the data's own measure: the outputs."""
    w, x = normal(3, 3, 12, 16), normal(4, 6, 6, 12)
    sites = jc.sites(lambda p, x: conv(x, p["w"]), {"w": w}, x)
    errors = [
        float(
            jnp.linalg.norm(conv(x, tucker({"w": w}, rank=(5, 6), sweeps=sweeps, sites=sites)["w"].materialize() - w))
        )
        for sweeps in (0, 1, 5)
    ]
    assert errors[0] > errors[1] > errors[2]


def test_masked_values_same_shapes_and_the_stage(compilations):
    mask = jnp.asarray(RNG.random((24, 24)) < 0.5)
    params = {"a": normal(24, 24), "b": Masked.create(normal(24, 24), mask), "c": normal(24, 24)}
    small = tucker(params, rank={"a": 4, "b": 4})
    assert isinstance(small["b"].values, TuckerArray)
    assert small["c"] is params["c"]
    np.testing.assert_array_equal(np.asarray(small["b"].materialize())[~np.asarray(mask)], 0)
    assert compilations("_decomposed") == 1  # two leaves of one shape, one program
    staged = Tucker(rank={"a": 4, "b": [4, 4]})(params)
    assert compilations("_decomposed") == 1
    np.testing.assert_array_equal(staged["a"].core, small["a"].core)


def test_bfloat16_weights_get_bfloat16_factors():
    leaf = tucker({"w": normal(12, 12).astype(jnp.bfloat16)}, rank=2)["w"]
    assert {leaf.core.dtype, leaf.factor0.dtype, leaf.dtype} == {jnp.dtype(jnp.bfloat16)}


def test_ranks_that_nothing_could_fill_are_cut():
    assert tucker({"w": normal(20, 20)}, rank=(5, 3))["w"].ranks == (3, 3)


def test_what_saves_nothing_or_cannot_be_read_is_named():
    w = normal(10, 10)
    # r ** 2 + 20 r = 100 at r = sqrt(200) - 10
    with pytest.raises(
        ValueError, match=r"ranks \(5, 5\) save nothing in 'w'.* 125 entries for 100; .*\(4\.142, 4\.142\)"
    ):
        tucker({"w": w}, rank=5)
    with pytest.raises(ValueError, match="one entry for each mode of 'w'"):
        tucker({"w": w}, rank=(2, 2, 2))
    with pytest.raises(ValueError, match="sweeps must be an integer from 0 on, got -1"):
        tucker({"w": w}, rank=2, sweeps=-1)
    with pytest.raises(ValueError, match="modes must be 'channels', 'all' or axes from 0 to 1 for 'w'"):
        tucker({"w": w}, rank=2, modes=(0, 2))
    with pytest.raises(ValueError, match="pass sites="):
        tucker({"w": normal(3, 3, 2, 4)}, rank=1)
    with pytest.raises(ValueError, match="'w' holds NaN or infinity"):
        tucker({"w": w.at[0, 0].set(jnp.nan)}, rank=1)
    with pytest.raises(ValueError, match="'w' is a tucker leaf already"):
        tucker(tucker({"w": w}, rank=2), rank=1)
    with pytest.raises(ValueError, match="'w' is a lowrank leaf already"):
        tucker(jc.factorize.svd({"w": w}, rank=2), rank=1)
    with pytest.raises(TypeError, match="outside of jit"):
        jax.jit(lambda p: tucker(p, rank=0.5))({"w": w})
