"""Quantization-aware training as stages of a recipe."""

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

import jaxcompress as jc
from jaxcompress.quantize import QAT, Convert, Prepare, Quantized, prepare
from jaxcompress.quantize.training.fake import FewLevels, LearnedStep
from jaxcompress.quantize.training.fake_input import PACT

RNG = np.random.RandomState(0)
X = jnp.asarray(RNG.standard_normal((64, 6)), jnp.float32)
Y = jnp.sin(X[:, :2])
PARAMS = {"a": jnp.asarray(RNG.standard_normal((6, 8)), jnp.float32), "b": jnp.asarray(RNG.randn(8, 2), jnp.float32)}


def model(params, x):
    return jnp.tanh(x @ params["a"]) @ params["b"]


def loss(apply, params, batch, key):
    x, y = batch
    return jnp.mean((apply(params, x) - y) ** 2)


@pytest.mark.standard_promotion
def test_a_recipe_prepares_trains_and_converts():
    stages = [Prepare(bits=3), jc.train.Finetune(steps=40, learning_rate=1e-2, batch_size=32), Convert()]
    recipe = jc.Recipe(stages)
    assert jc.Recipe.from_json(recipe.to_json()) == recipe
    evaluate = lambda apply, params: loss(apply, params, (X, Y), None)  # noqa: E731
    told = {"key": jax.random.key(0), "loss": loss, "evaluate": evaluate, "data": (X, Y)}
    result = jc.compress(model, PARAMS, recipe, **told)
    assert all(isinstance(leaf, Quantized) for leaf in jax.tree.leaves(result.params, is_leaf=jc.is_compressed))
    before = float(loss(jc.lift(model), jc.quantize.convert(prepare(PARAMS, QAT(3))), (X, Y), None))
    assert float(loss(jc.lift(model), result.params, (X, Y), None)) < 0.7 * before


def test_the_stage_is_the_method():
    stage = Prepare(
        method="xnor", granularity="tensor", activation_bits={"a": 4}, activation_method="pact", where=["a", "b"]
    )
    prepared = stage(PARAMS, sites=jc.sites(model, PARAMS, X))
    assert isinstance(prepared["a"], PACT)
    assert isinstance(prepared["a"].weight, FewLevels)
    assert isinstance(prepared["b"], FewLevels)
    assert isinstance(Prepare()(PARAMS)["a"], LearnedStep)
    with pytest.raises(ValueError, match="which start without data, got 'lsq'"):
        Prepare(activation_bits=4, activation_method="lsq")
    with pytest.raises(ValueError, match="bits must be integers"):
        Prepare(bits=11)


def test_checkpoints_hold_prepared_trees(tmp_path):
    prepared = prepare(PARAMS, QAT(4))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "run", prepared)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "run", jax.eval_shape(lambda: prepared))
    assert jax.tree.structure(restored) == jax.tree.structure(prepared)
    jax.tree.map(np.testing.assert_array_equal, restored, prepared)
