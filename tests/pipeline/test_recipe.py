import dataclasses
import json
from typing import ClassVar

import pytest

import jaxcompress as jc
from jaxcompress.pipeline.recipe import Recipe, stage_name


@dataclasses.dataclass(frozen=True)
class Halve:
    """A stage of a third party."""

    where: tuple[str, ...] | None = None

    version: ClassVar[int] = 3

    def __call__(self, params, *, sites=None):
        return params


STAGES = [
    jc.prune.Magnitude(sparsity={"a/*": 0.5, "**": 0.25}, where=("**/kernel", "!head/*")),
    jc.train.GradualPruning(steps=20, sparsity=0.9, prune_where=["**/kernel"]),
    jc.train.Finetune(steps=3, learning_rate=0.01, optimizer="sgd", schedule="constant", warmup_steps=2),
    jc.factorize.SVD(rank={"a/*": jc.factorize.energy(0.9), "**": jc.factorize.budget(parameters=0.5)}, seed=3),
]


def test_round_trip_gives_equal_stages():
    recipe = Recipe(STAGES)
    assert Recipe.from_json(recipe.to_json()).stages == tuple(STAGES)
    assert Recipe.from_json(json.loads(recipe.to_json())) == recipe, "an artifact gives the object, not the text"


def test_a_setting_inside_of_a_stage_is_versioned_too():
    raw = json.loads(Recipe([jc.factorize.SVD(rank=jc.factorize.evbmf())]).to_json())
    rule = raw["stages"][0]["fields"]["rank"]
    assert rule == {"stage": "factorize.EVBMF", "version": 1, "fields": {"or_dense": False}}
    rule["version"] = 2
    with pytest.raises(ValueError, match=r"factorize\.EVBMF of version 2; here it is version 1"):
        Recipe.from_json(raw)


def test_json_is_versioned_and_names_every_stage():
    raw = json.loads(Recipe(STAGES).to_json())
    assert (raw["format"], raw["version"]) == ("jaxcompress.recipe", 1)
    assert [stage["stage"] for stage in raw["stages"]] == [
        "prune.Magnitude",
        "train.GradualPruning",
        "train.Finetune",
        "factorize.SVD",
    ]
    assert all(stage["version"] == 1 for stage in raw["stages"])


def test_own_stages_round_trip_and_are_never_imported():
    text = Recipe([Halve(("a",))]).to_json()
    assert Recipe.from_json(text, stages=[Halve]) == Recipe([Halve(("a",))])
    with pytest.raises(ValueError, match=f"{stage_name(Halve)!r}, which is not here"):
        Recipe.from_json(text)


@pytest.mark.parametrize("name", ["os.system", "prune.magnitude", "prune.Nothing", "artifact.Artifact", "prune"])
def test_names_that_are_no_stages_are_refused(name):
    raw = {"format": "jaxcompress.recipe", "version": 1, "stages": [{"stage": name, "version": 1, "fields": {}}]}
    with pytest.raises(ValueError, match="which is not here"):
        Recipe.from_json(json.dumps(raw))


def changed(**changes):
    raw = json.loads(Recipe(STAGES[2:]).to_json())
    return json.dumps({**raw, **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "no recipe"),
        (changed(format="other"), "no recipe"),
        (changed(version=2), "version 2"),
        (changed(stages=[]), "at least one stage"),
        (changed(stages=[3]), "a name and fields"),
        (changed(stages=[{"stage": "train.Finetune", "version": 9, "fields": {"steps": 1}}]), "version 9"),
        (changed(stages=[{"stage": "train.Finetune", "version": 1, "fields": {"stepz": 1}}]), "no field 'stepz'"),
        (changed(stages=[{"stage": "train.Finetune", "version": 1, "fields": {}}]), "steps"),
        (changed(stages=[{"stage": "train.Finetune", "version": 1, "fields": {"steps": 0}}]), "1 or more, got 0"),
    ],
)
def test_wrong_texts_are_refused_with_the_reason(text, message):
    with pytest.raises(ValueError, match=message):
        Recipe.from_json(text)


def test_what_is_no_stage_is_refused():
    with pytest.raises(TypeError, match=r"stage 2 of the recipe must be an instance"):
        Recipe([STAGES[0], lambda params: params])
    with pytest.raises(TypeError, match="must be an instance"):
        Recipe([jc.prune.Magnitude])


def test_a_field_that_json_cannot_hold_is_named():
    with pytest.raises(TypeError, match=r"Magnitude\.where.*globs, not predicates"):
        Recipe([jc.prune.Magnitude(sparsity=0.5, where=lambda path, leaf: True)]).to_json()
