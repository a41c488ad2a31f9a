"""`sites`: roles, trips and MACs, held against counting by hand."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax import lax

from jaxcompress.adapters import nnx as adapter
from jaxcompress.core.lift import lift
from jaxcompress.core.parts import find_parts
from jaxcompress.core.sites import sites
from tests.core.kinds import Grouped, Thin


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def roles(site):
    return site.contracting, site.output, site.stack, site.lookup


# function of (w, x), shape of w, shape of x -> (contracting, output, stack, lookup), MACs
BY_HAND = {
    "dot": (lambda w, x: x @ w, (6, 8), (3, 6), ((0,), (1,), (), ()), 3 * 6 * 8),
    "transposed": (lambda w, x: x @ w.T, (8, 6), (3, 6), ((1,), (0,), (), ()), 3 * 6 * 8),
    "left": (lambda w, x: w @ x, (8, 6), (6, 3), ((1,), (0,), (), ()), 3 * 6 * 8),
    "leading_axes": (lambda w, x: x @ w, (6, 8), (2, 3, 6), ((0,), (1,), (), ()), 6 * 6 * 8),
    "heads": (lambda w, x: jnp.einsum("bti,ihd->bthd", x, w), (6, 2, 4), (2, 3, 6), ((0,), (1, 2), (), ()), 6 * 48),
    "heads_out": (lambda w, x: jnp.einsum("bhd,hdo->bo", x, w), (2, 4, 6), (3, 2, 4), ((0, 1), (2,), (), ()), 3 * 48),
    "stack": (lambda w, x: jnp.einsum("sbi,sio->sbo", x, w), (2, 6, 4), (2, 3, 6), ((1,), (2,), (0,), ()), 6 * 24),
    "vmapped": (lambda w, x: jax.vmap(jnp.dot)(x, w), (2, 6, 4), (2, 3, 6), ((1,), (2,), (0,), ()), 6 * 24),
    "reshaped": (lambda w, x: x @ w.reshape(6, 8), (6, 2, 4), (3, 6), ((0,), (1, 2), (), ()), 3 * 48),
    "lookup": (lambda w, x: w[jnp.int32(x)], (9, 4), (5,), ((), (1,), (), (0,)), 0),
    "scanned": (
        lambda w, x: lax.scan(lambda c, w: (c @ w, None), x, w)[0], (3, 6, 6), (2, 6), ((1,), (2,), (0,), ()), 3 * 72,
    ),
    "constant": (
        lambda w, x: lax.scan(lambda c, _: (c @ w, None), x, None, length=5)[0], (6, 6), (2, 6),
        ((0,), (1,), (), ()), 5 * 72,
    ),
    "nested_loops": (
        lambda w, x: lax.fori_loop(0, 3, lambda i, c: lax.fori_loop(0, 4, lambda j, c: c @ w, c), x), (6, 6), (2, 6),
        ((0,), (1,), (), ()), 12 * 72,
    ),
    "picked": (
        lambda w, x: lax.fori_loop(0, 3, lambda i, c: c @ w[i], x), (3, 6, 6), (2, 6), ((1,), (2,), (0,), ()), 3 * 72,
    ),
    "conv": (
        lambda w, x: lax.conv_general_dilated(x, w, (1, 1), "VALID"), (5, 4, 3, 2), (2, 4, 6, 7),
        ((1, 2, 3), (0,), (), ()), 2 * 5 * 4 * 6 * 24,
    ),
    "slice": (lambda w, x: x @ w[:, 2:6], (6, 8), (3, 6), ((0,), (1,), (), ()), 3 * 6 * 4),
    "masked": (lambda w, x: x @ (w * jnp.tri(6, 8)), (6, 8), (3, 6), ((0,), (1,), (), ()), 3 * 6 * 8),
    "remat": (lambda w, x: jax.checkpoint(jnp.dot)(x, w), (6, 8), (3, 6), ((0,), (1,), (), ()), 3 * 6 * 8),
    "one_feature": (lambda w, x: x @ w, (6, 1), (3, 6), ((0,), (1,), (), ()), 3 * 6),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_roles_and_macs(name):
    function, w, x, expected, macs = BY_HAND[name]
    (site,) = sites(lambda p, x: function(p["w"], x), {"w": shape(*w)}, shape(*x))
    assert roles(site) == expected
    assert site.macs == macs
    assert (site.path, site.shape, site.bytes) == ("w", w, 4 * jnp.zeros(w).size)
    assert site.source.startswith(("test_sites.py", "numpy.py", "linear.py")) or ".py" in site.source


@pytest.mark.parametrize("name", ["dot", "heads", "stack", "constant", "conv"])
def test_macs_against_the_compiler(name):
    """XLA counts two flops per multiply-accumulate, and (on the CPU) the body of a loop once."""
    function, w, x, _, _ = BY_HAND[name]
    (site,) = sites(lambda p, x: function(p["w"], x), {"w": shape(*w)}, shape(*x))
    with_loop = jax.jit(function).lower(shape(*w), shape(*x)).compile().cost_analysis()["flops"]
    per_trip = site.macs // site.trips
    # A handful of scalar operations of the loop counter come on top.
    assert 2 * per_trip <= with_loop <= 2 * per_trip + 8


def test_unknown_trip_counts():
    fn = lambda p, x: lax.while_loop(lambda c: c.sum() < 9, lambda c: c @ p["w"], x)  # noqa: E731
    found = sites(fn, {"w": shape(6, 6)}, shape(2, 6))
    assert found[0].trips is None
    assert found[0].macs == 72
    assert "?" in repr(found)


def test_tied_parameters_have_several_sites():
    fn = lambda p, i: jnp.tanh(p["t"][i]) @ p["t"].T + p["b"][None]  # noqa: E731
    found = sites(fn, {"t": shape(9, 4), "b": shape(9)}, shape(9, dtype=jnp.int32))
    lookup, attend = found.at("t")
    assert roles(lookup) == ((), (1,), (), (0,))
    assert roles(attend) == ((1,), (0,), (), ())
    assert found.weights() == ("t",)
    assert found.axes("t") == ((), (1,), (0,))
    with pytest.raises(KeyError, match="no site at 'x'; there are sites at"):
        found.at("x")
    with pytest.raises(ValueError, match="'b' meets no contraction and no lookup"):
        found.axes("b")


def test_sites_that_disagree_on_the_stack():
    def fn(p, x):
        scanned = lax.scan(lambda c, w: (c @ w, None), x, p["w"])[0]
        return scanned, jnp.einsum("bi,sio->bso", x, p["w"])

    found = sites(fn, {"w": shape(3, 6, 6)}, shape(2, 6))
    assert [site.stack for site in found] == [(0,), ()]
    with pytest.raises(ValueError, match="different stack axes"):
        found.axes("w")


def test_nothing_is_computed_and_unused_leaves_are_listed():
    params = {"w": shape(6, 8), "idle": shape(3), "steps": shape(dtype=jnp.int32)}
    found = sites(lambda p, x: x @ p["w"], params, shape(3, 6))
    assert found.unused == ("idle",)
    assert "never used: idle" in repr(found)
    assert "<table>" in found._repr_html_()
    assert found[0:1] == (found[0],)


def test_compressed_parameters_and_lifted_functions():
    fn = lambda p, x: jnp.tanh(x @ p["w"]) @ p["g"]  # noqa: E731
    params = {"w": Thin.random(0, 6, 8), "g": Grouped.of(jnp.ones((8, 4)), 2)}
    for function in (fn, lift(fn), jax.jit(lift(fn))):
        found = sites(function, params, shape(3, 6))
        assert found.weights() == ("w", "g")
        assert found.axes("g") == ((), (0,), (1,))
        assert [site.macs for site in found] == [3 * 6 * 8, 3 * 8 * 4]


def test_symbolic_batch():
    (batch,) = jax.export.symbolic_shape("b")
    found = sites(lambda p, x: x @ p["w"], {"w": shape(6, 8)}, shape(batch, 6))
    assert str(found[0].macs) == "48*b"
    assert "48*b" in repr(found)


def test_a_linen_model():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3))(x)))
            x = nn.Dropout(0.5, deterministic=not train)(x.reshape(len(x), -1))
            return nn.DenseGeneral((2, 3))(x)

    x = jnp.ones((2, 5, 5, 3))
    net = Net()
    variables = net.init(jax.random.key(0), x, train=False)
    keywords = {"train": True, "mutable": ["batch_stats"], "rngs": {"dropout": jax.random.key(1)}}
    found = sites(net.apply, variables, x, **keywords)
    assert found.weights() == ("params/Conv_0/kernel", "params/DenseGeneral_0/kernel")
    assert found.axes("params/Conv_0/kernel") == ((), (0, 1, 2), (3,))
    assert found.at("params/Conv_0/kernel")[0].macs == 2 * 25 * 4 * 27
    assert found.axes("params/DenseGeneral_0/kernel") == ((), (0,), (1, 2))
    assert {site.path for site in found} >= {"params/BatchNorm_0/scale", "batch_stats/BatchNorm_0/mean"}


def test_an_nnx_and_an_equinox_model():
    fn, variables = adapter.split(nnx.Linear(4, 3, rngs=nnx.Rngs(0)))
    assert sites(fn, variables, jnp.ones((2, 4))).axes("kernel") == ((), (0,), (1,))
    module = eqx.nn.Linear(4, 3, key=jax.random.key(0))
    found = sites(lambda m, x: jax.vmap(m)(x), module, jnp.ones((2, 4)))
    assert found.axes("weight") == ((), (1,), (0,))
    assert found.at("weight")[0].macs == 24


def test_axes_that_a_window_slides_along_are_told_from_the_features():
    def fn(p, x):
        return lax.conv_general_dilated(x, p["k"], (1, 1), "SAME", dimension_numbers=("NHWC", "OIHW", "NHWC"))

    params = {"k": jnp.ones((8, 4, 3, 3))}
    found = sites(fn, params, jnp.ones((2, 6, 6, 4)))
    assert (found[0].contracting, found[0].spatial) == ((1, 2, 3), (2, 3))
    assert find_parts(params, sites=found)[0].roles.feature == 1
