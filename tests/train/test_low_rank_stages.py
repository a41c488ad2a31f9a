import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.factorize import LowRank

pytestmark = pytest.mark.standard_promotion
RNG = np.random.default_rng(0)


def model(params, x):
    return jnp.tanh(x @ params["a"]["kernel"] + params["a"]["bias"][None]) @ params["b"]


def square_loss(apply, params, batch, key):
    x, y = batch
    return jnp.mean((apply(params, x) - y) ** 2)


@pytest.mark.parametrize(
    "stage",
    [
        jc.train.GradualRank(steps=20, batch_size=16, learning_rate=1e-2, rank=2, every=4, rank_where="a/kernel"),
        jc.train.NuclearNorm(
            steps=20,
            batch_size=16,
            learning_rate=1e-2,
            strength=4.0,
            every=5,
            rank_where="a/kernel",
            schedule="constant",
        ),
    ],
    ids=lambda stage: type(stage).__name__,
)
def test_a_recipe_ends_with_low_rank_leaves_that_lost_nothing(stage, tmp_path):
    x = RNG.normal(size=(64, 10)).astype(np.float32)
    data = (x, np.sin(x[:, :2] + 1).astype(np.float32))
    params = {
        "a": {"kernel": jnp.asarray(0.1 * RNG.normal(size=(10, 12)), jnp.float32), "bias": jnp.zeros(12)},
        "b": jnp.asarray(RNG.normal(size=(12, 2)), jnp.float32),
    }
    recipe = jc.Recipe([stage, jc.quantize.RTN(bits=8, where="a/kernel")])
    assert jc.Recipe.from_json(recipe.to_json()) == recipe
    evaluate = lambda apply, params: square_loss(apply, params, data, None)  # noqa: E731
    result = jc.compress(
        model,
        params,
        recipe,
        key=jax.random.key(0),
        loss=square_loss,
        evaluate=evaluate,
        data=data,
        inputs=lambda batch: (batch[0],),
        state_dir=tmp_path,
    )
    trained = jc.load(tmp_path / result.records[0].file).params["a"]["kernel"]
    assert isinstance(trained, LowRank)
    assert trained.rank <= 4
    assert (result.params["a"]["kernel"].kind, result.params["a"]["kernel"].u.kind) == ("lowrank", "quantized")
    before, after = (float(evaluate(jc.lift(model), p)) for p in (params, result.params))
    assert after < before


def test_settings_that_cannot_be_carried_out_are_named():
    with pytest.raises(ValueError, match=r"every must divide steps.* got 7 of 20"):
        jc.train.NuclearNorm(steps=20, strength=1.0, every=7)
    with pytest.raises(ValueError, match="strength must be 0 or more, got -1"):
        jc.train.NuclearNorm(steps=20, strength=-1, every=5)
    with pytest.raises(ValueError, match="begin and end must satisfy"):
        jc.train.GradualRank(steps=20, rank=2, begin=0.9, end=0.5)
    with pytest.raises(ValueError, match="every must be an integer of 1 or more, got 0"):
        jc.train.GradualRank(steps=20, rank=2, every=0)
