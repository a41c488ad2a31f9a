"""Ranges of activations, from what `observe` gathers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcompress.core.observe import observe
from jaxcompress.quantize.formats import format_of
from jaxcompress.quantize.ranges import (
    MovingAverage,
    Percentile,
    find_activation_scaling,
    find_scaling,
    required_statistics,
)

INT8, UINT8 = format_of("int", 8), format_of("int", 8, symmetric=False)
INT4, UINT4 = format_of("int", 4), format_of("int", 4, symmetric=False)
RNG = np.random.default_rng(0)
BATCHES = [jnp.asarray(RNG.standard_t(4, (1000, 6)) * size, jnp.float32) for size in (1.0, 3.0, 2.0)]
WHAT = ("absmax", "min", "max", "histogram", "batch_ranges")
ALL = np.concatenate(BATCHES).astype(np.float64)


def dense(params, x):
    return jax.nn.relu(x @ params["a"]) @ params["b"]


PARAMS = {"a": jnp.asarray(RNG.standard_normal((6, 4)), jnp.float32), "b": jnp.ones((4, 2))}


@pytest.fixture(scope="module")
def found():
    return observe(dense, PARAMS, BATCHES, what=WHAT)


def ends(scaling, format):
    zero = 0 if scaling.zero_point is None else np.asarray(scaling.zero_point, np.int64)
    return (format.smallest - zero) * np.asarray(scaling.scale), (format.largest - zero) * np.asarray(scaling.scale)


def test_extremes(found):
    a, b = found["a"][0], found["b"][0]
    assert float(find_activation_scaling(a, INT8).scale) == pytest.approx(np.abs(ALL).max() / 127)
    assert float(find_activation_scaling(a, INT8, "minmax").scale) == pytest.approx(np.abs(ALL).max() / 127)
    low, high = ends(find_activation_scaling(a, UINT8), UINT8)
    step = (ALL.max() - ALL.min()) / 255
    assert (float(low), float(high)) == (pytest.approx(ALL.min(), abs=step), pytest.approx(ALL.max(), abs=step))
    relu = find_activation_scaling(b, UINT8, "minmax")
    assert int(relu.zero_point) == -128  # what is never negative takes all codes
    assert relu.scale.shape == ()


def test_percentiles_to_within_a_bin(found):
    a, width = found["a"][0], np.diff(found["a"][0]["histogram"][1][:2])[0]
    found_scale = float(find_activation_scaling(a, INT8, Percentile(90.0)).scale)
    expected = np.percentile(np.abs(ALL), 90)
    assert found_scale * 127 == pytest.approx(expected, abs=2 * width)
    low, high = ends(find_activation_scaling(a, UINT8, Percentile(80.0)), UINT8)
    np.testing.assert_allclose([low, high], np.percentile(ALL, [10, 90]), rtol=0.02)


@pytest.mark.parametrize("format", [INT4, UINT4], ids=["symmetric", "asymmetric"])
def test_mse_is_that_of_the_data(found, format):
    a, data = found["a"][0], jnp.asarray(ALL.reshape(1, -1), jnp.float32)

    def error(scaling):
        scaling = jax.tree.map(lambda field: field.reshape(1, 1), scaling)
        return float(jnp.sum(jnp.square(data - format.project(data, scaling))))

    exact = error(find_scaling(data, (1, 1), format, "mse"))
    from_bins = error(find_activation_scaling(a, format, "mse"))
    assert from_bins <= 1.01 * exact
    assert from_bins < 0.8 * error(find_activation_scaling(a, format, "minmax"))


def test_entropy_clips_a_tail(found):
    a = found["a"][0]
    reach = 7 * float(find_activation_scaling(a, INT4, "entropy").scale)
    assert np.percentile(np.abs(ALL), 80) < reach < 0.8 * np.abs(ALL).max()
    counts, edges = a["histogram"]
    assert counts.sum() == ALL.size  # the search itself is held against loops in test_entropy.py
    assert edges[np.argmin(np.abs(edges - reach))] == pytest.approx(reach, rel=1e-5)  # an edge of a bin


def test_moving_average_by_hand(found):
    low = high = None
    for batch in BATCHES:
        least, greatest = float(batch.min()), float(batch.max())
        low = least if low is None else 0.75 * low + 0.25 * least
        high = greatest if high is None else 0.75 * high + 0.25 * greatest
    scaling = find_activation_scaling(found["a"][0], UINT8, MovingAverage(0.75))
    assert float(scaling.scale) == pytest.approx((high - low) / 255)
    symmetric = find_activation_scaling(found["a"][0], INT8, MovingAverage(0.75))
    assert float(symmetric.scale) == pytest.approx(max(-low, high) / 127)
    last = find_activation_scaling(found["a"][0], INT8, MovingAverage(0.0))
    assert float(last.scale) == pytest.approx(float(jnp.abs(BATCHES[-1]).max()) / 127)


LAYERS = jnp.stack([jnp.eye(6) * 2, jnp.eye(6) / 8, jnp.eye(6)])


@pytest.mark.parametrize("ranges", ["absmax", "percentile", "moving_average"])
def test_layers_of_a_scan_have_their_own(ranges):
    """And a constant weight inside of a loop has one: a batch is all that its steps saw."""

    def fn(params, x):
        x, _ = lax.scan(lambda x, w: (x @ w, None), x, params["stack"])
        return lax.scan(lambda x, _: (x @ params["constant"], None), x, None, length=2)[0]

    params = {"stack": LAYERS, "constant": jnp.eye(6) * 3}
    stats = observe(fn, params, BATCHES, what=required_statistics(ranges))
    scaling = find_activation_scaling(stats["stack"][0], INT8, ranges)
    first = np.asarray(scaling.scale)
    np.testing.assert_allclose(first[1:] / first[0], [2, 0.25], rtol=2e-3)  # inputs x, 2 x, x / 4, as powers of two
    whole = find_activation_scaling(stats["stack"][0], INT8, ranges, per_layer=False)
    assert whole.scale.shape == ()
    if ranges != "percentile":
        np.testing.assert_allclose(whole.scale, first.max(), rtol=1e-6)
        constant = find_activation_scaling(stats["constant"][0], INT8, ranges).scale
        np.testing.assert_allclose(constant, first[0] * 3 / 4, rtol=1e-6)  # the second step sees 3 x / 4


def test_histograms_of_different_widths_join_exactly():
    stats = observe(lambda w, x: jnp.einsum("gbi,gio->gbo", x, w), LAYERS, [jnp.stack(BATCHES)], what="histogram")
    joined = find_activation_scaling(stats[""][0], INT8, Percentile(100.0), per_layer=False)
    counts, edges = stats[""][0]["histogram"]
    width = np.diff(edges[:, :2]).max()
    assert float(joined.scale) * 127 == pytest.approx(np.ceil(np.abs(ALL).max() / width) * width, rel=1e-5)
    assert counts.sum() == ALL.size


def test_a_table_of_activations(found):
    levels = format_of("levels", 3)
    scaling = find_activation_scaling(found["a"][0], levels, "equalized")
    assert scaling.table.shape == (8,)
    runs = np.array_split(np.sort(ALL.reshape(-1)), 8)
    np.testing.assert_allclose(scaling.table * scaling.scale, [run.mean() for run in runs], atol=0.01)


def test_what_was_not_observed_is_named(found):
    stats = observe(dense, PARAMS, BATCHES, what="absmax")
    with pytest.raises(
        ValueError, match=r"ranges='mse' needs 'histogram', which was not observed at 'a' \(dot_general at"
    ):
        find_activation_scaling(stats["a"][0], INT8, "mse")
    with pytest.raises(ValueError, match=r"needs 'min', .* Observe with what=\('min', 'max'\)"):
        find_activation_scaling(stats["a"][0], UINT8)
    with pytest.raises(ValueError, match="ranges='nonsense' is not known"):
        find_activation_scaling(found["a"][0], INT8, "nonsense")
    lookup = observe(
        lambda p, i: p["e"][i] @ p["w"], {"e": PARAMS["a"], "w": PARAMS["b"]}, [jnp.arange(3)], what="absmax"
    )
    with pytest.raises(ValueError, match=r"'e' \(gather at .* is a lookup, which no activations meet"):
        find_activation_scaling(lookup["e"][0], INT8)


def test_calibration_data_with_nan_name_the_site():
    bad = [BATCHES[0], BATCHES[1].at[3, 2].set(jnp.nan)]
    with pytest.raises(ValueError, match=r"1 values that are not finite met 'a' \(dot_general at .* in batch 1"):
        observe(dense, PARAMS, bad, what=required_statistics("mse"))


def test_batches_that_miss_a_branch_are_passed_over():
    def fn(params, x):
        return lax.cond(x[0, 0] > 0, lambda x: x @ params["a"], lambda x: x @ params["b"], x)

    params = {"a": jnp.ones((6, 2)), "b": jnp.ones((6, 2))}
    batches = [x.at[0, 0].set(sign) for x, sign in zip(BATCHES, (1.0, -1.0, 1.0), strict=True)]
    stats = observe(fn, params, batches, what="batch_ranges")
    first, last = (float(jnp.abs(batches[i]).max()) for i in (0, 2))
    least = [float(batches[i].min()) for i in (0, 2)]
    greatest = [float(batches[i].max()) for i in (0, 2)]
    expected = max(-sum(least) / 2, sum(greatest) / 2)
    found = find_activation_scaling(stats["a"][0], INT8, MovingAverage(0.5)).scale
    assert float(found) == pytest.approx(expected / 127)
    assert min(first, last) / 127 <= float(found) * 1.5
