"""The leaf of rescaled inputs: data meet the factor, then the values' own product; nothing else about it is special."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxcompress as jc
from jaxcompress.core.explain import explain
from jaxcompress.core.lift import lift
from jaxcompress.prune import Masked, magnitude
from jaxcompress.quantize import Quantized, rtn
from jaxcompress.quantize.rescaled import Rescaled


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def factor(*shape):
    return jnp.exp2(jnp.round(2 * normal(7, *shape)))  # powers of two: exact, so that comparisons can be


def rescaled(w, *shape, layers=1):
    """Eight bits inside, one scale for all of a layer, with the factor's inverse taken off the weight."""
    by = factor(*shape)
    scale = jnp.full((layers, *(1,) * (w.ndim - 1)), jnp.max(jnp.abs(w / by)) / 127)
    return Rescaled.create(Quantized.create(jnp.round(w / by / scale).astype(jnp.int8), scale), by)


def test_by_hand():
    values = Quantized.create(jnp.array([[1, 2], [3, 4]], jnp.int8), jnp.array([[0.5, 2.0]]))
    leaf = Rescaled.create(values, jnp.array([[10.0], [1.0]]))
    assert leaf.materialize().tolist() == [[5.0, 40.0], [1.5, 8.0]]
    assert leaf.matmul(jnp.array([[1.0, 1.0]]), contract=((1,), (0,)), batch=((), ())).tolist() == [[6.5, 48.0]]
    assert leaf.stored_bits == 4 * 8 + 2 * 32 + 2 * 32


class Noting(Quantized):
    """Integers that note the data they meet."""

    def matmul(self, x, **options):
        self.met.append(x)
        return super().matmul(x, **options)


def test_the_values_product_meets_rescaled_data():
    leaf, x = rescaled(normal(0, 4, 3), 4, 1), normal(1, 2, 4)
    noting = Noting(leaf.values.qvalue, leaf.values.scale, leaf.values.dtype)
    object.__setattr__(noting, "met", [])
    Rescaled(noting, leaf.factor).matmul(x, contract=((1,), (0,)), batch=((), ()))
    np.testing.assert_array_equal(noting.met[0], x * leaf.factor[:, 0][None])


FUNCTIONS = {  # weight shape, factor shape, function: served without a dense copy
    "dot": ((6, 4), (6, 1), lambda w, x: x @ w),
    "transposed": ((4, 6), (1, 6), lambda w, x: x @ w.T),
    "free_axis": ((4, 6), (4, 1), lambda w, x: x @ w.T),
    "heads": ((6, 2, 4), (6, 1, 1), lambda w, x: jnp.einsum("bi,ihd->hbd", x, w)),
    "two_contracted": ((3, 2, 5), (3, 2, 1), lambda w, x: jnp.einsum("bij,ijo->bo", x.reshape(-1, 3, 2), w)),
    "stack": ((2, 3, 5), (2, 3, 1), lambda w, x: jnp.einsum("bsi,sio->bso", x.reshape(-1, 2, 3), w)),
    "stack_last": ((3, 5, 2), (3, 1, 2), lambda w, x: jnp.einsum("bsi,ios->bso", x.reshape(-1, 2, 3), w)),
    "stack_and_free": ((2, 3, 5), (2, 1, 5), lambda w, x: jnp.einsum("bsi,sio->sbo", x.reshape(-1, 2, 3), w)),
    "scan": ((3, 6, 6), (3, 6, 1), lambda w, x: lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, w)[0]),
    "rows": ((9, 6), (1, 6), lambda w, x: w[jnp.int32(jnp.abs(x[:, 0]))].sum(1)),
    "sliced": ((8, 4), (8, 1), lambda w, x: x @ w[1:7]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_products_of_every_shape(name):
    shape, by, function = FUNCTIONS[name]
    params, x = {"w": rescaled(normal(0, *shape), *by, layers=3 if name == "scan" else 1)}, normal(1, 5, 6)
    fn = lambda p, x: function(p["w"], x)  # noqa: E731
    np.testing.assert_allclose(lift(fn)(params, x), fn(jc.materialize(params), x), rtol=1e-5, atol=1e-5)
    if name != "rows":  # a lookup makes the rows that it takes dense
        assert not explain(fn, params, x).materialized


def test_varying_along_both_sides_is_made_dense():
    params, x = {"w": rescaled(normal(0, 6, 4), 6, 4)}, normal(1, 5, 6)
    fn = lambda p, x: x @ p["w"]  # noqa: E731
    np.testing.assert_allclose(lift(fn)(params, x), fn(jc.materialize(params), x), rtol=1e-5, atol=1e-5)
    (line,) = explain(fn, params, x).materialized
    assert line.kind == "rescaled(quantized)"


@pytest.mark.parametrize(
    ("groups", "numbers", "by"),
    [(1, ("NHWC", "HWIO", "NHWC"), (1, 1, 4, 1)), (2, ("NCHW", "OIHW", "NCHW"), (1, 2, 1, 1))],
    ids=["plain", "grouped"],
)
def test_convolutions(groups, numbers, by):
    shape = {"HWIO": (2, 3, 4, 6), "OIHW": (6, 2, 2, 3)}[numbers[1]]
    x = normal(1, *((2, 5, 6, 4) if groups == 1 else (2, 4, 5, 6)))

    def fn(p, x):
        return lax.conv_general_dilated(
            x, p["w"], (1, 2), "SAME", dimension_numbers=numbers, feature_group_count=groups
        )

    params = {"w": rescaled(normal(0, *shape), *by)}
    np.testing.assert_allclose(lift(fn)(params, x), fn(jc.materialize(params), x), rtol=1e-5, atol=1e-5)
    assert not explain(fn, params, x).materialized
    spatial = {"w": rescaled(normal(0, *shape), *(1 if size == 6 else size for size in shape))}
    np.testing.assert_allclose(lift(fn)(spatial, x), fn(jc.materialize(spatial), x), rtol=1e-5, atol=1e-5)
    assert len(explain(fn, spatial, x).materialized) == 1


def test_other_dtypes():
    leaf = rescaled(normal(0, 6, 4), 6, 1)
    half = leaf.astype(jnp.bfloat16)
    assert (half.dtype, half.materialize().dtype, half.factor.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    out = lift(lambda p, x: x @ p["w"])({"w": half}, jnp.ones((1, 6), jnp.bfloat16))
    np.testing.assert_allclose(out.astype(jnp.float32), leaf.materialize().sum(0)[None], rtol=0.02, atol=0.02)
    assert Rescaled.create(rtn({"w": normal(0, 4, 2)}, bits=8)["w"], factor(4, 1)).astype(jnp.float32) is not None


def test_methods_act_on_the_values():
    dense = {"w": Rescaled.create(normal(0, 6, 4), factor(6, 1))}
    eight = rtn(dense, bits=8)["w"]
    assert isinstance(eight.values, Quantized)
    np.testing.assert_array_equal(eight.factor, dense["w"].factor)
    assert isinstance(magnitude(dense, sparsity=0.5)["w"], Masked)
    stats = jc.observe(lambda p, x: x @ p["w"], jc.materialize(dense), [normal(1, 8, 6)])
    with pytest.raises(ValueError, match="'w/values' is a factor, which meets other data"):
        jc.prune.wanda(dense, stats, sparsity=0.5)


def test_training_moves_the_values_alone():
    params = {"w": Rescaled.create(normal(0, 6, 4), factor(6, 1))}
    trainable, frozen = jc.split_trainable(params)
    loss = lambda t: jnp.sum(lift(lambda p, x: x @ p["w"])(jc.merge(t, frozen), jnp.ones((1, 6))) ** 2)  # noqa: E731
    (grad,) = jax.tree.leaves(jax.grad(loss)(trainable))
    assert grad.shape == (6, 4)
    assert np.isfinite(grad).all()


def test_create_names_what_is_wrong():
    w = normal(0, 6, 4)
    with pytest.raises(ValueError, match=r"got \(3, 1\) for \(6, 4\)"):
        Rescaled.create(w, jnp.ones((3, 1)))
    with pytest.raises(ValueError, match=r"got \(6,\) for \(6, 4\)"):
        Rescaled.create(w, jnp.ones(6))
    with pytest.raises(TypeError, match="factor must be float, got int32"):
        Rescaled.create(w, jnp.ones((6, 1), jnp.int32))
