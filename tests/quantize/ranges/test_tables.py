"""Fitted tables: levels of equal mass, and Lloyd-Max levels against scikit-learn."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import KMeans as Theirs

from jaxcompress.quantize.formats import format_of
from jaxcompress.quantize.ranges import Equalized, KMeans, find_scaling
from jaxcompress.quantize.ranges.equalized import means_of_equal_mass

LEVELS3 = format_of("levels", 3)
RNG = np.random.default_rng(0)
X = np.stack([RNG.standard_normal(320), RNG.laplace(size=320) * 1e-3, RNG.exponential(size=320) * 50])
X = X.astype(np.float32)
ROWS = jnp.asarray(X)


def levels(scaling):
    return np.asarray(scaling.table * scaling.scale[..., None], np.float64)[:, 0]


def error(x, table, weights=1.0):
    x = np.asarray(x, np.float64)
    return np.sum(weights * np.min(np.square(x[:, :, None] - table[:, None, :]), axis=2), axis=1)


def error_of(x, format, scaling, weights=1.0):
    return np.sum(weights * np.square(np.asarray(x, np.float64) - np.asarray(format.project(x, scaling))), axis=1)


def test_equalized_levels_stand_for_exactly_as_many_entries():
    """320 entries in 8 runs: the means of 40 neighbours each."""
    runs = np.sort(X.astype(np.float64), axis=1).reshape(3, 8, 40)
    found = levels(find_scaling(ROWS, (3, 1), LEVELS3, "equalized"))
    np.testing.assert_allclose(found, runs.mean(2), rtol=1e-5, atol=1e-9)  # float32 sums of 40
    for row, cut in zip(X, runs, strict=True):
        borders = (cut[:-1, -1] + cut[1:, 0]) / 2
        np.testing.assert_array_equal(np.bincount(np.searchsorted(borders, row), minlength=8), np.full(8, 40))


def test_equal_mass_with_weights_by_hand():
    values, mass = jnp.array([[4.0, 1.0, 2.0, 9.0]]), jnp.array([[1.0, 2.0, 3.0, 0.0]])
    # Sorted 1 1 2 2 2 4, in units of mass, 9 has none. Halves: (1 1 2 | 2 2 4). Quarters of 1.5: half a unit is shared.
    np.testing.assert_allclose(means_of_equal_mass(values, mass, 2), [[4 / 3, 8 / 3]], rtol=1e-6)
    np.testing.assert_allclose(means_of_equal_mass(values, mass, 4), [[1, 5 / 3, 2, 10 / 3]], rtol=1e-6)


@pytest.mark.parametrize(
    ("ranges", "weighted", "slack"),
    [
        pytest.param(KMeans(init="optimal"), False, 1.01, marks=pytest.mark.slow),
        ("kmeans", False, 1.2),
        ("kmeans", True, 1.2),
    ],
)
def test_lloyd_max_against_the_best_of_three_of_scikit_learn(ranges, weighted, slack):
    """From the default start it ends in a local optimum; from the optimal one it is as good or better."""
    weights = np.random.default_rng(1).exponential(size=X.shape).astype(np.float32) if weighted else np.ones_like(X)
    given = {"weights": jnp.asarray(weights)} if weighted else {}
    ours = error(X, levels(find_scaling(ROWS, (3, 1), LEVELS3, ranges, **given)), weights)
    for row, found, w in zip(X.astype(np.float64), ours, weights.astype(np.float64), strict=True):
        theirs = Theirs(8, n_init=3, random_state=0).fit(row[:, None] / row.max(), sample_weight=w)
        best = error(row[None], theirs.cluster_centers_.T * row.max(), w)[0]
        assert found <= slack * best


def test_weighted_levels_are_better_where_it_counts():
    weights = RNG.exponential(size=X.shape).astype(np.float32) ** 3
    plain = levels(find_scaling(ROWS, (3, 1), LEVELS3, "kmeans"))
    weighted = levels(find_scaling(ROWS, (3, 1), LEVELS3, "kmeans", weights=jnp.asarray(weights)))
    assert (error(X, weighted, weights) < error(X, plain, weights)).all()


def test_the_ranking_of_ranges():
    """k-means < clipped even grid < absmax, at as many bits; equalized uses its codes evenly instead."""
    int3 = format_of("int", 3)
    found = {ranges: error_of(ROWS, int3, find_scaling(ROWS, (3, 1), int3, ranges)) for ranges in ("absmax", "mse")}
    scaling = {ranges: find_scaling(ROWS, (3, 1), LEVELS3, ranges) for ranges in ("kmeans", "equalized", "absmax")}
    found["kmeans"] = error_of(ROWS, LEVELS3, scaling["kmeans"])
    assert (found["kmeans"] < found["mse"]).all()
    assert (found["mse"] < found["absmax"]).all()
    entropy = {}
    for ranges, given in scaling.items():
        shares = [np.bincount(row, minlength=8) / 320 for row in np.asarray(LEVELS3.encode(ROWS, given))]
        entropy[ranges] = [-np.sum(p[p > 0] * np.log2(p[p > 0])) for p in shares]
    assert (np.array(entropy["equalized"]) > np.array(entropy["absmax"]) + 0.3).all()


@pytest.mark.parametrize("ranges", [KMeans(zero_preserving=True), Equalized(zero_preserving=True)])
def test_zero_is_kept_exactly_on_request(ranges):
    x = jnp.where(jnp.abs(ROWS) < jnp.quantile(jnp.abs(ROWS), 0.5, axis=1, keepdims=True), 0, ROWS) + 0.0
    found = find_scaling(x, (3, 1), LEVELS3, ranges)
    assert (found.table == 0).any(-1).all()
    assert (np.diff(found.table) >= 0).all()
    rounded = np.asarray(LEVELS3.project(x, found))
    assert (rounded[np.asarray(x) == 0] == 0).all()
    free = error_of(x, LEVELS3, find_scaling(x, (3, 1), LEVELS3, type(ranges)()))
    assert (error_of(x, LEVELS3, found) <= 1.3 * free).all()  # the price of a level that may not move


@pytest.mark.parametrize("ranges", ["absmax", "equalized"])
def test_pruned_entries_stay_zero_and_do_not_count(ranges):
    support = jnp.asarray(RNG.random(X.shape) < 0.5)
    x = ROWS + 5 * jnp.max(jnp.abs(ROWS), axis=1, keepdims=True)  # far from zero
    kept = jnp.where(support, x, 0)
    found = find_scaling(kept, (3, 1), LEVELS3, ranges, support=support)
    assert (found.table == 0).any(-1).all()
    assert (jnp.where(support, 0, LEVELS3.project(kept, found)) == 0).all()
    garbage = find_scaling(jnp.where(support, x, -1e6), (3, 1), LEVELS3, ranges, support=support)
    np.testing.assert_array_equal(garbage.table, found.table)


def test_few_distinct_values_are_met_exactly():
    x = jnp.asarray(RNG.choice(np.array([-0.3, 0.1, 7.7], np.float32), size=(3, 320)))
    found = find_scaling(x, (3, 1), LEVELS3, "kmeans")
    np.testing.assert_allclose(LEVELS3.project(x, found), x, rtol=1e-6)


def test_tables_go_with_levels_only():
    with pytest.raises(ValueError, match="'kmeans' fits a table of levels: it goes with format='levels', not 'int'"):
        find_scaling(ROWS, (3, 1), format_of("int", 4), "kmeans")
