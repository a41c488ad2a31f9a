import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.core.lift import lift
from jaxcompress.core.sites import sites
from jaxcompress.core.tree import split_trainable
from jaxcompress.factorize import is_lora, loftq, lora
from jaxcompress.quantize import RTN
from tests.zoo import ZOO
from tests.zoo.model import arrays, data

KEY = jax.random.key(0)


def test_one_iteration_by_numpy():
    """Quantize, then the best approximation of rank 2 of what is missing (float64 SVD)."""
    params, stage = arrays(w=(24, 16)), RTN(bits=2)
    leaf = loftq(params, stage, rank=2, iterations=1)["w"]
    w, q = (np.asarray(a, np.float64) for a in (params["w"], stage(params)["w"].materialize()))
    np.testing.assert_array_equal(leaf.base.materialize(), np.asarray(q, np.float32))
    u, s, vt = np.linalg.svd(w - q)
    # From the Gram matrix in float32, which squares the condition: some 1e-4 of the largest singular value.
    np.testing.assert_allclose(leaf.delta.materialize(), (u[:, :2] * s[:2]) @ vt[:2], atol=1e-3 * s[0], rtol=0)


def test_the_start_is_nearer_than_that_of_qlora():
    """On outputs: below plain quantization; and with more turns the weights are no further away."""
    params, x, stage = arrays(w=(48, 32)), data(64, 48), RTN(format="nf4")

    def fn(params, x):
        return x @ params["w"]

    trees = {"qlora": lora(stage(params), rank=6, key=KEY)}
    trees |= {turns: loftq(params, stage, rank=6, iterations=turns) for turns in (1, 4)}
    outputs = {name: float(jnp.linalg.norm(lift(fn)(tree, x) - fn(params, x))) for name, tree in trees.items()}
    assert max(outputs[1], outputs[4]) < 0.85 * outputs["qlora"]
    away = {name: float(jnp.linalg.norm(tree["w"].materialize() - params["w"])) for name, tree in trees.items()}
    assert away[4] <= away[1] < away["qlora"]


def test_layers_of_a_stack_get_factors_of_their_own():
    model = ZOO["transform_nn_scan"].model
    found = sites(model.fn, model.params, *model.inputs, **model.kwargs)
    out = loftq(model.params, RTN(bits=4), rank=1, iterations=1, sites=found)
    trainable, _ = split_trainable(out, where=is_lora)
    (path,) = model.weights
    layers = model.params["params"]
    assert all(array.shape[0] == jax.tree.leaves(layers)[0].shape[0] for array in jax.tree.leaves(trainable)), path


def test_what_does_not_fit_is_named():
    params = arrays(w=(16, 12))
    with pytest.raises(ValueError, match="iterations must be"):
        loftq(params, RTN(bits=4), rank=1, iterations=0)
    with pytest.raises(ValueError, match="rank must be"):
        loftq(params, RTN(bits=4), rank=0)
    with pytest.raises(ValueError, match="'w' is compressed already"):
        loftq(RTN(bits=4)(params), RTN(bits=4), rank=1)
    with pytest.raises(ValueError, match="leaves 'w' dense"):
        loftq(params | {"v": params["w"]}, RTN(bits=4, where="v"), rank=1)
