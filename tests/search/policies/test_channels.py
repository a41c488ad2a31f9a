"""Channels: masked in the program, shrunk in reality; their costs multiply with those of the weights."""

import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.core.paths import flatten_with_paths
from jaxcompress.search.policies import Channels, Evaluation, Setting, allocate, realize, sweep, variant_table
from jaxcompress.search.policies.sizes import cut_bits, stored_bits
from tests.search.policies import small

X, Y = small.data()
KEPT = [Channels(1.0), Channels(0.5), Channels(0.25)]


@pytest.fixture(scope="module")
def table():
    return variant_table(
        small.fn, small.params(), {"**/kernel": [Setting(), Setting(bits=8)], "*/bias": KEPT}, inputs=(X,)
    )


def test_a_masked_policy_is_the_shrunk_network(table):
    rows = np.array([[0, 0, 0, 1, 2], [0, 1, 0, 2, 0]])
    found = Evaluation(table, small.evaluate, data=(X, Y))(rows)
    costs = table.costs.of(rows)
    for i, row in enumerate(rows):
        made = realize(table, row, inputs=(X,))
        loss = small.evaluate(jc.lift(made.fn), made.params, (X, Y))["loss"]
        # The 8 bits of the second row have scales of the cut kernel, in the table of the whole one.
        np.testing.assert_allclose(found["loss"][i], loss, rtol=1e-4 if i == 0 else 2e-2)
        counts = {group.index: group.counts[v] for group, v in zip(table.units, row[3:], strict=True)}
        assert costs["flops"][i] == table.groups.flops(counts)
        assert costs["stored_bits"][i] == sum(map(stored_bits, flatten_with_paths(made.params)[1]))
    assert {index: len(units) for index, units in table.kept_units(rows[0]).items()} == {0: 8, 1: 4}


def test_the_units_of_the_largest_weights_stay(table):
    keep = jc.prune.channels(table.groups, small.params(), sparsity=0.5, scope="uniform", round_to=1)
    row = np.array([0, 0, 0, 1, 1])
    assert {index: units.tolist() for index, units in table.kept_units(row).items()} == {
        index: units.tolist() for index, units in keep.units.items()
    }


def test_bits_of_cut_leaves_are_counted():
    w = small.params()["b"]["kernel"]
    keep = {0: np.arange(5), 1: np.array([0, 3, 7])}
    assert cut_bits(w, keep) == 5 * 3 * 32
    rounded = jc.quantize.rtn({"w": w}, bits=8)["w"]
    assert cut_bits(rounded, keep) == 5 * 3 * 8 + 3 * 32
    masked = jc.prune.magnitude({"w": w}, sparsity=0.5)["w"]
    kept = int(np.asarray(masked.mask)[np.ix_(keep[0], keep[1])].sum())
    assert cut_bits(masked, keep) == 5 * 3 + 32 * kept
    thin = jc.factorize.svd({"w": w}, rank=2)["w"]
    assert cut_bits(thin, keep) == 32 * 2 * (5 + 3)


def test_an_allocation_of_bits_and_channels_is_the_best_of_all(table):
    scores = sweep(Evaluation(table, small.evaluate, data=(X, Y)), "loss")
    rows = np.stack(np.meshgrid(*table.allowed, indexing="ij"), -1).reshape(-1, 5)
    costs = table.costs.of(rows)
    budget = {"stored_bits": 9000, "flops": int(np.median(costs["flops"]))}
    fits = np.all([costs[name] <= limit for name, limit in budget.items()], axis=0)
    found = allocate(scores, budget)
    assert 0 < fits.sum() < len(rows)
    assert found.score == pytest.approx(scores.of(rows[fits]).min(), abs=1e-9)


def test_too_many_combinations_are_refused():
    kept = [Channels(i / 16) for i in range(1, 17)]
    given = [Setting(sparsity=i / 20) for i in range(1, 20)]
    with pytest.raises(ValueError, match="more than 4096 combinations"):
        variant_table(small.fn, small.params(), {"**/kernel": given, "*/bias": kept}, inputs=(X,))


def test_a_rank_that_saves_nothing_of_what_is_left_is_told():
    choices = {"a/kernel": [Setting(rank=0.5)], "a/bias": [Channels(0.05)]}
    table = variant_table(small.fn, small.params(), choices, inputs=(X,))
    made = realize(table, [1, 1], inputs=(X,))
    assert made.params["a"]["kernel"].shape == (12, 1)
    assert made.notes == ("a/kernel: no rank saves anything of what is left: it is not factorized",)
