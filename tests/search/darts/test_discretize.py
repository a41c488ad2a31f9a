"""From mixtures to cells, against the rule written as a loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.search import darts

TARGETS = [2, 2, 3, 3, 3, 4, 4, 4, 4]  # a DARTS cell: two inputs, then three nodes


def by_hand(alphas, none, edges):
    """Per node: sort its edges by the softmax weight of their best operation but none; keep the first ones."""
    weights = np.exp(alphas) / np.exp(alphas).sum(-1, keepdims=True)
    codes, kept = np.zeros(len(alphas), int), np.zeros(len(alphas), bool)
    best = {}
    for edge, row in enumerate(weights):
        allowed = [(weight, -o) for o, weight in enumerate(row) if o != none]
        best[edge] = max(allowed)
        codes[edge] = -best[edge][1]
    for node in set(TARGETS):
        into = [edge for edge in range(len(alphas)) if TARGETS[edge] == node]
        for edge in sorted(into, key=lambda e: (-best[e][0], e))[:edges]:
            kept[edge] = True
    return codes, kept


@pytest.mark.parametrize(("none", "edges"), [(0, 2), (3, 1), (None, 2)])
def test_strongest_edges(none, edges):
    batch = jax.random.normal(jax.random.key(0), (16, 9, 5)) * 2
    found = jax.jit(jax.vmap(lambda a: darts.strongest_edges(a, TARGETS, none=none, edges=edges)))(batch)
    for alphas, codes, kept in zip(np.asarray(batch, np.float64), *found, strict=True):
        expected = by_hand(alphas, none, edges)
        np.testing.assert_array_equal(codes, expected[0])
        np.testing.assert_array_equal(kept, expected[1])
        assert [kept[np.array(TARGETS) == node].sum() for node in (2, 3, 4)] == [min(edges, n) for n in (2, 3, 4)]


def test_a_strong_none_weakens_an_edge():
    """``none`` takes part in the softmax, and so in the rank of an edge, but is never taken."""
    alphas = jnp.array([[5.0, 1.0, 0.0], [0.0, 0.9, 0.0], [0.0, 0.0, 0.8]])
    codes, kept = darts.strongest_edges(alphas, [3, 3, 3], none=0)
    assert codes.tolist() == [1, 1, 2]
    assert kept.tolist() == [False, True, True]


def test_equal_edges_the_first_stay():
    codes, kept = darts.strongest_edges(jnp.zeros((4, 3)), [1, 1, 1, 1], none=0)
    assert codes.tolist() == [1] * 4
    assert kept.tolist() == [True, True, False, False]
    mixture = darts.one_hot(codes, 3, kept)
    assert mixture.tolist() == [[0, 1, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_targets_have_to_name_all_edges():
    with pytest.raises(ValueError, match=r"a node for each of the 4 edges, it has shape \(3,\)"):
        darts.strongest_edges(jnp.zeros((4, 3)), [1, 1, 1], none=0)


def test_doubt_of_a_single_operation_is_none():
    assert float(darts.doubt({"a": jnp.zeros((3, 1))})) == 0
    assert float(darts.doubt({"a": jnp.zeros((3, 4))})) == pytest.approx(1)
