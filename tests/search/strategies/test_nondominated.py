"""Ranks and crowding distances are those of pymoo and of the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from pymoo.operators.survival.rank_and_crowding.metrics import get_crowding_function
from pymoo.util.dominator import Dominator
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from jaxcompress.search.strategies.nondominated import crowding_distance, non_dominated_ranks

N = 96  # one shape per number of objectives: few programs

ranks_of = jax.jit(non_dominated_ranks)
crowding_of = jax.jit(crowding_distance)


def drawn(kind, m, seed=0):
    rng = np.random.default_rng(seed)
    values = {
        "random": lambda: rng.normal(size=(N, m)),
        "tied": lambda: rng.integers(0, 6, (N, m)),
        "duplicates": lambda: rng.normal(size=(N // 8, m))[rng.integers(0, N // 8, N)],
        "one_front": lambda: np.sort(rng.normal(size=(N, m)), 0) * np.array([1, -1, 1][:m]),
        "flat": lambda: np.concatenate([np.ones((N, 1)), rng.normal(size=(N, m - 1))], 1),
        "equal": lambda: np.ones((N, m)),
        "infinite": lambda: np.where(rng.random((N, m)) < 0.1, np.inf, rng.integers(0, 9, (N, m))),
    }[kind]()
    return values.astype(np.float32)


KINDS = ["random", "tied", "duplicates", "one_front", "flat", "equal", "infinite"]


@pytest.mark.parametrize("m", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_ranks_are_pymoo_s(kind, m):
    values = drawn(kind, m)
    _, expected = NonDominatedSorting().do(values, return_rank=True)
    np.testing.assert_array_equal(ranks_of(values), expected)


@pytest.mark.filterwarnings("ignore:`row_stack`:DeprecationWarning")
@pytest.mark.parametrize("m", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_crowding_is_pymoo_s(kind, m):
    """On every front, ends and ties included; float32 sums of at most 6 terms of order 1 against float64."""
    values = drawn(kind, m)
    fronts, ranks = NonDominatedSorting().do(values, return_rank=True)
    expected = np.zeros(N)
    with np.errstate(invalid="ignore"):
        for front in map(np.sort, fronts):  # among equals the order of the rows counts
            expected[front] = get_crowding_function("cd").do(values[front])
    np.testing.assert_allclose(crowding_of(values, ranks), expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("m", [2, 3])
def test_constrained_domination_is_pymoo_s(m):
    """By peeling in NumPy the relation of pymoo's `Dominator`: violations first, objectives where they are equal."""
    values = drawn("tied", m)
    violation = np.random.default_rng(1).choice([0, 0, 0, 0.25, 1.5], N).astype(np.float32)
    dominates = np.array([
        [Dominator.get_relation(a, b, u, v) == 1 for b, v in zip(values, violation, strict=True)]
        for a, u in zip(values, violation, strict=True)
    ])  # fmt: skip
    expected, left, front = np.full(N, -1), np.ones(N, bool), 0
    while left.any():
        free = left & ~(dominates & left[:, None]).any(0)
        expected[free], left, front = front, left & ~free, front + 1
    ranks = np.asarray(jax.jit(non_dominated_ranks)(values, violation))
    np.testing.assert_array_equal(ranks, expected)
    assert ranks[violation == 0].max() < ranks[violation > 0].min()


def test_nan_is_the_worst_and_negative_violation_is_none():
    values = np.array([[1, 1], [np.nan, 0], [np.nan, 2], [2, 2]], np.float32)
    assert non_dominated_ranks(values).tolist() == non_dominated_ranks(np.nan_to_num(values, nan=np.inf)).tolist()
    assert non_dominated_ranks(values, [-1.0, -2.0, 0.0, -0.0]).tolist() == non_dominated_ranks(values).tolist()
    assert non_dominated_ranks(values, [np.nan, 1.0, 0.0, 0.0]).tolist()[0] == 3


def test_vmap_is_a_loop():
    values = jnp.stack([drawn("tied", 2, seed) for seed in range(3)])
    ranks = jax.vmap(non_dominated_ranks)(values)
    crowding = jax.vmap(crowding_distance)(values, ranks)
    for each, rank, alone in zip(values, ranks, crowding, strict=True):
        np.testing.assert_array_equal(rank, ranks_of(each))
        np.testing.assert_array_equal(alone, crowding_of(each, rank))


def test_lowers_for_every_platform():
    both = jax.jit(lambda values: crowding_distance(values, non_dominated_ranks(values)))
    shape = jax.ShapeDtypeStruct((N, 2), jnp.float32)
    assert export.export(both, platforms=["cpu", "cuda", "tpu"])(shape).platforms == ("cpu", "cuda", "tpu")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: non_dominated_ranks(np.ones(3)), r"objectives must be \[candidates, objectives\].*\(3,\)"),
        (lambda: non_dominated_ranks(np.ones((3, 2)), np.ones(2)), r"violation must have one entry.*\(2,\)"),
        (lambda: crowding_distance(np.ones((3, 2)), np.ones(2)), r"ranks must have one entry.*\(2,\)"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
