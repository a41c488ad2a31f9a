"""What has no integer form, or was not calibrated, is an error that names it and the way out."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxcompress as jc
from tests.quantize.integer.floats import float_arithmetic
from tests.zoo.model import data

X = data(4, 6)
PARAMS = {"w": data(6, 6, seed=1), "table": data(9, 6, seed=2)}
integer_only = jc.quantize.integer_only

NO_FORM = {
    "tanh": (lambda p, x: jnp.tanh(x @ p["w"]) @ p["w"], "tanh at test_refusals.py"),
    "softmax": (lambda p, x: jax.nn.softmax(x @ p["w"]), "exp at test_refusals.py"),
    "data_by_data": (lambda p, x: (x @ p["w"]) @ x.T, "dot_general at .*both operands are data"),
    "product": (lambda p, x: x * (x @ p["w"]), "mul at .*both operands are data"),
    "quotient": (lambda p, x: 1.0 / x, "div at .*the divisor is data"),
    "square": (lambda p, x: x**2, "integer_pow|square at"),
    "scan": (lambda p, x: lax.scan(lambda c, _: (jax.nn.relu(c @ p["w"]), None), x, None, length=2)[0], "scan at "),
    "cond": (lambda p, x: lax.cond(p["w"][0, 0] > 0, lambda x: -x, lambda x: x, x), "cond at "),
    "comparison": (lambda p, x: jnp.where(x > 0, x, 0.1 * x), "gt at "),
    "truncation": (lambda p, x: x.astype(jnp.int32), "convert_element_type at .*makes integers"),
    "joined": (lambda p, x: jnp.concatenate([x, p["w"]]), "concatenate at .*joins data with parameters"),
    "long_sum": (lambda p, x: jnp.tile(x, (1, 8192)) @ jnp.ones((49152, 2)), "sums 49152 products"),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_FORM)
def test_no_integer_form(name):
    fn, message = NO_FORM[name]
    with pytest.raises(jc.quantize.NoIntegerForm, match=message) as caught:
        integer_only(fn, PARAMS, [X])
    assert 'tail="float"' in str(caught.value)
    assert "test_refusals.py" in str(caught.value)


def test_lookup():
    fn = lambda p, ids: p["table"][ids] @ p["w"]  # noqa: E731
    with pytest.raises(jc.quantize.NoIntegerForm, match=r"gather at .*\(a lookup\)"):
        integer_only(fn, PARAMS, [jnp.array([1, 2])])


@pytest.mark.parametrize("tail", [jax.nn.softmax, jax.nn.log_softmax])
def test_float_tail(tail):
    """The logits are those of the integer function; what follows runs in floats, and the report says from where on."""
    head = lambda p, x: jax.nn.relu(x @ p["w"]) @ p["w"]  # noqa: E731
    plain = integer_only(head, PARAMS, [X])
    with_tail = integer_only(lambda p, x: tail(head(p, x)), PARAMS, [X], tail="float")
    np.testing.assert_allclose(with_tail(X), tail(plain(X)), rtol=1e-6, atol=1e-6)
    assert plain.report.tail is None
    assert " at " in with_tail.report.tail
    assert list(with_tail.report.grids) == list(plain.report.grids)  # no rounding between the logits and the tail
    assert "in floats from" in str(with_tail.report)
    closed = jax.make_jaxpr(with_tail.apply)(with_tail.params, X)
    assert float_arithmetic(closed, len(jax.tree.leaves(with_tail.params)))  # so the checker sees it, too


def test_float_tail_holds_the_parameters_that_it_needs():
    params = PARAMS | {"temperature": jnp.float32(2.0)}
    fn = lambda p, x: jax.nn.softmax((x @ p["w"]) / p["temperature"]) ** p["temperature"]  # noqa: E731
    int_fn = integer_only(fn, params, [X], tail="float")
    np.testing.assert_allclose(int_fn(X), fn(params, X), atol=0.05)


def test_no_float_network_behind_a_tail():
    with pytest.raises(
        jc.quantize.NoIntegerForm,
        match=r"tanh at test_refusals.*product with parameters stands behind it, so it is no tail",
    ):
        integer_only(lambda p, x: jnp.tanh(x @ p["w"]) @ p["w"], PARAMS, [X], tail="float")


def test_no_batch():
    with pytest.raises(ValueError, match="batches= gave no batch"):
        integer_only(lambda p, x: x @ p["w"], PARAMS, [])
    with pytest.raises(ValueError, match="a batch has no rows; nothing reached the site '000_input'"):
        integer_only(lambda p, x: x @ p["w"], PARAMS, [X[:0]])


def test_nan_names_the_site():
    with pytest.raises(ValueError, match=r"1 values that are not finite at the site '000_input'.* in batch 1; look"):
        integer_only(lambda p, x: x @ p["w"], PARAMS, [X, X.at[0, 0].set(jnp.nan)])
    bad = PARAMS | {"w": PARAMS["w"].at[0, 0].set(jnp.inf)}
    with pytest.raises(ValueError, match=r"not finite at the site '001_dot' \(dot_general of w at test_refusals"):
        integer_only(lambda p, x: x @ p["w"], bad, [X])


def test_nan_behind_a_bound_is_found_in_the_parameters():
    """The site's values are finite, the weights are not."""
    bad = PARAMS | {"w": PARAMS["w"].at[0, 0].set(jnp.inf)}
    with pytest.raises(ValueError, match="w holds values that are not finite"):
        integer_only(lambda p, x: jnp.clip(x @ p["w"], -1, 1), bad, [jnp.abs(X) + 1])


def test_result_without_data():
    with pytest.raises(ValueError, match="result 1 of the function depends on no data"):
        integer_only(lambda p, x: (x @ p["w"], p["w"].sum()), PARAMS, [X])


OPTIONS = {
    "tail": ({"tail": "int"}, r"tail must be one of \('error', 'float'\), got 'int'"),
    "granularity": ({"granularity": "group"}, "granularity must be one of"),
    "bits": ({"bits": 9}, "bits must be an integer from 2 to 8, got 9"),
    "one_bit": ({"bits": 1}, "bits must be an integer from 2 to 8, got 1"),
    "glob_bits": ({"bits": {"w": 16}}, r"bits\['w'\] must be an integer"),
    "no_glob": ({"bits": {"other": 4}}, "no glob of bits="),
    "activation_bits": ({"activation_bits": 16}, "activation_bits must be"),
    "ranges": ({"ranges": "best"}, "ranges='best' is not known"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name):
    options, message = OPTIONS[name]
    with pytest.raises(ValueError, match=message):
        integer_only(lambda p, x: x @ p["w"], PARAMS, [X], **options)


def test_another_program_at_another_shape():
    def fn(p, x):
        y = x @ p["w"]
        return y if len(x) > 2 else jax.nn.relu(y) @ p["w"]

    with pytest.raises(ValueError, match="batches lead to different programs"):
        integer_only(fn, PARAMS, [X, X[:2]])
    int_fn = integer_only(fn, PARAMS, [X])
    with pytest.raises(ValueError, match="the function is another program than the one that was calibrated"):
        int_fn(X[:2])
    with pytest.raises(ValueError, match=re.escape("hold nothing for '001_dot'")):
        int_fn.apply({"000_input": int_fn.params["000_input"]}, X)


@pytest.mark.parametrize("ranges", ["moving_average", jc.quantize.ranges.Percentile(99.0)])
def test_ranges(ranges):
    """Ranges that clip leave out the outlier, and the rest lies on a finer grid."""
    x = data(256, 6).at[0, 0].set(60.0)
    batches = [x[:128], x[128:]]
    plain, clipped = (integer_only(lambda p, x: x[:, ::-1], {}, batches, ranges=r) for r in ("minmax", ranges))
    error = lambda f: float(jnp.square(f(x[1:]) - x[1:, ::-1]).mean())  # noqa: E731
    assert plain.report.grids["000_input"].scale > clipped.report.grids["000_input"].scale
    if ranges != "moving_average":
        assert error(clipped) < error(plain)
