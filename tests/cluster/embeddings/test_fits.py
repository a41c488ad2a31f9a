"""What the fits of tables find, against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.cluster.embeddings import (
    HashedRows,
    adaptive_embedding,
    hash_embedding,
    product_codes,
    quotient_remainder,
    row_frequencies,
    subword_embedding,
)
from jaxcompress.cluster.embeddings.hashed_rows import places

KEY = jax.random.key(0)
TABLE = jax.random.normal(KEY, (40, 6))
WEIGHTS = (1.0 / (1 + jnp.arange(40.0))).at[7].set(0.0)
PARAMS = {"e": TABLE}


def error(params, weights=None, table=TABLE):
    squares = np.sum((np.asarray(params["e"].materialize(), np.float64) - np.asarray(table, np.float64)) ** 2, axis=1)
    return float(squares @ (np.ones(40) if weights is None else np.asarray(weights, np.float64)))


def rows_of(fit, weights=None):
    return error(fit(PARAMS, weights=None if weights is None else {"e": weights}), weights)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["even", "weighted"])
@pytest.mark.parametrize("hashes", [1, 2])
def test_hashed_rows_are_the_optimum(hashes, weights):
    ids, signs = places(jnp.arange(40), buckets=9, hashes=hashes, signed=True, seed=0, dtype=jnp.float32)
    design = np.zeros((40, 9))
    for k in range(hashes):
        np.add.at(design, (np.arange(40), np.asarray(ids)[:, k]), np.asarray(signs)[:, k])
    root = np.sqrt(np.ones(40) if weights is None else np.asarray(weights, np.float64))[:, None]
    best = np.linalg.lstsq(design * root, np.asarray(TABLE) * root, rcond=None)[0]
    expected = float(np.sum((root * (design @ best - np.asarray(TABLE))) ** 2))
    found = rows_of(lambda p, weights: hash_embedding(p, buckets=9, hashes=hashes, weights=weights), weights)
    assert abs(found - expected) < 1e-4 * expected


@pytest.mark.slow
def test_importance_finds_a_table_that_has_it():
    """Rows that are multiples of their bucket's are met exactly; elsewhere each round helps."""
    leaf = HashedRows.init(KEY, 40, 6, buckets=6, importance=True)
    leaf = leaf.replace(importance=jax.random.normal(jax.random.key(1), (40, 1)))
    params = {"e": leaf.materialize()}
    found = hash_embedding(params, buckets=6, importance=True)
    assert error(found, table=params["e"]) < 1e-6 * float(jnp.sum(params["e"] ** 2))
    errors = [error(hash_embedding(PARAMS, buckets=9, hashes=2, importance=True, rounds=n)) for n in (0, 1, 10)]
    assert errors[0] > errors[1] > errors[2]
    assert abs(errors[0] / error(hash_embedding(PARAMS, buckets=9, hashes=2)) - 1) < 1e-4


def linear(rows, remainders):
    """The design of add: which quotient and which remainder each row has."""
    i = np.arange(rows)
    quotients = -(-rows // remainders)
    design = np.zeros((rows, quotients + remainders))
    design[i, i // remainders] = design[i, quotients + i % remainders] = 1
    return design


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["even", "weighted"])
def test_sums_and_pairs_of_rows_are_the_optimum(weights):
    design = linear(40, 7)
    w = np.asarray(TABLE, np.float64)
    root = np.sqrt(np.ones(40) if weights is None else np.asarray(weights, np.float64))[:, None]

    def residual(design, w):
        best = np.linalg.lstsq(design * root, w * root, rcond=None)[0]
        return float(np.sum((root * (design @ best - w)) ** 2))

    fit = lambda operation: rows_of(  # noqa: E731
        lambda p, weights: quotient_remainder(p, remainders=7, operation=operation, weights=weights, rounds=200),
        weights,
    )
    assert abs(fit("add") - residual(design, w)) < 1e-3 * residual(design, w)
    concat = residual(design[:, :6], w[:, :3]) + residual(design[:, 6:], w[:, 3:])
    assert abs(fit("concat") - concat) < 1e-4 * concat


def test_products_of_rows_are_the_best_of_rank_one_where_the_grid_is_full():
    params = {"e": TABLE[:35]}
    found = quotient_remainder(params, remainders=7, rounds=100)["e"].materialize()
    grid = np.asarray(TABLE[:35], np.float64).reshape(5, 7, 6)
    expected = sum(float((np.linalg.svd(grid[:, :, d])[1][1:] ** 2).sum()) for d in range(6))
    assert abs(float(np.sum((found - np.asarray(TABLE[:35])) ** 2)) - expected) < 1e-3 * expected
    weighted = rows_of(lambda p, weights: quotient_remainder(p, weights=weights), WEIGHTS)
    even = error(quotient_remainder(PARAMS), WEIGHTS)
    assert weighted < even


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["even", "weighted"])
def test_bands_are_the_best_of_their_rank(weights):
    out = adaptive_embedding(
        PARAMS, cutoffs=(5, 15), widths=(6, 3, 1), weights=None if weights is None else {"e": weights}
    )
    order = np.arange(40) if weights is None else np.argsort(-np.asarray(weights), kind="stable")
    mass = np.ones(40) if weights is None else np.asarray(weights, np.float64)
    scaled = (np.asarray(TABLE, np.float64) * np.sqrt(mass)[:, None])[order]
    expected = sum(
        float((np.linalg.svd(scaled[a:b])[1][width:] ** 2).sum()) for a, b, width in [(5, 15, 3), (15, 40, 1)]
    )
    assert abs(error(out, weights) - expected) < 1e-4 * expected
    assert (out["e"].slot is None) == (weights is None)
    # The most frequent rows are kept as they are.
    np.testing.assert_array_equal(np.asarray(out["e"].materialize())[order[:5]], np.asarray(TABLE)[order[:5]])


def test_slots_count_in_bits():
    leaf = adaptive_embedding(PARAMS, cutoffs=(5,), widths=(6, 1), weights={"e": WEIGHTS})["e"]
    assert leaf.stored_bits == 40 * 6 + 32 * (5 * 6 + 35 + 6)


@pytest.mark.slow
def test_subwords_fit_words_that_share_parts():
    stems, ends = ["walk", "talk", "jump", "play", "work", "look", "turn", "help"], ["", "s", "ed", "er", "ing"]
    words = [stem + end for stem in stems for end in ends]
    of_stem, of_end = jax.random.normal(KEY, (8, 1, 6)), jax.random.normal(jax.random.key(1), (1, 5, 6))
    table = (of_stem + of_end).reshape(40, 6)
    found = subword_embedding({"e": table}, words=words, buckets=20, combine="sum", iterations=200, ridge=1e-6)
    noise = subword_embedding({"e": TABLE}, words=words, buckets=20, combine="sum", iterations=200, ridge=1e-6)
    hashed = hash_embedding({"e": table}, buckets=20)
    total = float(jnp.sum(table**2))
    assert error(found, table=table) < 0.7 * error(hashed, table=table)
    assert error(found, table=table) / total < 0.8 * error(noise) / float(jnp.sum(TABLE**2))


@pytest.mark.slow
def test_product_codes_serve_each_run_from_its_own_table():
    levels = jax.random.normal(KEY, (3, 4, 2))  # runs, levels, entries
    codes = jax.random.randint(jax.random.key(1), (40, 3), 0, 4)
    table = jnp.stack([levels[run][codes[:, run]] for run in range(3)], axis=1).reshape(40, 6)
    out = product_codes({"e": table}, runs=3, levels=4)
    np.testing.assert_allclose(out["e"].materialize(), table, atol=1e-5)
    frequent = product_codes(PARAMS, runs=3, levels=4, weights={"e": WEIGHTS})
    assert error(frequent, WEIGHTS) < error(product_codes(PARAMS, runs=3, levels=4), WEIGHTS)


def test_frequencies_come_from_data_and_sites_say_what_is_a_table():
    params = {"e": TABLE, "head": jax.random.normal(KEY, (6, 4))}

    def fn(p, ids):
        return p["e"][ids].sum(-2) @ p["head"]

    batches = [jnp.array([[0, 3, 3]]), jnp.array([[39, 3, 5]])]
    weights = row_frequencies(jc.observe(fn, params, batches), smoothing=0.25)
    assert list(weights) == ["e"]
    np.testing.assert_array_equal(weights["e"][jnp.array([0, 3, 5, 6, 39])], [1.25, 3.25, 1.25, 0.25, 1.25])
    out = adaptive_embedding(
        params, cutoffs=(4,), widths=(6, 1), weights=weights, sites=jc.sites(fn, params, batches[0])
    )
    assert out["head"] is params["head"]
    np.testing.assert_allclose(jc.lift(fn)(out, batches[0]), fn(params, batches[0]), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="looked up"):
        row_frequencies({})


@pytest.mark.parametrize(
    ("params", "options", "match"),
    [
        ({"e": TABLE[None, None]}, {}, "no table of rows"),
        (jc.prune.magnitude(PARAMS, sparsity=0.5), {}, "pruned"),
        (jc.quantize.rtn(PARAMS), {}, "coded already"),
        (PARAMS, {"weights": {"e": jnp.ones(3)}}, "one for each row"),
        (PARAMS, {"weights": {"f": jnp.ones(40)}}, "none of the chosen tables"),
        (PARAMS, {"weights": {"e": -jnp.ones(40)}}, "negative"),
    ],
    ids=["rank", "pruned", "coded", "shape", "path", "negative"],
)
def test_tables_that_do_not_fit_are_refused(params, options, match):
    with pytest.raises(ValueError, match=match):
        quotient_remainder(params, **options)


def test_tables_looked_up_by_column_are_refused():
    sites = jc.sites(lambda p, i: jnp.take(p["e"], i, axis=1), PARAMS, jnp.array([1]))
    with pytest.raises(ValueError, match="looked up along axis"):
        hash_embedding(PARAMS, buckets=5, sites=sites)
