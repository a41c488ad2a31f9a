"""Lottery tickets as a recipe: back to the weights of an earlier stage, under the masks of a later one."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.pipeline import Recipe, compress
from jaxcompress.prune import Masked
from jaxcompress.train import Finetune, Rewind, iterative_stages

PARAMS = {"w": jnp.arange(16.0).reshape(4, 4) - 8, "b": jnp.ones(4)}


@dataclasses.dataclass(frozen=True)
class Shift:
    """Stands for training: every weight moves, masks stay."""

    by: float
    version: ClassVar[int] = 1

    def __call__(self, params, *, sites=None):
        w = params["w"]
        moved = Masked.create(w.values + self.by, w.mask) if isinstance(w, Masked) else w + self.by
        return {"w": moved, "b": params["b"] + self.by}


def run(recipe, state_dir=None, progress=None):
    key = jax.random.key(0)
    return compress(lambda p, x: x @ p["w"], PARAMS, recipe, key=key, state_dir=state_dir, progress=progress).params


@pytest.mark.parametrize(("to", "shift"), [(0, 0.0), (1, 10.0), (3, 7.0)])
def test_a_stage_goes_back_to_the_weights_of_an_earlier_one(to, shift):
    recipe = Recipe([Shift(10.0), jc.prune.Magnitude(0.5), Shift(-3.0), Rewind(to)])
    ticket = run(recipe)
    mask = jnp.arange(16).reshape(4, 4) >= 8  # the largest of 2 .. 17
    np.testing.assert_array_equal(ticket["w"].mask, mask)
    np.testing.assert_array_equal(ticket["w"].materialize(), jnp.where(mask, PARAMS["w"] + shift, 0))
    np.testing.assert_array_equal(ticket["b"], 1 + shift)


def test_an_interrupted_recipe_still_finds_the_earlier_weights(tmp_path):
    recipe = Recipe([Shift(10.0), jc.prune.Magnitude(0.5), Shift(-3.0), Rewind(1), Shift(1.0)])

    def stop(progress):
        if progress.name == "train.Rewind":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path, stop)
    jax.tree.map(np.testing.assert_array_equal, run(recipe, tmp_path), run(recipe))


def test_rounds_as_stages():
    train = Finetune(steps=5)
    recipe = Recipe([train, *iterative_stages(train, sparsity=0.875, rounds=3, rewind_to=1, where="w")])
    assert recipe.names == ("train.Finetune", *("prune.Magnitude", "train.Rewind", "train.Finetune") * 3)
    assert [stage.sparsity for stage in recipe.stages[1::3]] == [0.5, 0.75, 0.875]
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert len(iterative_stages(train, sparsity=0.5, rounds=2)) == 4  # without rewinding


def test_stages_that_there_are_not_are_refused():
    with pytest.raises(ValueError, match="stage 2 of the recipe goes back to the result of stage 2"):
        Recipe([Shift(1.0), Rewind(2)])
    with pytest.raises(ValueError, match="to must be the number of an earlier stage, or 0, got -1"):
        Rewind(-1)
