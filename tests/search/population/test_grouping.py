"""Groups of candidates: which are joined, what is wasted, and that no result depends on the group."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.search import population
from tests.search.population.problems import MLP, candidates_for, data_for, training

SHAPES = [[2, 1], [2, 1], [2, 2], [16, 4], [15, 4]]


def product(shape):
    return float(np.prod(shape))


def test_one_group_for_each_shape_wastes_nothing_but_lanes():
    grouping = population.group_by_shape(SHAPES, [product(shape) for shape in SHAPES], product)
    assert [group.shape for group in grouping.groups] == [(2, 1), (2, 2), (15, 4), (16, 4)]
    assert grouping.groups[0].members == (0, 1)
    assert grouping.waste == 0.0


def test_the_cheapest_pairs_are_joined():
    """By hand: (2, 1)x2 + (2, 2) adds 2 x 2; (15, 4) + (16, 4) adds 4: both are joined, small with large never."""
    grouping = population.group_by_shape(SHAPES, [product(shape) for shape in SHAPES], product, programs=2)
    assert [(group.shape, group.members, group.lanes) for group in grouping.groups] == [
        ((2, 2), (0, 1, 2), 4),
        ((16, 4), (3, 4), 2),
    ]
    real, padded = 2 + 2 + 4 + 64 + 60, 4 * 4 + 2 * 64
    assert grouping.waste == pytest.approx(1 - real / padded)
    assert "5 candidates in 2 programs" in str(grouping)
    assert "<table>" in grouping._repr_html_()


def test_grouped_is_masked_to_the_largest():
    candidates, data = candidates_for(MLP), data_for(MLP)
    layers, keys = candidates["layers"], jax.random.split(jax.random.key(2), 3)

    def make(shape):
        network = MLP if shape == (6, 2) else MLP.padded_to(shape)
        return functools.partial(population.train_population, training(network))

    grouping = population.group_by_shape(
        jax.vmap(MLP.shape)(layers),
        jax.vmap(MLP.flops)(layers),
        lambda shape: float(MLP.padded_to(shape).flops({"width": jnp.full(shape[1], shape[0])})),
        programs=2,
    )
    assert len(grouping.groups) == 2
    results = population.in_groups(make, candidates, keys, data, grouping)
    found = population.ungrouped([trained.loss for trained in results], grouping)
    whole = population.train_population(training(MLP), candidates, keys, data)
    np.testing.assert_allclose(found, whole.loss, rtol=1e-4)
    with pytest.raises(ValueError, match="differ in shape"):
        population.ungrouped(results, grouping)


def test_errors():
    with pytest.raises(ValueError, match="programs must be 1 or more, got 0"):
        population.group_by_shape(SHAPES, [1.0] * 5, product, programs=0)
    with pytest.raises(ValueError, match=r"shapes must be \[n, numbers\]"):
        population.group_by_shape([], [], product)
    grouping = population.group_by_shape(SHAPES, [1.0] * 5, product)
    with pytest.raises(ValueError, match="one of 5 candidates, got keys for 3"):
        population.in_groups(lambda shape: None, {}, jax.random.split(jax.random.key(0), 3), None, grouping)
