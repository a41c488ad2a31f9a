"""Forms by hand: the same numbers, no dense kernel in blocks, and clear refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.core.explain import explain
from jaxcompress.core.lift import lift
from jaxcompress.core.tree import materialize
from jaxcompress.prune import magnitude
from jaxcompress.quantize import activations, rtn, with_form

FORMS = ("scale_after", "blocks", "materialize")
W = jax.random.normal(jax.random.key(0), (1024, 512))
X = jax.random.normal(jax.random.key(1), (4, 1024))


def fn(p, x):
    return x @ p["w"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("group_size", [None, 128])
def test_every_form_gives_the_product_of_the_materialized_weight(form, group_size) -> None:
    packed = rtn({"w": W}, bits=4, group_size=group_size)
    out = lift(fn)(with_form(packed, form), X)
    np.testing.assert_allclose(out, fn(materialize(packed), X), rtol=1e-4, atol=1e-4)


def floats_of_kernel_size(params) -> int:
    """How many float arrays as large as the kernel the program makes."""
    jaxpr = jax.make_jaxpr(lambda p, x: lift(fn)(p, x))(params, X)

    def count(jaxpr) -> int:
        total = 0
        for eqn in jaxpr.eqns:
            inner = [v for v in eqn.params.values() if hasattr(v, "eqns") or hasattr(v, "jaxpr")]
            total += sum(count(getattr(v, "jaxpr", v)) for v in inner)
            sizes = [v.aval.size for v in eqn.outvars if jnp.issubdtype(v.aval.dtype, jnp.floating)]
            total += sum(size >= W.size for size in sizes)
        return total

    return count(jaxpr.jaxpr)


@pytest.mark.parametrize("group_size", [None, 128])
def test_blocks_never_make_a_dense_float_copy(group_size) -> None:
    packed = rtn({"w": W}, bits=4, group_size=group_size)
    assert floats_of_kernel_size(with_form(packed, "blocks")) == 0
    assert floats_of_kernel_size(with_form(packed, "materialize")) > 0


def test_the_table_is_asked_where_nothing_is_fixed() -> None:
    packed = rtn({"w": W}, bits=8)
    assert with_form(with_form(packed, "blocks"), "auto")["w"] is packed["w"]
    assert with_form(with_form(packed, "blocks"), "materialize")["w"].form == "materialize"
    data = activations(packed)
    assert [with_form(data, form)["w"].form for form in ("integer", "fake", "auto")] == ["integer", "fake", "auto"]
    inside = with_form(data, "blocks")["w"]
    assert (inside.form, inside.weight.form) == ("auto", "blocks")
    assert with_form(with_form(data, "blocks"), "auto")["w"].weight is packed["w"]
    masked = with_form(rtn(magnitude({"w": W}, sparsity=0.5), bits=8), "blocks")["w"]
    assert masked.values.form == "blocks"


def test_what_cannot_be_is_refused() -> None:
    packed = rtn({"w": W}, bits=8)
    with pytest.raises(ValueError, match="form must be one of"):
        with_form(packed, "fast")
    with pytest.raises(ValueError, match="round their data"):
        with_form(packed, "integer")
    with pytest.raises(ValueError, match=r"\['b'\] can have"):
        with_form(packed | {"b": jnp.ones(3)}, "blocks", where=["w", "b"])


def test_explain_names_the_form() -> None:
    packed = rtn({"w": W}, bits=8)

    def how(params, rows) -> str:
        (line,) = explain(fn, params, jnp.ones((rows, 1024)))
        return line.how

    assert how(packed, 1) == "quantized matmul, blocks on cpu, scale_after on cuda and tpu"
    assert how(packed, 4096) == "quantized matmul, scale_after"
    assert how(with_form(packed, "materialize"), 1) == "in_form matmul, materialize"
    assert how(activations(packed), 1) == "dynamic_input matmul, fake on cpu, integer on cuda and tpu"
    assert how(activations(packed, form="fake"), 64) == "dynamic_input matmul, fake"
