"""Recipes carried out on a tiny network: measured, resumable, refused when something is wrong."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.artifact import load, save
from jaxcompress.core.paths import flatten_with_paths
from jaxcompress.pipeline import Recipe, compress

pytestmark = pytest.mark.standard_promotion  # optax.adam's bias correction is float ** int32

KEY = jax.random.key(3)


def model(params, x):
    return jnp.tanh(x @ params["a"]["kernel"] + params["a"]["bias"][None, :]) @ params["b"]


def square_loss(apply, params, batch, key):
    x, y = batch
    return jnp.mean((apply(params, x) - y) ** 2)


def make(seed=0):
    keys = jax.random.split(jax.random.key(seed), 4)
    params = {
        "a": {"kernel": jax.random.normal(keys[0], (6, 16)) * 0.5, "bias": jnp.zeros(16)},
        "b": jax.random.normal(keys[1], (16, 2)) * 0.5,
    }
    x = jax.random.normal(keys[2], (48, 6))
    y = jnp.sin(x @ jax.random.normal(keys[3], (6, 2)))
    return params, (x, y)


PARAMS, DATA = make()
COPY = jax.tree.map(np.array, PARAMS)


def error(apply, params):
    return square_loss(apply, params, DATA, None)


RECIPE = Recipe(
    [
        jc.train.Finetune(steps=12, learning_rate=1e-2, batch_size=8),
        jc.train.GradualPruning(steps=18, learning_rate=1e-2, batch_size=8, sparsity={"**/kernel": 0.75}, every=4),
        jc.cluster.KMeans(bits=2, where="a/kernel"),
        jc.train.Finetune(steps=6, learning_rate=1e-3, batch_size=8),
    ]
)


def run(state_dir=None, *, recipe=RECIPE, params=PARAMS, data=DATA, **options):
    return compress(
        model,
        params,
        recipe,
        key=KEY,
        loss=square_loss,
        evaluate=error,
        data=data,
        inputs=lambda batch: (batch[0],),
        state_dir=state_dir,
        chunk=4,
        **options,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    with jax.numpy_dtype_promotion("standard"):
        return run(folder), folder


def same(a, b):
    (pa, la, _), (pb, lb, _) = flatten_with_paths(a), flatten_with_paths(b)
    assert pa == pb
    assert jax.tree.structure(a) == jax.tree.structure(b)
    return all(
        np.asarray(x).tobytes() == np.asarray(y).tobytes()
        for x, y in zip(jax.tree.leaves(la), jax.tree.leaves(lb), strict=True)
    )


def test_every_stage_is_recorded_with_the_bytes_of_its_file(finished):
    result, folder = finished
    assert [record.name for record in result.records] == list(RECIPE.names)
    for record in (result.original, *result.records):
        assert record.bytes == os.path.getsize(folder / record.file) > 0
        assert record.seconds >= 0
    assert result.compression_ratio == os.path.getsize(folder / "original.npz") / result.records[-1].bytes


def test_the_recorded_error_is_the_one_of_the_recorded_file(finished):
    result, folder = finished
    for record in result.records:
        measured = float(error(jc.lift(model), load(folder / record.file).params))
        assert record.metrics == {"error": measured}


def test_training_stages_learn_and_masks_stay(finished):
    result, _ = finished
    train, prune, cluster, share = result.records
    assert train.metrics["error"] < result.original.metrics["error"]
    assert share.metrics["error"] < cluster.metrics["error"]
    assert prune.sparsity["a/kernel"] == 72 / 96
    assert share.sparsity["a/kernel"] >= 72 / 96
    assert train.curve[-1][0] == 12
    assert [step for step, _, _ in prune.curve] == [4, 8, 12, 16, 18]


def test_after_clustering_only_the_codebooks_and_dense_arrays_move(finished):
    result, folder = finished
    before, after = (load(folder / record.file).params["a"]["kernel"] for record in result.records[-2:])
    assert np.array_equal(before.mask, after.mask)
    assert np.array_equal(before.values.codes, after.values.codes)
    assert not np.array_equal(before.values.codebook, after.values.codebook)
    assert np.unique(np.asarray(after.materialize())).size <= 5, "four entries and the zero of the mask"


def test_the_result_can_be_saved_and_tells_its_recipe(finished, tmp_path):
    result, _ = finished
    save(tmp_path / "model.jxc", result)
    loaded = load(tmp_path / "model.jxc")
    assert same(loaded.params, result.params)
    assert Recipe.from_json(loaded.recipe) == RECIPE
    assert "cluster.KMeans" in str(result)
    assert "<table>" in result._repr_html_()


def test_inputs_are_not_changed(finished):
    assert finished
    assert same(jax.tree.map(jnp.asarray, COPY), PARAMS)


class Stop:
    """A hook that presses Ctrl-C after a number of events."""

    def __init__(self, events):
        self.left = events

    def __call__(self, event):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("events", [8, 16], ids=["while pruning", "while codebooks train"])
def test_an_interrupted_run_goes_on_to_the_same_result(finished, tmp_path, events):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, progress=Stop(events))
    told = []
    result = run(tmp_path, progress=told.append)
    assert same(result.params, finished[0].params)
    for ours, theirs in zip(result.records, finished[0].records, strict=True):
        assert (ours.name, ours.bytes, ours.metrics) == (theirs.name, theirs.bytes, theirs.metrics)
        assert ours.curve == theirs.curve
    assert sum(event.done is not None for event in told) == len(RECIPE)
    assert sum(event.resumed for event in told) == 1, "it says so"


def test_a_finished_run_is_not_repeated(finished):
    result, folder = finished
    told = []
    again = run(folder, progress=told.append)
    assert same(again.params, result.params)
    assert again.records == result.records
    assert all(event.done for event in told)


def test_a_folder_of_another_run_is_refused(finished):
    _, folder = finished
    with pytest.raises(ValueError, match="state of another run"):
        run(folder, params=make(1)[0])
    (folder / "run.json").rename(folder / "kept.json")
    (folder / "run.json").write_text("{}")
    with pytest.raises(ValueError, match="no state of a run"):
        run(folder)
    (folder / "kept.json").rename(folder / "run.json")


def test_a_damaged_checkpoint_is_refused(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, progress=Stop(3))
    checkpoint = tmp_path / "training.npz"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-40])
    with pytest.raises(ValueError, match="damaged"):
        run(tmp_path)


def test_nothing_partial_is_left_behind(finished):
    _, folder = finished
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(["run.json", "original.npz", *(record.file for record in finished[0].records)])
    assert json.loads((folder / "run.json").read_text())["format"] == "jaxcompress.run"


def test_divergence_names_stage_and_step():
    wild = Recipe([jc.train.Finetune(steps=8, learning_rate=1e30, optimizer="sgd", batch_size=8)])
    with pytest.raises(FloatingPointError, match=r"Finetune: the loss is (nan|inf) at step \d of 8"):
        run(recipe=wild)


def test_bad_arguments_are_refused():
    bad = {**PARAMS, "b": PARAMS["b"].at[0, 0].set(jnp.nan)}
    with pytest.raises(ValueError, match="params holds NaN or infinity at 'b'"):
        run(params=bad)
    with pytest.raises(ValueError, match="data holds NaN or infinity at '0'"):
        run(data=(DATA[0].at[3, 2].set(jnp.inf), DATA[1]))
    with pytest.raises(ValueError, match="pass loss= and data="):
        compress(model, PARAMS, RECIPE, key=KEY)
    with pytest.raises(TypeError, match="recipe must be"):
        compress(model, PARAMS, list(RECIPE), key=KEY)
    with pytest.raises(ValueError, match="chunk"):
        compress(model, PARAMS, RECIPE, key=KEY, loss=square_loss, data=DATA, chunk=0)


def test_batch_statistics_are_left_alone_and_where_chooses():
    def fn(variables, x):
        return (x - variables["batch_stats"]["mean"][None, :]) @ variables["params"]["w"] * variables["params"]["s"]

    tree = {"batch_stats": {"mean": jnp.ones(6)}, "params": {"w": jnp.ones((6, 2)), "s": jnp.ones(())}}
    recipe = Recipe([jc.train.Finetune(steps=2, batch_size=8)])
    chosen = Recipe([jc.train.Finetune(steps=2, batch_size=8, where="**/w")])
    options = {"key": KEY, "loss": square_loss, "data": DATA}
    after = compress(fn, tree, recipe, **options).params
    assert same(after["batch_stats"], tree["batch_stats"])
    assert not same(after["params"]["s"], tree["params"]["s"])
    after = compress(fn, tree, chosen, **options).params
    assert same(after["params"]["s"], tree["params"]["s"])
    assert not same(after["params"]["w"], tree["params"]["w"])


def test_data_may_be_a_function_of_the_step():
    x, y = (np.asarray(array) for array in DATA)
    asked = []

    def batch_at(step):
        asked.append(step)
        return x[step : step + 4], y[step : step + 4]

    recipe = Recipe([jc.train.Finetune(steps=6, learning_rate=1e-2)])
    result = compress(model, PARAMS, recipe, key=KEY, loss=square_loss, data=batch_at, evaluate=error, chunk=4)
    assert asked == [0, 1, 2, 3, 4, 5]
    assert result.records[0].metrics["error"] < result.original.metrics["error"]
