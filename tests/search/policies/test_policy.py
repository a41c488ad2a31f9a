"""The whole search: what it promises of the policy it chooses."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcompress as jc
from jaxcompress.search.policies import Channels, Setting, realize, settings, variant_table
from jaxcompress.search.policies.costs import CostItem, Costs
from jaxcompress.search.policies.goal import Goal, goal_of
from jaxcompress.search.policies.latency import with_latency
from jaxcompress.search.policies.policy import _keeps
from jaxcompress.search.policies.result import Judgement
from jaxcompress.search.policies.sizes import file_bytes
from tests.search.policies import small

SEARCH, REPORT = small.data(1), small.data(2)
CHOICES = {"**/kernel": settings(bits=(2, 4, 8), sparsity=(0.0, 0.5))}
KEY = jax.random.key(5)
SMALL = {"evaluations": 120, "executor": "map", "inputs": (SEARCH[0][:2],)}


def uneven():
    """The network with a first layer that matters much and a middle one that hardly does."""
    params = small.params()
    b = params["b"]["kernel"]
    return {**params, "b": {**params["b"], "kernel": jnp.eye(16) + 0.02 * b}}


def data(seed):
    x, _ = small.data(seed)
    return x, small.fn(uneven(), x)


@pytest.fixture(scope="module")
def found():
    return jc.search.policy(
        small.fn, uneven(), small.evaluate, choices=CHOICES, budget={"stored_bits": 6500}, key=KEY,
        data=data(1), report_data=data(2), metric="loss", strategy=jc.search.NSGA2(population=24), **SMALL,
    )  # fmt: skip


def test_the_policy_keeps_its_bound_and_beats_the_uniform_one(found):
    assert found.real["stored_bits"] <= 6500
    assert found.uniform.real["stored_bits"] <= 6500
    assert found.real["loss"] < 0.7 * found.uniform.real["loss"]
    assert found.report["loss"] < 0.8 * found.uniform.report["loss"]
    assert len({str(one) for one in found.settings.values()}) > 1


def test_without_data_to_fit_to_predictions_are_exact(found):
    assert found.predicted["stored_bits"] == found.real["stored_bits"]
    assert found.predicted["loss"] == pytest.approx(found.real["loss"], rel=1e-4)
    assert found.predicted["bytes"] == pytest.approx(found.real["bytes"], rel=0.1)
    assert found.dense.report["loss"] == 0


@pytest.mark.parametrize("most", [1 << 24, 0])
def test_files_of_large_networks_are_written_for_the_best_only(monkeypatch, most):
    written = []

    def counted(model, coder):
        written.append(model)
        return file_bytes(model, coder)

    monkeypatch.setattr("jaxcompress.search.policies.written.file_bytes", counted)
    monkeypatch.setattr(importlib.import_module("jaxcompress.search.policies.policy"), "_SMALL", most)
    found = jc.search.policy(
        small.fn, uneven(), small.evaluate, choices=CHOICES, budget={"bytes": 800}, key=KEY,
        data=data(1), metric="loss", strategy=jc.search.NSGA2(population=24), **SMALL,
    )  # fmt: skip
    assert found.real["bytes"] <= 800
    assert (len(written) > 64) == (most > 0)


def test_evolution_is_no_worse_than_what_it_began_with(found):
    fits = found.costs.of(found.rows)["stored_bits"] <= 6500
    best = found.metrics["loss"][fits].min()
    assert found.predicted["loss"] == pytest.approx(best)
    seeds = found.table.uniform_rows()
    assert {tuple(row) for row in seeds.tolist()} <= {tuple(row) for row in found.rows.tolist()}
    assert found.generations >= 2


def test_the_front_is_that_of_all_policies(found):
    rows, numbers = found.front()
    cost = found.costs.of(found.rows)["stored_bits"]
    for c, loss in zip(numbers["stored_bits"], numbers["loss"], strict=True):
        assert not ((cost < c) & (found.metrics["loss"] <= loss)).any()
    assert len(rows) > 3
    assert (np.diff(numbers["loss"]) < 0).all()


def test_scores_are_taken_again_before_evolution(found):
    assert found.rounds >= 1
    assert f"{found.rounds} rounds" in repr(found)


def test_another_search_takes_the_table_of_this_one(found):
    given = {"choices": found.table, "budget": {"stored_bits": 6500}, "key": KEY, "data": data(1), "metric": "loss"}
    again = jc.search.policy(found.table.fn, found.table.params, small.evaluate, **given, **{**SMALL, "evaluations": 0})
    assert again.table is found.table
    assert found.predicted["loss"] <= again.predicted["loss"]
    with pytest.raises(ValueError, match="choices= is a table of another network"):
        jc.search.policy(small.fn, uneven(), small.evaluate, **given, **SMALL)


def test_it_is_shown_and_saved(found, tmp_path):
    text = repr(found)
    assert "least loss with stored_bits <= 6,500" in text
    assert "policy: held out" in text
    assert "<table>" in found._repr_html_()
    assert jc.save(tmp_path / "model.jxc", found) == found.real["bytes"]
    out = jc.load(tmp_path / "model.jxc").bind(small.fn)(SEARCH[0])
    np.testing.assert_allclose(out, jc.lift(found.fn)(found.params, SEARCH[0]), rtol=1e-6)


@pytest.mark.slow
def test_the_same_key_finds_the_same_policy(found):
    again = jc.search.policy(
        small.fn, uneven(), small.evaluate, choices=CHOICES, budget={"stored_bits": 6500}, key=KEY,
        data=data(1), metric="loss", strategy=jc.search.NSGA2(population=24), **SMALL,
    )  # fmt: skip
    assert again.chosen.row.tolist() == found.chosen.row.tolist()
    assert again.rows.tolist() == found.rows.tolist()
    assert again.report is None


@pytest.mark.slow
def test_the_smallest_file_at_a_loss_with_channels_and_data(tmp_path):
    found = jc.search.policy(
        small.fn, uneven(), small.evaluate,
        choices={"**/kernel": [Setting(bits=4), Setting(bits=8)], "a/bias": [Channels(0.75)]},
        budget={"loss": 0.3}, key=KEY, data=data(1), calibration=[data(3)[0]], finalists=2,
        strategy=jc.search.NSGA2(population=16), **{**SMALL, "evaluations": 40},
    )  # fmt: skip
    assert found.goal.minimize == "bytes"
    assert found.real["loss"] <= 0.3
    assert found.real["bytes"] == jc.save(tmp_path / "model.jxc", found)
    assert list(found.units.values()) == [12]
    out = jc.load(tmp_path / "model.jxc").bind(small.fn)(SEARCH[0])
    np.testing.assert_allclose(out, jc.lift(found.fn)(found.params, SEARCH[0]), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.standard_promotion
def test_fine_tuning_trains_what_will_be_and_masks_stay():
    x, y = data(4)
    tx = optax.adam(1e-3)

    def finetune(apply, params):
        trained, held = jc.split_trainable(params)

        def train(trained):
            def step(carry, _):
                params, state = carry
                grads = jax.grad(lambda p: small.evaluate(apply, jc.merge(p, held), (x, y))["loss"])(params)
                updates, state = tx.update(grads, state, params)
                return (optax.apply_updates(params, updates), state), None

            return jax.lax.scan(step, (trained, tx.init(trained)), None, length=150)[0][0]

        return jc.merge(jax.jit(train)(trained), held)

    given = {
        "choices": {"**/kernel": [Setting(bits=3, sparsity=0.5)]}, "budget": {"stored_bits": 1.0}, "key": KEY,
        "data": data(1), "report_data": data(2), "metric": "loss", **{**SMALL, "evaluations": 0},
    }  # fmt: skip
    plain = jc.search.policy(small.fn, uneven(), small.evaluate, **given)
    tuned = jc.search.policy(small.fn, uneven(), small.evaluate, finetune=finetune, **given)
    assert tuned.report["loss"] < 0.7 * plain.report["loss"]
    for name in "abc":
        leaf, before = tuned.params[name]["kernel"], plain.params[name]["kernel"]
        np.testing.assert_array_equal(leaf.mask, before.mask)
        assert (np.asarray(leaf.materialize())[~np.asarray(leaf.mask)] == 0).all()
        codes = np.asarray(leaf.materialize()) / np.asarray(leaf.values.scale)
        np.testing.assert_allclose(codes, np.round(codes), atol=1e-4)
    with pytest.raises(ValueError, match="must return the tree that it was given"):
        jc.search.policy(small.fn, uneven(), small.evaluate, finetune=lambda fn, p: jc.materialize(p), **given)


def test_budgets_that_cannot_be_met_are_refused():
    given = {"choices": CHOICES, "key": KEY, "data": data(1), "metric": "loss", **SMALL}
    with pytest.raises(ValueError, match="stored_bits=100 cannot be met: the least possible is stored_bits"):
        jc.search.policy(small.fn, uneven(), small.evaluate, budget={"stored_bits": 100}, **given)
    given["evaluations"] = 0
    with pytest.raises(ValueError, match=r"really keeps the bounds .*loss 0\.0"):
        jc.search.policy(small.fn, uneven(), small.evaluate, budget={"loss": 1e-12}, **given)
    with pytest.raises(ValueError, match="budget='size' is no cost"):
        jc.search.policy(small.fn, uneven(), small.evaluate, budget={"size": 100}, **given)
    with pytest.raises(ValueError, match="budget= is empty"):
        jc.search.policy(small.fn, uneven(), small.evaluate, budget={}, **given)


@pytest.mark.slow
def test_latency_is_predicted_from_the_products_and_measured():
    found = jc.search.policy(
        small.fn, uneven(), small.evaluate, choices={"**/kernel": [Setting(bits=8), Setting(rank=0.5)]},
        budget={"latency_ms": 1e3}, key=KEY, data=data(1), metric="loss", **{**SMALL, "evaluations": 0},
    )  # fmt: skip
    assert 0 < found.predicted["latency_ms"] < 1e3
    assert found.real["latency_ms"] > 0
    tables = [item.tables["latency_ms"] for item in found.costs.items]
    assert all((table > 0).all() for table in tables)


def test_what_trained_is_masked_and_on_its_grid():
    choices = {"a/kernel": [Setting(bits=3, sparsity=0.5)], "b/kernel": [Setting(levels=4, sparsity=0.5)]}
    table = variant_table(small.fn, small.params(), choices)

    def finetune(_, params):  # moves what is masked, too
        return jax.tree.map(lambda x: 1.1 * x + 0.01 if jnp.issubdtype(x.dtype, jnp.floating) else x, params)

    made = realize(table, [1, 1], finetune=finetune)
    for place, name in enumerate("ab"):
        leaf, before = made.params[name]["kernel"], table.variants[place][1]
        np.testing.assert_array_equal(leaf.mask, before.mask)
        dense = np.asarray(leaf.materialize())
        assert (dense[~np.asarray(leaf.mask)] == 0).all()
        assert not np.array_equal(dense, before.materialize())
    codes = np.asarray(made.params["a"]["kernel"].materialize()) / np.asarray(made.params["a"]["kernel"].values.scale)
    np.testing.assert_allclose(codes, np.round(codes), atol=1e-4)
    assert len(np.unique(made.params["b"]["kernel"].materialize())) <= 5


def test_what_fails_when_it_is_real_never_wins():
    goal = Goal("error", "bytes", "error", "bytes", {"bytes": 10}, {})
    good, bad = (Judgement(np.zeros(1), {}, {"error": error, "bytes": 9}) for error in (0.3, np.nan))
    assert _keeps(goal, good)
    assert not _keeps(goal, bad)


def test_milliseconds_of_what_is_only_cut_are_measured():
    x, _ = data(1)
    table = variant_table(small.fn, small.params(), {"a/bias": [Channels(1.0), Channels(0.5)]}, inputs=(x,))
    costs = with_latency(table, (x,))
    spent = {item.path: item.tables["latency_ms"] for item in costs.items}
    assert 0 < spent["a/kernel"][1] == pytest.approx(spent["a/kernel"][0] / 2)
    assert spent["b/kernel"][1] == pytest.approx(spent["b/kernel"][0] / 2)
    assert spent["a/bias"].tolist() == [0, 0]


BAD = np.full((1, 12), np.inf, np.float32)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"budget": 1200}, TypeError, r"budget= is a mapping .*got 1200"),
        ({"choices": [Setting(bits=4)]}, TypeError, r"choices= is a mapping from globs"),
        (
            {"choices": {"**": Setting(bits=4)}},
            TypeError,
            r"choices\['\*\*'\] is a list of settings.*put it into a list",
        ),
        ({"choices": {"**": {"bits": 4}}}, TypeError, "put it into a list"),
        ({"data": None, "report_data": (BAD, BAD)}, ValueError, "report_data= needs data="),
        ({"report_data": (BAD, BAD)}, ValueError, "report_data= holds NaN or infinity at '0'"),
        ({"data": (BAD, BAD)}, ValueError, "data= holds NaN or infinity at '0'"),
    ],
)
def test_mistakes_are_told_before_anything_is_made(options, error, words):
    x, y = data(1)
    given = {"choices": CHOICES, "budget": {"bytes": 0.5}, "data": (x, y), "key": KEY, **options}
    with pytest.raises(error, match=words):
        jc.search.policy(small.fn, small.params(), small.evaluate, **given)


def test_goals_are_read():
    costs = Costs((CostItem("w", (0,), {"bytes": np.array([1000, 10])}),), {"bytes": 0})
    read = {"costs": costs, "dense": {"bytes": 1000, "error": 0.1}, "metrics": {"error": 0.1, "loss": 1.0}}
    part = goal_of({"bytes": 0.7}, metric=None, minimize=None, **read)
    assert (part.minimize, part.beside, dict(part.costs)) == ("error", "bytes", {"bytes": 700})
    bound = goal_of({"loss": 2}, metric=None, minimize=None, **read)
    assert (bound.minimize, bound.beside, dict(bound.bounds)) == ("bytes", "loss", {"loss": 2.0})
    both = goal_of({"loss": 2, "bytes": 500}, metric="error", minimize=None, **read)
    assert (both.minimize, both.beside) == ("error", "bytes")
    assert str(both) == "least error with bytes <= 500, loss <= 2"
    for limit in (np.float64(0.7), np.float32(0.7), np.int64(700)):
        assert dict(goal_of({"bytes": limit}, metric=None, minimize=None, **read).costs) == {"bytes": 700}
    with pytest.raises(ValueError, match=r"returns \['bytes'\], which the search counts itself"):
        goal_of({"bytes": 0.7}, metric=None, minimize=None, **{**read, "metrics": {"error": 0.1, "bytes": 1.0}})
    objectives, violation = Goal("error", "bytes", "error", "bytes", {"bytes": 10}, {}).judged(
        {"error": np.array([0.1, np.nan])}, {"bytes": np.array([15, 5])}
    )
    assert objectives.tolist() == [[0.1, 15.0], [np.inf, np.inf]]
    assert violation.tolist() == [0.5, np.inf]
