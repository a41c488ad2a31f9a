"""The table of operations: its sum is traced arithmetic, its agreement with the truth is told on other candidates."""

import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxcompress.search.hardware import LatencyTable, agreement, latencies_ms, latency_table

table_module = importlib.import_module("jaxcompress.search.hardware.table")
MS = np.array([[0.0, 1.0, 2.0], [4.0, 8.0, np.nan]])
TABLE = LatencyTable({"a": ("skip", "s", "m"), "b": ("s", "m")}, MS, "cpu: test")


def test_sum_under_jit_and_vmap(compilations):
    codes = jnp.array([[0, 0], [2, 1], [1, 0]])
    predict = jax.jit(lambda codes: TABLE.predict(codes))
    assert predict(codes).tolist() == [4.0, 10.0, 5.0]
    assert jax.vmap(TABLE.predict)(codes).tolist() == [4.0, 10.0, 5.0]
    before = compilations()
    predict(codes[::-1] + 0)
    assert compilations("<lambda>") <= before


def test_what_was_not_measured_is_a_failed_candidate():
    assert np.isnan(TABLE.predict(jnp.array([[0, 2], [0, 7], [-1, 0]]))).tolist() == [True, True, True]
    with pytest.raises(ValueError, match=r"takes \[..., 2\].*got shape \(3,\)"):
        TABLE.predict(jnp.array([0, 1, 0]))
    with pytest.raises(ValueError, match="no position has a choice that is measured"):
        latency_table(lambda place, choice: None, {"a": ("skip",)})
    with pytest.raises(ValueError, match="'b' has no choices"):
        latency_table(lambda place, choice: None, {"a": ("skip",), "b": ()})


def test_equal_programs_are_one_measurement(monkeypatch):
    measured = []

    def clock(candidates, *, samples):
        measured.append(len(candidates))
        return {name: float(i + 1) for i, name in enumerate(candidates)}

    monkeypatch.setattr(table_module, "latencies_ms", clock)
    size = {"small": 8, "large": 16}

    def operation(place, choice):
        return None if choice == "skip" else (lambda w: w @ w, (jnp.ones((size[choice],) * 2),))

    table = latency_table(operation, {"a": ("skip", "small", "large"), "b": ("large", "small")})
    assert measured == [2]
    np.testing.assert_array_equal(table.ms, [[0.0, 1.0, 2.0], [2.0, 1.0, np.nan]])


def test_calibration_fits_one_half_and_judges_on_the_other(monkeypatch):
    """Truth is 3 + 2 * sum with a disturbance on the candidates that are judged: fitted exactly, judged below 1."""
    codes = np.array([[0, 0], [1, 0], [2, 1], [0, 1], [1, 1], [2, 0], [2, 1], [1, 0]])
    sums = np.asarray(TABLE.predict(jnp.asarray(codes)), np.float64)
    disturbed = 3 + 2 * sums + np.array([0, 1.0, 0, -1.0, 0, 2.0, 0, 0.5])

    monkeypatch.setattr(table_module, "latencies_ms", lambda candidates, *, samples: dict(enumerate(disturbed)))
    fitted, told = TABLE.calibrated(lambda row: (jnp.sin, (jnp.ones(1),)), codes)
    assert fitted.slope == pytest.approx(2.0)
    assert fitted.intercept_ms == pytest.approx(3.0)
    assert fitted.predict(jnp.asarray(codes))[2] == pytest.approx(3 + 2 * 10.0)
    truth, prediction = disturbed[1::2], (3 + 2 * sums)[1::2]
    assert told.spearman == pytest.approx(scipy.stats.spearmanr(prediction, truth).statistic)
    assert told.r2 == pytest.approx(1 - np.square(truth - prediction).sum() / np.square(truth - truth.mean()).sum())
    with pytest.raises(ValueError, match="6 candidates at least"):
        TABLE.calibrated(lambda row: (jnp.sin, (jnp.ones(1),)), codes[:5])


def test_ties_share_ranks():
    a, b = [1.0, 2.0, 2.0, 3.0, 0.0], [5.0, 5.0, 1.0, 7.0, 5.0]
    assert agreement(a, b).spearman == pytest.approx(scipy.stats.spearmanr(a, b).statistic)
    assert agreement([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]).spearman == 0.0
    for bad in ([1.0, 2.0], [1.0, 2.0, np.nan]):
        with pytest.raises(ValueError, match="agreement: "):
            agreement(bad, bad)


def test_kept_as_json():
    stored = json.loads(json.dumps(TABLE.to_dict()))
    again = LatencyTable.from_dict(stored)
    np.testing.assert_array_equal(again.ms, MS)
    assert again.choices == TABLE.choices
    with pytest.raises(ValueError, match="version 2"):
        LatencyTable.from_dict(stored | {"version": 2})


@pytest.mark.slow
def test_sum_of_operations_ranks_real_networks():
    """Chains of products of three widths: the sum, judged on candidates that were not fitted, ranks them."""
    width = {"small": 64, "medium": 256, "large": 768}
    places = [f"layer{i}" for i in range(4)]

    def operation(_, choice):
        arrays = jnp.ones((256, width[choice])), jnp.ones((width[choice], 256)), jnp.ones((256, 256))
        return (lambda w, v, x: jax.nn.relu(x @ w) @ v, arrays)

    table = latency_table(operation, {place: tuple(width) for place in places})

    def build(codes):
        weights = [operation(place, list(width)[code])[1][:2] for place, code in zip(places, codes, strict=True)]

        def fn(weights, x):
            for w, v in weights:
                x = jax.nn.relu(x @ w) @ v
            return x

        return fn, (weights, jnp.ones((256, 256)))

    codes = np.random.default_rng(0).integers(0, 3, (16, 4))
    _, told = table.calibrated(build, codes, samples=21)
    assert told.spearman > 0.8
    assert latencies_ms({"one": build(codes[0])})["one"] > 0
