import itertools

import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.prune import Masked, geometric_sparsities, iterative, magnitude, rewind


def make_params(seed=0):
    draw = np.random.default_rng(seed).normal
    return {"w": jnp.asarray(draw(size=(8, 8)), jnp.float32), "b": jnp.asarray(draw(size=8), jnp.float32)}


def test_every_round_drops_the_same_fraction_of_what_is_left():
    path = np.array([0.0, *geometric_sparsities(0.9, rounds=5)])
    np.testing.assert_allclose((1 - path[1:]) / (1 - path[:-1]), 0.1 ** (1 / 5), rtol=1e-12)
    assert path[-1] == 0.9  # exactly what was asked for


def test_rewind_gives_the_early_values_under_the_late_masks():
    early, late = make_params(0), magnitude(make_params(1), sparsity=0.5)
    ticket = rewind(late, early)
    np.testing.assert_array_equal(ticket["w"].mask, late["w"].mask)
    np.testing.assert_array_equal(ticket["w"].materialize(), np.where(late["w"].mask, early["w"], 0))
    np.testing.assert_array_equal(ticket["b"], early["b"])
    np.testing.assert_array_equal(rewind(late, late)["w"].values, late["w"].values)


def test_rounds_prune_rewind_and_train():
    early, trained, seen = make_params(0), make_params(1), []

    def train(params, round):
        seen.append((round, params["w"].mask, params["w"].materialize()))
        return params | {"w": Masked.create(trained["w"], params["w"].mask)}  # back to the trained values

    final = iterative(trained, train, sparsity=0.875, rounds=3, rewind_to=early)
    assert [(r, int(mask.sum())) for r, mask, _ in seen] == [(0, 32), (1, 16), (2, 8)]
    for _, mask, values in seen:
        np.testing.assert_array_equal(values, np.where(mask, early["w"], 0))
    for (_, wider, _), (_, narrower, _) in itertools.pairwise(seen):
        assert not (narrower & ~wider).any()  # what is pruned stays pruned
    np.testing.assert_array_equal(final["w"].mask, magnitude(trained, sparsity=0.875)["w"].mask)
    forward = iterative(trained, lambda params, _: params, sparsity={"w": 0.75}, rounds=2)
    assert int(forward["w"].mask.sum()) == 16


def test_errors_name_the_way_out():
    params = make_params()
    with pytest.raises(ValueError, match=r"sparsity must lie in \[0, 1\), got 1"):
        geometric_sparsities(1.0, rounds=2)
    with pytest.raises(ValueError, match="rounds must be at least 1"):
        iterative(params, lambda p, _: p, sparsity=0.5, rounds=0)
    with pytest.raises(ValueError, match="initial has nothing at 'b'"):
        rewind(params, {"w": params["w"]})
    with pytest.raises(ValueError, match=r"'w' has shape \(8, 8\), in initial \(2, 2\)"):
        rewind(params, params | {"w": jnp.ones((2, 2))})
    with pytest.raises(TypeError, match="'w' is a quantized leaf"):
        rewind(jc.quantize.rtn(params, bits=8), params)
