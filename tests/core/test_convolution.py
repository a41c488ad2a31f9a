"""Convolutions whose kernel is a leaf, in every form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcompress.core.explain import explain
from jaxcompress.core.lift import lift
from jaxcompress.core.sites import sites
from jaxcompress.core.tree import materialize
from tests.core.kinds import Grouped, Probe, all_equations, served

NHWC = ("NHWC", "HWIO", "NHWC")
KERNEL = (3, 2, 4, 6)
IMAGE = (2, 7, 6, 4)


def conv(window=(1, 1), padding="SAME", **options):
    numbers = options.pop("dimension_numbers", NHWC)
    return lambda x, k: lax.conv_general_dilated(x, k, window, padding, dimension_numbers=numbers, **options)


FORMS = {
    "plain": (conv(), IMAGE, KERNEL),
    "strided": (conv((2, 1), "VALID"), IMAGE, KERNEL),
    "padded": (conv(padding=((1, 2), (0, 1))), IMAGE, KERNEL),
    "dilated": (conv(rhs_dilation=(2, 3)), IMAGE, KERNEL),
    "input_dilated": (conv(lhs_dilation=(2, 1), padding=((1, 1), (0, 1))), IMAGE, KERNEL),
    "grouped": (conv(feature_group_count=2), IMAGE, (3, 2, 2, 6)),
    "depthwise": (conv(feature_group_count=4), IMAGE, (3, 2, 1, 8)),
    "batch_groups": (conv(batch_group_count=2), IMAGE, KERNEL),
    "torch_layout": (conv(dimension_numbers=("NCHW", "OIHW", "NCHW")), (2, 4, 7, 6), (6, 4, 3, 2)),
    "one_axis": (conv((1,), dimension_numbers=("NWC", "WIO", "NWC")), (2, 7, 4), (3, 4, 6)),
    "pointwise": (conv(), IMAGE, (1, 1, 4, 6)),
    "precise": (conv(precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32), IMAGE, KERNEL),
    "transposed": (lambda x, k: lax.conv_transpose(x, k, (2, 2), "SAME"), IMAGE, (3, 2, 4, 6)),
    "transposed_kernel": (
        lambda x, k: lax.conv_transpose(x, k, (2, 1), "SAME", transpose_kernel=True),
        IMAGE,
        (3, 3, 6, 4),
    ),
    "permuted": (lambda x, k: conv()(x, jnp.transpose(k, (2, 3, 1, 0))), IMAGE, (6, 4, 3, 2)),
    "flipped": (lambda x, k: conv()(x, k[::-1]), IMAGE, KERNEL),
    "scaled": (lambda x, k: conv()(x, -k / jnp.float32(3)), IMAGE, KERNEL),
    "picked": (lambda x, k: conv()(x, k[..., ::2]), IMAGE, KERNEL),
}


def arrays(name):
    function, image, kernel = FORMS[name]
    rng = np.random.default_rng(0)
    params = {"k": Probe.of(jnp.asarray(rng.standard_normal(kernel), jnp.float32))}
    return (lambda p, x: function(x, p["k"])), params, jnp.asarray(rng.standard_normal(image), jnp.float32)


@pytest.mark.parametrize("name", FORMS)
def test_served_in_every_form(name):
    fn, params, x = arrays(name)
    assert served(fn, params, x), explain(fn, params, x)
    ours, theirs = jax.jit(lambda p, x: (lift(fn)(p, x), fn(materialize(p), x)))(params, x)
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)  # sums of at most 36 products in float32


def test_parameters_reach_the_kind():
    fn, params, x = arrays("precise")
    (equation,) = (
        e
        for e in all_equations(jax.make_jaxpr(lift(fn))(params, x).jaxpr)
        if e.primitive.name == "conv_general_dilated"
    )
    assert equation.params["precision"] == (lax.Precision.HIGHEST,) * 2
    assert equation.params["preferred_element_type"] == jnp.float32


@pytest.mark.parametrize(
    ("name", "macs"),
    [
        # output pixels x output features x window x input features of the group
        ("plain", 2 * 7 * 6 * 6 * 6 * 4),
        ("strided", 2 * 3 * 5 * 6 * 6 * 4),
        ("grouped", 2 * 7 * 6 * 6 * 6 * 2),
        ("depthwise", 2 * 7 * 6 * 8 * 6 * 1),
        ("pointwise", 2 * 7 * 6 * 6 * 1 * 4),
        ("one_axis", 2 * 7 * 6 * 3 * 4),
    ],
)
def test_macs_by_hand(name, macs):
    fn, params, x = arrays(name)
    (site,) = sites(fn, params, x)
    assert site.macs == macs
    out = 2 if name == "one_axis" else 3
    assert site.output == (out,)
    assert site.contracting == tuple(range(out))


def test_input_that_is_a_leaf():
    """The image comes from the parameters: it is materialized."""
    fn = lambda p, k: conv()(p["x"], k)  # noqa: E731
    params = {"x": Probe.of(jnp.ones(IMAGE))}
    assert not served(fn, params, jnp.ones(KERNEL))
    np.testing.assert_allclose(lift(fn)(params, jnp.ones(KERNEL)), fn(materialize(params), jnp.ones(KERNEL)))


def test_kernels_under_vmap_and_from_a_stack():
    rng = np.random.default_rng(1)
    params = {"k": Probe.of(jnp.asarray(rng.standard_normal((3, 3, 2, 4, 4)), jnp.float32))}
    x = jnp.asarray(rng.standard_normal((3, *IMAGE)), jnp.float32)
    scanned = lambda p, x: lax.scan(lambda c, k: (jnp.tanh(conv()(c, k)), None), x[0], p["k"])[0]  # noqa: E731
    for fn in (lambda p, x: jax.vmap(conv())(x, p["k"]), scanned):
        ours, theirs = jax.jit(lambda p, x, fn=fn: (lift(fn)(p, x), fn(materialize(p), x)))(params, x)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    assert served(scanned, params, x)


def test_a_kind_without_conv_is_materialized():
    params = {"k": Grouped.of(jnp.arange(1.0, 145.0).reshape(KERNEL), 2)}
    fn = lambda p, x: conv()(x, p["k"])  # noqa: E731
    (line,) = explain(fn, params, jnp.ones(IMAGE))
    assert not line.served
    assert "test_grouped" in line.how
    np.testing.assert_allclose(lift(fn)(params, jnp.ones(IMAGE)), fn(materialize(params), jnp.ones(IMAGE)), rtol=1e-5)
