"""Refusals: what is kept is checked, and what cannot be followed is named with its line and the way out."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcompress.core.shrink import masked, shrink, verify
from tests.core.shrink.test_rules import I, convolve
from tests.zoo.model import data

X = data(3, 4)
PARAMS = {"layer": {"w": data(4, 12, seed=2), "v": data(4, 12, seed=3)}}
KEPT = [0, 1, 4, 5, 8, 9]

BAD_KEEPS = {
    "list": ([("layer/w", 1)], TypeError, r"keep= maps \(path, axis\) to kept indices, got list"),
    "key": ({"layer/w": [0]}, TypeError, r"keep= has the key 'layer/w'; keys are \(path, axis\)"),
    "axis_type": ({("layer/w", 1.0): [0]}, TypeError, r"axis 1\.0 for 'layer/w'; axes are integers"),
    "axis_bool": ({("layer/w", True): [0]}, TypeError, "keys are"),
    "path": ({("layer/W", 1): [0]}, ValueError, r"'layer/W', which is no leaf; did you mean 'layer/w'\? The paths are"),
    "axis": ({("layer/w", 2): [0]}, ValueError, r"axis 2 of 'layer/w', which has the shape \(4, 12\)"),
    "negative_axis": ({("layer/w", -3): [0]}, ValueError, "axis -3 of"),
    "axis_twice": ({("layer/w", 1): [0], ("layer/w", -1): [0]}, ValueError, "axis 1 of 'layer/w' twice"),
    "mask": (
        {("layer/w", 0): np.ones(4, bool)},
        TypeError,
        r"integers, got bool of shape \(4,\); of a mask take np.flat",
    ),
    "floats": ({("layer/w", 0): [0.0, 1.0]}, TypeError, "1-D array of integers, got float64"),
    "matrix": ({("layer/w", 0): [[0, 1]]}, TypeError, r"integers, got int64 of shape \(1, 2\)"),
    "large": ({("layer/w", 0): [0, 4]}, ValueError, r"keep\['layer/w', 0\] has the index 4, the axis has the length 4"),
    "negative": ({("layer/w", 0): [0, -1]}, ValueError, "has the index -1"),
    "twice": ({("layer/w", 0): [2, 0, 2]}, ValueError, "has the index 2 twice"),
}


@pytest.mark.parametrize("name", BAD_KEEPS)
@pytest.mark.parametrize("call", [lambda k: shrink(lambda p: p, PARAMS, k), lambda k: masked(PARAMS, k)])
def test_a_keep_is_checked(name, call):
    keep, kind, words = BAD_KEEPS[name]
    with pytest.raises(kind, match=words):
        call(keep)


def test_order_negative_axes_and_whole_axes():
    keep = {("layer/w", -1): [5, 0, 4], ("layer/v", 0): np.arange(4), ("layer/v", 1): np.array([], np.float32)}
    small = shrink(lambda p: p, PARAMS, keep)
    assert {key: kept.tolist() for key, kept in small.keep.items()} == {("layer/w", 1): [0, 4, 5], ("layer/v", 1): []}
    np.testing.assert_array_equal(small.params["layer"]["w"], PARAMS["layer"]["w"][:, jnp.array([0, 4, 5])])
    assert small.params["layer"]["v"].shape == (4, 0)


REFUSED = {
    "cumsum": (lambda h: jnp.cumsum(h, 1), "cumsum .*the axis that it runs along must be whole"),
    "sort": (lambda h: jnp.sort(h, 1), "sort .*the axis that it orders must be whole"),
    "top_k": (lambda h: lax.top_k(h, 2), "top_k .*chooses from"),
    "argmax": (lambda h: jnp.argmax(h, 1), "argmax .*whose indices are asked for"),
    "fft": (lambda h: jnp.fft.rfft(h), "fft .*an axis that it transforms"),
    "flip": (lambda h: h + jnp.flip(h, 1), "add .*axis 1 keeps different"),
    "reshape": (lambda h: h.reshape(3, 4, 3), r"reshape .*what is kept of \(12,\) is no grid in \(4, 3\)"),
    "window": (lambda h: lax.reduce_window(h, 0.0, lax.add, (1, 2), (1, 1), "SAME"), "windows slide along"),
    "interior": (lambda h: lax.pad(h, 0.0, ((0, 0, 0), (0, 0, 1))), "axis 1 is padded between its entries"),
    "lookup": (lambda h: h[:, I[:, 0]], "gather .*an axis that indices select from"),
    "part": (lambda h: lax.dynamic_slice_in_dim(h, I[0, 0], 5, 1), "dynamic_slice .*indices select from"),
    "update": (lambda h: lax.dynamic_update_slice_in_dim(h, X, I[0, 0], 1), "dynamic_update_slice .*indices"),
    "scatter": (lambda h: h.at[:, I[:, 0]].add(1.0), "scatter-add .*indices select from"),
    "spatial": (lambda h: lax.conv(h[:, None], data(2, 1, 3), (1,), "SAME"), "conv.* a spatial axis must be whole"),
    "group_parts": (lambda h: convolve(h, data(3, 3, 8), feature_group_count=4), "each of its 4 feature groups"),
    "groups_of_batch": (
        lambda h: convolve(h.T[:, :2], data(3, 2, 6), batch_group_count=3), "batch_group_count=3"
    ),
    "unknown": (lambda h: jnp.linalg.svd(h)[1], "svd .*no rule says how a cut passes through it"),
    "callback": (lambda h: jax.pure_callback(np.sin, h, h), "pure_callback .*no rule"),
    "unstack": (lambda h: jnp.unstack(h, axis=1)[0], "unstack .*taken apart"),
    "carry": (lambda h: lax.fori_loop(0, 2, lambda i, c: jnp.flip(c, 1), h), "scan .*a carry of the loop keeps diff"),
    "while": (lambda h: lax.while_loop(lambda c: c.sum() < 9, lambda c: jnp.roll(c, 1, 1), h), "while .*a carry"),
    "branches": (lambda h: lax.cond(h.sum() > 0, lambda h: h, lambda h: jnp.flip(h, 1), h), "cond .*a result of the"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_followed_is_named(name):
    operation, words = REFUSED[name]
    small = shrink(lambda p, x: operation(x @ p["layer"]["w"]), PARAMS, {("layer/w", 1): KEPT})
    with pytest.raises(ValueError, match=words) as caught:
        jax.eval_shape(small.fn, small.params, X)
    message = str(caught.value)
    assert message.startswith("shrink: ")
    assert re.search(r" at test_(errors|rules)\.py:\d+ ", message)
    assert "6 of 12 (0, 1, 4, 5, 8, 9) from layer/w axis 1" in message
    assert message.endswith("Leave that axis out of keep, or cut everything that meets it alike.")


def test_two_cuts_are_both_named():
    small = shrink(
        lambda p, x: x @ p["layer"]["w"] + x @ p["layer"]["v"], PARAMS, {("layer/w", 1): [0, 1], ("layer/v", 1): [0, 2]}
    )
    both = r"kept: 2 of 12 \(0, 1\) from layer/w axis 1 and 2 of 12 \(0, 2\) from layer/v axis 1"
    with pytest.raises(ValueError, match=both):
        small.fn(small.params, X)


def test_a_call_with_other_parameters():
    small = shrink(lambda p, x: x @ p["layer"]["w"], PARAMS, {("layer/w", 1): KEPT})
    with pytest.raises(ValueError, match=r"'layer/w' has the shape \(4, 12\), shrunk parameters have \(4, 6\)"):
        small.fn(PARAMS, X)
    with pytest.raises(ValueError, match=r"no array at 'layer/w'; small\.fn takes the shrunk parameters first"):
        small.fn(small.params["layer"], X)
    for call in (small.expand, small.with_params):
        with pytest.raises(ValueError, match=r"'layer/w' must have the shrunk shape \(4, 6\), got \(4, 12\)"):
            call(PARAMS)
        with pytest.raises(ValueError, match="got no leaf"):
            call({"layer": {}})


def test_verify_says_what_differs():
    """A bias behind a sigmoid, not cut: the masked units still say 0.5, the shrunk ones are gone."""
    params = {"w": data(4, 6), "b": data(6, seed=4), "v": data(6, 2, seed=5), "u": data(4, 2)}
    fn = lambda p, x: {"a": jax.nn.sigmoid(x @ p["w"] + p["b"][None]) @ p["v"], "b": x @ p["u"]}  # noqa: E731
    report = verify(fn, params, {("w", 1): [1, 2]}, X)
    assert not report
    assert not report.ok
    assert [out.path for out in report.outputs if out.relative > report.tolerance] == ["a"]
    assert report.largest == report.outputs[0].relative > 0.01
    assert "DIFFER" in repr(report)
    assert repr(report).count("differs") == 1
    assert "<table>" in report._repr_html_()
    whole = verify(fn, params, {("w", 1): [1, 2], ("b", 0): [1, 2], ("v", 0): [1, 2]}, X)
    assert whole
    assert whole.largest <= 1e-6


def test_verify_sees_nan_and_integers():
    fn = lambda p, x: (x / p["w"].sum(), (x @ p["w"] > 0).astype(jnp.int32), jax.random.key(p["w"].shape[1]))  # noqa: E731
    params = {"w": jnp.ones((4, 2)).at[:, 0].set(0)}
    report = verify(fn, params, {("w", 1): [0]}, X)  # 0 / 0 in the masked and in the shrunk one alike
    assert report.ok, report
    other = lambda p, x: jnp.where(p["w"].size == 8, 1.0, 1.0) * jnp.max(p["w"] - 1) * x  # noqa: E731
    assert not verify(other, {"w": jnp.full((4, 2), 2.0)}, {("w", 1): [0], ("w", 0): []}, X).ok
