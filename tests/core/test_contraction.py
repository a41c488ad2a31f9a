"""Products with a leaf: whatever layout and dimension numbers they arrive in."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from jaxcompress.core.explain import explain
from jaxcompress.core.lift import lift
from jaxcompress.core.tree import materialize
from tests.core.kinds import Grouped, Probe, Thin, all_equations, floats_of_shape, served

# Halves the time XLA takes; what is compared is our program, not XLA's optimizer.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
TOL = 1e-5  # sums of at most 60 products of standard normals in float32


def normal(seed, *shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def check(fn, params, *inputs, tol=TOL):
    ours, theirs = lift(fn)(params, *inputs), fn(materialize(params), *inputs)
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(np.asarray(ours, np.float64), np.asarray(theirs, np.float64), rtol=tol, atol=10 * tol)


# Layouts drawn at random ------------------------------------------------------------------------------------------


def factors_of(size):
    return [(a, size // a) for a in range(2, size) if size % a == 0]


@st.composite
def movements(draw, shape):
    """A chain of data movements: ``[(name, arguments)]`` and the shape it ends in."""
    chain = []
    for _ in range(draw(st.integers(0, 4))):
        splits = [(i, f) for i, s in enumerate(shape) for f in factors_of(s)]
        options = ["transpose", "expand"]
        options += ["split"] if splits and len(shape) < 5 else []
        options += ["merge"] if len(shape) > 1 else []
        options += ["slice"] if max(shape) > 1 else []
        options += ["squeeze"] if 1 in shape and len(shape) > 1 else []
        options += ["rev", "broadcast", "scale", "dynamic_slice", "stride"]
        kind = draw(st.sampled_from(options))
        axis = draw(st.integers(0, len(shape) - 1))
        if kind == "transpose":
            argument = tuple(draw(st.permutations(range(len(shape)))))
            shape = tuple(shape[i] for i in argument)
        elif kind == "expand":
            argument = axis
            shape = (*shape[:axis], 1, *shape[axis:])
        elif kind == "split":
            at, factors = draw(st.sampled_from(splits))
            shape = argument = (*shape[:at], *factors, *shape[at + 1 :])
        elif kind == "merge":
            at = draw(st.integers(0, len(shape) - 2))
            shape = argument = (*shape[:at], shape[at] * shape[at + 1], *shape[at + 2 :])
        elif kind in ("slice", "dynamic_slice"):
            size = draw(st.integers(1, shape[axis]))
            argument = (axis, draw(st.integers(0, shape[axis] - size)), size)
            shape = (*shape[:axis], size, *shape[axis + 1 :])
        elif kind == "stride":
            argument = (axis, draw(st.integers(2, 3)))
            shape = (*shape[:axis], -(-shape[axis] // argument[1]), *shape[axis + 1 :])
        elif kind == "squeeze":
            argument = shape.index(1)
            shape = (*shape[:argument], *shape[argument + 1 :])
        elif kind == "broadcast":
            argument = (2, *shape)
            shape = argument
        else:
            argument = axis
        if len(shape) > 5 or math.prod(shape) > 300:
            break
        chain.append((kind, argument))
    return chain


def moved(w, chain):
    for kind, argument in chain:
        if kind == "transpose":
            w = lax.transpose(w, argument)
        elif kind == "expand":
            w = lax.expand_dims(w, (argument,))
        elif kind in ("split", "merge"):
            w = lax.reshape(w, argument)
        elif kind == "slice":
            axis, start, size = argument
            w = lax.slice_in_dim(w, start, start + size, axis=axis)
        elif kind == "dynamic_slice":
            axis, start, size = argument
            w = lax.dynamic_slice_in_dim(w, jnp.int32(start), size, axis)
        elif kind == "stride":
            w = lax.slice_in_dim(w, 0, None, argument[1], argument[0])
        elif kind == "squeeze":
            w = lax.squeeze(w, (argument,))
        elif kind == "broadcast":
            w = lax.broadcast_in_dim(w, argument, tuple(range(1, len(argument))))
        elif kind == "rev":
            w = lax.rev(w, (argument,))
        else:
            w = w * jnp.float32(0.5)
    return w


@st.composite
def products(draw):
    """A leaf shape, a chain, dimension numbers, the other operand's shape, and the side of the leaf."""
    shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=3)))
    chain = draw(movements(shape))
    viewed = jax.eval_shape(lambda w: moved(w, chain), jax.ShapeDtypeStruct(shape, jnp.float32)).shape
    roles = draw(st.lists(st.sampled_from("cbf"), min_size=len(viewed), max_size=len(viewed)))
    contract = draw(st.permutations([i for i, role in enumerate(roles) if role == "c"]))
    batch = draw(st.permutations([i for i, role in enumerate(roles) if role == "b"]))
    free = draw(st.lists(st.sampled_from([1, 2, 3]), max_size=2))
    labels = draw(st.permutations([*(("w", i) for i in (*contract, *batch)), *(("x", size) for size in free)]))
    x_shape = tuple(viewed[value] if name == "w" else value for name, value in labels)
    numbers = tuple((tuple(labels.index(("w", i)) for i in axes), tuple(axes)) for axes in (contract, batch))
    return shape, chain, x_shape, numbers, draw(st.booleans())


@settings(max_examples=12)
@given(products())
def test_any_product_of_any_view_is_the_dense_product(case):
    shape, chain, x_shape, (contract, batch), leaf_is_lhs = case

    def fn(params, x):
        w = moved(params["w"], chain)
        if leaf_is_lhs:
            return lax.dot_general(w, x, (contract[::-1], batch[::-1]))
        return lax.dot_general(x, w, (contract, batch))

    @functools.partial(jax.jit, compiler_options=QUICK)
    def both(params, x):
        return lift(fn)(params, x), fn(materialize(params), x)

    ours, theirs = both({"w": Probe.of(normal(1, *shape))}, normal(2, *x_shape))
    np.testing.assert_allclose(ours, theirs, rtol=TOL, atol=10 * TOL)


# Layouts that must be served --------------------------------------------------------------------------------------

W = (6, 8)
SERVED = {
    "matmul": (lambda w, x: x @ w, W, (3, 6)),
    "transposed": (lambda w, x: x @ w.T, W, (3, 8)),
    "left": (lambda w, x: w @ x, W, (8, 3)),
    "left_transposed": (lambda w, x: w.T @ x, W, (6, 3)),
    "vector": (lambda w, x: x @ w, W, (6,)),
    "leading_axes": (lambda w, x: x @ w, W, (2, 3, 6)),
    "tensordot": (lambda w, x: jnp.tensordot(x, w, axes=((0, 2), (2, 0))), (4, 5, 3), (3, 2, 4)),
    "einsum_heads": (lambda w, x: jnp.einsum("bti,ihd->bhtd", x, w), (6, 2, 4), (2, 3, 6)),
    "heads_contracted": (lambda w, x: jnp.einsum("bhtd,hdo->bto", x, w), (2, 4, 6), (2, 2, 3, 4)),
    "reshaped_heads": (lambda w, x: jnp.einsum("bi,ihd->bhd", x, w.reshape(6, 2, 4)), W, (3, 6)),
    "reshaped_both": (lambda w, x: jnp.einsum("bij,ijo->bo", x, w.reshape(2, 3, 8)), W, (3, 2, 3)),
    "qkv_slice": (lambda w, x: x @ w[:, 4:6], W, (3, 6)),
    "qkv_reshaped": (lambda w, x: jnp.einsum("bi,ikd->kbd", x, w.reshape(6, 2, 4)[:, :1]), W, (3, 6)),
    "qkv_split": (lambda w, x: jnp.tanh(x @ jnp.split(w, 2, axis=1)[0]) @ jnp.split(w, 2, axis=1)[1].T, W, (3, 6)),
    "stack": (lambda w, x: jnp.einsum("bgi,gio->bgo", x, w), (2, 4, 3), (5, 2, 4)),
    "stack_last": (lambda w, x: jnp.einsum("bgi,iog->bgo", x, w), (4, 3, 2), (5, 2, 4)),
    "stack_of_one": (lambda w, x: x @ w[1], (3, 4, 5), (2, 4)),
    "copies": (lambda w, x: jnp.matmul(x, jnp.broadcast_to(w[None], (2, *w.shape))), W, (2, 3, 6)),
    "scaled": (lambda w, x: x @ (-w * jnp.float32(0.3) / jnp.float32(7)), W, (3, 6)),
    "cast": (lambda w, x: x.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16), W, (3, 6)),
    "cast_to_itself": (lambda w, x: x @ lax.convert_element_type(w, jnp.float32), W, (3, 6)),
    "one_column": (lambda w, x: x @ w, (6, 1), (3, 6)),
    "outer": (lambda w, x: jnp.einsum("b,io->bio", x, w), W, (2,)),
    "reversed": (lambda w, x: x @ w[::-1, ::2], W, (3, 6)),
}


@pytest.mark.parametrize("name", SERVED)
def test_served(name):
    function, shape, x_shape = SERVED[name]
    fn = lambda params, x: function(params["w"], x)  # noqa: E731
    params = {"w": Probe.of(normal(1, *shape))}
    x = normal(2, *x_shape)
    assert served(fn, params, x)
    check(fn, params, x, tol=2e-2 if name == "cast" else TOL)  # bfloat16 has 8 bits


def test_joined_leaves_are_served_along_every_role():
    a, b = Probe.of(normal(1, 4, 6)), Probe.of(normal(2, 4, 6))
    functions = (
        lambda p, x: x[:, :4] @ jnp.concatenate(p, axis=1),
        lambda p, x: x @ jnp.concatenate(p, axis=0),
        lambda p, x: jnp.einsum("bi,sio->bso", x[:, :4], jnp.stack(p)),
        lambda p, x: jnp.einsum("bsi,sio->bso", x.reshape(3, 2, 4), jnp.stack(p)),
        lambda p, x: x[:, :6] @ jnp.concatenate(p, axis=1)[:, :].T.reshape(12, 4)[:6],
    )
    for fn in functions[:4]:
        assert served(fn, [a, b], normal(3, 3, 8))
        check(fn, [a, b], normal(3, 3, 8))
    check(functions[4], [a, b], normal(3, 3, 8))  # a join that is cut again: right, though dense


def test_join_with_a_dense_array():
    fn = lambda p, x: x @ jnp.concatenate([p["w"], p["dense"]], axis=1)  # noqa: E731
    params = {"w": Probe.of(normal(1, 4, 6)), "dense": normal(2, 4, 3)}
    assert served(fn, params, normal(3, 2, 4))
    check(fn, params, normal(3, 2, 4))


def test_no_dense_copy_where_served():
    """The thin leaf computes two thin products, and nothing of the dense shape, also in the gradient."""
    params = {"w": Thin.random(0, 12, 14)}
    fn = lambda params, x: jnp.tanh(x @ params["w"])  # noqa: E731
    x = normal(1, 3, 12)
    assert floats_of_shape(lift(fn), (12, 14), params, x) == 0
    assert floats_of_shape(jax.grad(lambda p, x: lift(fn)(p, x).sum()), (12, 14), params, x) == 0
    assert floats_of_shape(fn, (12, 14), materialize(params), x) == 0
    assert floats_of_shape(lambda p, x: fn(materialize(p), x), (12, 14), params, x) == 1


def test_a_cut_axis_is_materialized_and_says_so():
    """The columns of a low-rank leaf, regrouped so that a product sums over a part of an axis."""
    fn = lambda params, x: jnp.einsum("bd,ihd->bih", x, params["w"].reshape(6, 2, 4))  # noqa: E731
    params = {"w": Thin.random(0, *W)}
    (line,) = explain(fn, params, normal(1, 3, 4))
    assert not line.served
    assert "split between contracted and kept" in line.how
    check(fn, params, normal(1, 3, 4))


def test_higher_priority_stays_compressed():
    fn = lambda params, x: x @ (params["probe"] @ params["thin"])  # noqa: E731
    params = {"probe": Probe.of(normal(1, 5, 6)), "thin": Thin.random(2, 6, 4)}
    lines = {line.path: line.served for line in explain(fn, params, normal(3, 2, 5))}
    assert lines == {"probe": True, "thin": False}
    check(fn, params, normal(3, 2, 5))


def test_same_leaf_on_both_sides():
    fn = lambda params, x: x @ (params["w"].T @ params["w"])  # noqa: E731
    check(fn, {"w": Probe.of(normal(1, *W))}, normal(2, 3, 8))


def test_precision_and_preferred_element_type_are_kept():
    def fn(params, x):
        numbers = (((1,), (0,)), ((), ()))
        return lax.dot_general(
            x, params["w"], numbers, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32
        )

    params = {"w": Thin.random(0, *W, dtype=jnp.bfloat16)}
    x = normal(1, 3, 6, dtype=jnp.bfloat16)
    dots = [e for e in all_equations(jax.make_jaxpr(lift(fn))(params, x).jaxpr) if e.primitive.name == "dot_general"]
    last = dots[-1].params
    assert len(dots) == 2
    assert last["preferred_element_type"] == jnp.float32
    assert all(dot.params["precision"] == (lax.Precision.HIGHEST,) * 2 for dot in dots)
    assert lift(fn)(params, x).dtype == jnp.float32


@pytest.mark.parametrize("shape", [(6, 0), (0, 6)], ids=str)
def test_empty_arrays(shape):
    fn = lambda params, x: x @ params["w"]  # noqa: E731
    check(fn, {"w": Probe.of(normal(1, *shape))}, normal(2, 3, shape[0]))
    check(lambda p, x: x @ p["w"][:, :0], {"w": Probe.of(normal(1, *W))}, normal(2, 3, 6))


def test_kind_that_serves_nothing():
    fn = lambda params, x: x @ params["w"]  # noqa: E731
    params = {"w": Grouped.of(normal(1, 8, 3), 4)}
    (line,) = explain(fn, params, normal(2, 5, 8))
    assert not line.served
    assert "test_grouped" in line.how
    check(fn, params, normal(2, 5, 8))


def test_thin_through_layouts():
    """A kind with axes of its own: the plan must hand it exactly its own axes."""
    stacked = {"w": Thin.random(0, 3, 4, 5)}
    by_head = lambda p, x: jnp.einsum("bsi,sio->bso", x, p["w"])  # noqa: E731
    back = lambda p, x: jnp.einsum("sbo,sio->sbi", x, p["w"])  # noqa: E731
    taken = lambda p, x: x[0] @ jnp.swapaxes(p["w"], 1, 2)[1]  # noqa: E731
    for fn, x in ((by_head, (2, 3, 4)), (back, (3, 2, 5))):
        assert served(fn, stacked, normal(1, *x))
        check(fn, stacked, normal(1, *x), tol=1e-4)
    check(taken, stacked, normal(1, 1, 2, 5), tol=1e-4)
