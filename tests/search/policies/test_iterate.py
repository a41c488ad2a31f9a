"""Iterated allocation beats one allocation where scores do not add, is the same each time and compiles nothing anew."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.search.policies import Evaluation, Setting, WrittenCosts, allocate, iterate, sweep, variant_table
from jaxcompress.search.policies.goal import Goal

LEAVES, SIDE = 10, 8
BITS = (2, 4, 8)


def weights():
    """Six leaves that are alike, so that their errors are too and add up, and others of their own with larger ones."""
    rng = np.random.default_rng(0)
    own = [rng.normal(size=(SIDE, SIDE)) * (1.0 if i < 6 else 1.6) for i in range(LEAVES)]
    return {f"w{i}": jnp.asarray(own[max(i, 5)], jnp.float32) for i in range(LEAVES)}


def fn(params, x):
    return x @ sum(params.values())


def loss(apply, params):
    """The squared error of the sum: that of leaves that err alike grows with the square of their number."""
    return jnp.square(apply(params, jnp.eye(SIDE)) - apply(weights(), jnp.eye(SIDE))).mean()


@pytest.fixture(scope="module")
def table():
    return variant_table(fn, weights(), {"**": [Setting(bits=bits) for bits in BITS]})


def known(table):
    """An evaluation that knows the sweep, and the scores."""
    evaluation = Evaluation(table, loss)
    return evaluation, sweep(evaluation)


def smallest(limit):
    return Goal("stored_bits", "error", "error", "stored_bits", {}, {"error": limit})


def begun(table, limit):
    evaluation, scores = known(table)
    evaluation(table.uniform_rows())
    return evaluation, scores, smallest(limit), WrittenCosts(table, table.costs, files=False)


def test_it_beats_one_allocation_where_scores_do_not_add(table):
    evaluation, scores = known(table)
    budget = {"stored_bits": 1.2 * float(table.costs.of(table.uniform_rows())["stored_bits"][1])}
    once = allocate(scores, budget).row
    least = evaluation(once[None])["error"][0]
    goal = Goal("error", "stored_bits", "error", "stored_bits", budget, {})
    found = iterate(evaluation, goal, WrittenCosts(table, table.costs, files=False), scores, evaluations=600)
    assert found.rounds >= 2
    assert evaluation(found.row[None])["error"][0] < 0.6 * least
    assert table.costs.of(found.row[None])["stored_bits"][0] <= budget["stored_bits"]


def test_the_smallest_at_a_bound_is_no_neighbours_better(table):
    evaluation, scores, goal, costs = begun(table, 0.02)
    start = costs.of(table.uniform_rows())["stored_bits"][evaluation(table.uniform_rows())["error"] <= 0.02].min()
    found = iterate(evaluation, goal, costs, scores, evaluations=2000, reach=len(BITS))
    spent = costs.of(found.row[None])["stored_bits"][0]
    assert spent <= 0.9 * start
    assert evaluation(found.row[None])["error"][0] <= 0.02
    for column in range(LEAVES):
        for variant in range(1, found.row[column]):  # cheaper ones break the bound
            row = found.row.copy()
            row[column] = variant
            assert evaluation(row[None])["error"][0] > 0.02


def test_it_keeps_to_its_evaluations_and_compiles_nothing_anew(table, compilations):
    evaluation, scores, goal, costs = begun(table, 0.02)
    before, programs = evaluation.evaluations, compilations()
    found = iterate(evaluation, goal, costs, scores, evaluations=100)
    assert found.rounds >= 1
    assert 0 < evaluation.evaluations - before <= 100
    assert compilations() == programs
    again, scores, goal, costs = begun(table, 0.02)
    assert iterate(again, goal, costs, scores, evaluations=100).row.tolist() == found.row.tolist()
    assert again.known[0].tolist() == evaluation.known[0].tolist()
    none = iterate(again, goal, costs, scores, evaluations=0)
    assert (none.rounds, none.row.tolist()) == (0, found.row.tolist())
    with pytest.raises(ValueError, match="no policy of allowed variants was evaluated"):
        iterate(Evaluation(table, loss), goal, costs, scores, evaluations=100)


def test_a_metric_is_made_small_without_a_bound_on_costs(table):
    evaluation, scores, _, costs = begun(table, 0.02)
    goal = Goal("error", "stored_bits", "error", "stored_bits", {}, {"error": 1.0})
    found = iterate(evaluation, goal, costs, scores, evaluations=200)
    assert evaluation(found.row[None])["error"][0] <= evaluation(table.uniform_rows())["error"].min()


def test_bytes_are_those_of_files(table):
    costs = WrittenCosts(table, table.costs)
    rows = table.uniform_rows()[1:3]  # 4 and 8 bits
    mixed = np.where(np.arange(LEAVES) % 2, rows[0], rows[1])
    moves = np.tile(mixed, (2, 1))
    moves[0, 0], moves[1, 3] = 1, 1
    around = costs.around(mixed, moves)
    both = np.stack([mixed, *moves])
    np.testing.assert_array_equal(around.of(both)["bytes"], costs.of(both)["bytes"])
    np.testing.assert_array_equal(around.of(both)["stored_bits"], table.costs.of(both)["stored_bits"])
