"""One program for all policies: how often it is compiled, what it refuses, how it may be run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.search import NSGA2
from jaxcompress.search.policies import Evaluation, Setting, WrittenCosts, refine, settings, variant_table
from jaxcompress.search.policies.goal import Goal
from tests.search.policies import small

X, Y = small.data()
SPARSE = settings(sparsity=tuple(i / 20 for i in range(18)))  # one program of magnitude pruning for all


@pytest.fixture(scope="module")
def table():
    return variant_table(small.fn, small.params(), {"**/kernel": SPARSE})


def test_five_thousand_policies_are_one_compilation(table, compilations):
    rng = np.random.default_rng(0)
    rows = np.array([divmod(i, 18 * 18)[:1] + divmod(i % 324, 18) for i in rng.permutation(18**3)[:5000]])
    evaluation = Evaluation(table, small.evaluate, data=(X, Y))
    before = compilations()
    evaluation(rows[:1])
    first = compilations()
    assert first == before + 1
    found = evaluation(rows)
    evaluation(rows[:777])
    assert compilations() == first
    assert evaluation.evaluations == len(np.unique(rows, axis=0)) == 5000
    assert np.isfinite(found["loss"]).all()
    assert len(np.unique(found["loss"])) > 4000  # they do differ


def test_executors_agree(table):
    rows = np.array([[1, 5, 9], [0, 0, 0], [3, 3, 17], [1, 5, 9]])
    found = {name: Evaluation(table, small.evaluate, data=(X, Y), executor=name, capacity=4)(rows) for name in
             ("map", "loop", "sharded", "vmap")}  # fmt: skip
    for name in ("loop", "sharded"):
        np.testing.assert_array_equal(found[name]["loss"], found["map"]["loss"])
    np.testing.assert_allclose(found["vmap"]["loss"], found["map"]["loss"], rtol=1e-5, atol=1e-9)


def test_a_failed_policy_is_not_a_number_and_the_others_are(table):
    def evaluate(apply, params):
        loss = jnp.mean(apply(params, X))
        return jnp.where(params["b"]["kernel"].size - jnp.sum(params["b"]["kernel"] != 0) > 200, jnp.nan, loss)

    found = Evaluation(table, evaluate)([[1, 17, 1], [1, 1, 1]])["error"]
    assert np.isnan(found[0])
    assert np.isfinite(found[1])


def test_what_cannot_be_evaluated_is_told(table):
    row = table.dense_row[None]
    with pytest.raises(TypeError, match="must be traceable"):
        Evaluation(table, lambda apply, p: float(apply(p, X).sum()))(row)
    with pytest.raises(ValueError, match=r"must return scalars, got shape \(48,\)"):
        Evaluation(table, lambda apply, p: apply(p, X)[:, 0])(row)
    with pytest.raises(TypeError, match=r"must take \(apply, params, data\), since data= is given"):
        Evaluation(table, lambda apply, p: 0.0, data=X)
    with pytest.raises(ValueError, match="capacity must be a positive int"):
        Evaluation(table, small.evaluate, data=(X, Y), capacity=0)
    own = Evaluation(table, small.evaluate, data=(X, Y))
    with pytest.raises(ValueError, match="rows of 3 integers"):
        own([[1, 2]])
    with pytest.raises(ValueError, match="variants that there are not"):
        own([[1, 2, 18]])
    assert own(np.zeros((0, 3), int)) == {}


def test_known_policies_are_given_back(table):
    evaluation = Evaluation(table, small.evaluate, data=(X, Y))
    evaluation([[2, 1, 0], [0, 1, 2]])
    rows, metrics = evaluation.known
    assert rows.tolist() == [[2, 1, 0], [0, 1, 2]]
    assert set(metrics) == {"loss", "error"}
    assert str(Setting()) == table.leaves[0].label(0)


def test_evolution_compiles_nothing_after_its_first_generation(table, compilations):
    evaluation = Evaluation(table, small.evaluate, data=(X, Y))
    goal = Goal("loss", "stored_bits", "loss", "stored_bits", {"stored_bits": 9000}, {})
    costs = WrittenCosts(table, table.costs, files=False)
    given = {"seeds": table.uniform_rows(), "strategy": NSGA2(population=16)}
    assert refine(evaluation, goal, costs, evaluations=1, key=jax.random.key(0), **given) == 1
    before = compilations()
    assert refine(evaluation, goal, costs, evaluations=400, key=jax.random.key(1), **given) > 20
    assert compilations() == before
    assert 16 + 400 <= evaluation.evaluations < 16 + 400 + 16  # the first generation, and at most one more than asked
