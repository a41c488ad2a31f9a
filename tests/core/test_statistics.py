"""Streaming statistics: merging is exact, in any order and on any number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxcompress.core import statistics

ALL = tuple(name for name in statistics.STATISTICS if name != "output_rows")  # a sample is no sum of samples
collect = jax.jit(statistics.collect, static_argnums=0)
combine = jax.jit(statistics.combine)


def rows(seed, *shape, scale=1.0):
    return jnp.asarray(scale * np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def check(found, x, out):
    """Against NumPy in float64."""
    x, out = np.asarray(x, np.float64), np.asarray(out, np.float64)
    close = {"rtol": 1e-5, "atol": 1e-5 * np.abs(x).max() ** 2}  # float32 sums of 60 terms of both signs
    np.testing.assert_allclose(found["mean"], x.sum(-2), **close)
    np.testing.assert_allclose(found["mean_abs"], np.abs(x).sum(-2), **close)
    np.testing.assert_allclose(found["second_moment"], np.einsum("...nk,...nl->...kl", x, x), **close)
    np.testing.assert_allclose(found["output_second_moment"], np.einsum("...nk,...nl->...kl", out, out), **close)
    np.testing.assert_array_equal(found["absmax"], np.abs(x).max(-2))
    np.testing.assert_array_equal(found["min"], x.min(-2))
    np.testing.assert_array_equal(found["max"], x.max(-2))
    least, greatest = (np.asarray(end).reshape(-1, *x.shape[:-2]) for end in found["batch_ranges"])
    np.testing.assert_array_equal(least.min(0), x.min((-2, -1)))
    np.testing.assert_array_equal(greatest.max(0), x.max((-2, -1)))
    np.testing.assert_array_equal(found["count"], np.full(x.shape[:-2], x.shape[-2]))
    check_histogram(found["histogram"], x)


def check_histogram(histogram, x):
    counts, exponent = map(np.asarray, histogram)
    edges = statistics.bin_edges(exponent)
    for at in np.ndindex(counts.shape[:-1]):
        values = np.asarray(x, np.float64)[at].ravel()
        np.testing.assert_array_equal(counts[at], np.histogram(values, edges[at])[0])
        assert counts[at].sum() == values.size


def test_one_call():
    x, out = rows(0, 20, 5), rows(1, 20, 3)
    check(collect(ALL, x, out), x, out)


def test_stacked_and_half_precision():
    x, out = rows(0, 4, 20, 5).astype(jnp.bfloat16), rows(1, 4, 20, 3)
    found = collect(ALL, x, out)
    assert found["second_moment"].dtype == jnp.float32
    check(found, x, out)


@pytest.mark.parametrize("on_host", [False, True])
def test_merging_is_the_whole(on_host):
    x, out = rows(0, 3, 20, 5, scale=np.array([1e-3, 1, 1e4])[:, None, None]), rows(1, 3, 20, 2)
    convert = statistics.to_host if on_host else lambda found: found
    merge = statistics.combine if on_host else combine
    total = statistics.empty(jax.eval_shape(lambda: collect(ALL, x, out)))
    for piece in (slice(0, 4), slice(4, 5), slice(5, 20)):
        found = convert(collect(ALL, x[:, piece], out[:, piece]))
        total = merge(convert(total), found)
    check(total, x, out)


def test_counts_are_exact_above_what_float32_holds():
    host = statistics.to_host(collect((), rows(0, 2, 1), rows(0, 2, 1)))
    big = dict(host, count=np.asarray(2**40, np.int64))
    assert statistics.combine(big, host)["count"] == 2**40 + 2


def test_ranges_of_batches_are_appended_on_the_host_in_their_order():
    pieces = [rows(seed, 3, 4, 5, scale=float(seed)) for seed in (1, 3, 2)]
    total = None
    for x in pieces:
        found = statistics.to_host(collect(("batch_ranges",), x, x))
        total = statistics.to_host(found if total is None else statistics.combine(total, found))
    least, greatest = total["batch_ranges"]
    np.testing.assert_array_equal(least, np.stack([np.min(x, (1, 2)) for x in pieces]))
    np.testing.assert_array_equal(greatest, np.stack([np.max(x, (1, 2)) for x in pieces]))


def test_over_devices():
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    x, out = rows(0, 24, 5) * jnp.exp(jnp.arange(24.0))[:, None] / jnp.float32(1e6), rows(1, 24, 3)
    x = x / jnp.float32(1e3)
    merged = jax.shard_map(
        lambda x, out: statistics.across(statistics.collect(ALL, x, out), ("d",)),
        mesh=mesh, in_specs=P("d"), out_specs=P(),
    )  # fmt: skip
    check(jax.jit(merged)(x, out), x, out)


def test_sampled_rows_of_loops_batches_and_devices():
    x, out = rows(0, 600, 3), rows(1, 600, 2)
    of = lambda out: statistics.collect(("output_rows",), x[: out.shape[0]], out)  # noqa: E731
    found = of(out)
    assert found["output_rows"].shape == (512, 2)
    nothing = statistics.empty(jax.eval_shape(lambda: found))
    for total in (combine(nothing, found), combine(found, nothing), combine(of(out + jnp.float32(1)), found)):
        np.testing.assert_array_equal(total["output_rows"], found["output_rows"])
    both = statistics.combine(statistics.to_host(found), statistics.to_host(of(out[:5])))
    np.testing.assert_array_equal(both["output_rows"][512:], out[:5])
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    merged = jax.shard_map(
        lambda out: statistics.across({"output_rows": statistics.sample(out)}, ("d",)),
        mesh=mesh, in_specs=P("d"), out_specs=P(),
    )  # fmt: skip
    np.testing.assert_array_equal(jax.jit(merged)(out)["output_rows"], out[:75])


def test_no_axes_no_change():
    found = collect(("mean",), rows(0, 4, 2), rows(0, 4, 2))
    assert statistics.across(found, ()) is found


def test_not_finite_is_counted():
    x = jnp.array([[1.0, jnp.nan], [jnp.inf, 2.0]])
    found = collect(("absmax",), x, x)
    assert int(found["nonfinite"]) == 2
    assert int(found["count"]) == 2


values = st.floats(-(2.0**120), 2.0**120, width=32, allow_subnormal=False)
batches = st.lists(st.lists(values, min_size=6, max_size=6), min_size=1, max_size=4)


@settings(max_examples=8)
@given(batches)
def test_histograms_merge_exactly(batch):
    """Any range beside any other: no count moves to a wrong bin, none is lost."""
    found = None
    for row in batch:
        one = statistics.to_host(collect(("histogram",), jnp.asarray(row, jnp.float32)[:, None], jnp.zeros((6, 1))))
        found = one if found is None else statistics.combine(found, one)
    x = np.asarray(batch, np.float32).reshape(-1, 1)
    check_histogram(found["histogram"], x)
    device = None
    for row in batch:
        one = collect(("histogram",), jnp.asarray(row, jnp.float32)[:, None], jnp.zeros((6, 1)))
        device = one if device is None else combine(device, one)
    np.testing.assert_array_equal(device["histogram"][0], found["histogram"][0])


def test_histogram_of_zeros_and_of_edges():
    for x in (jnp.zeros((5, 1)), jnp.array([[1.0], [-1.0], [0.5], [-0.5], [0.0]]), jnp.full((5, 1), 1e-45)):
        check_histogram(collect(("histogram",), x, x)["histogram"], x)
