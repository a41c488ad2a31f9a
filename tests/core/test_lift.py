"""The contract of `lift`: that of `jax.jit`, with leaves."""

import functools
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import checkify
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxcompress.core.leaf import is_compressed
from jaxcompress.core.lift import lift
from jaxcompress.core.tree import materialize
from tests.core.kinds import Grouped, Probe, Thin, all_equations

X = jnp.asarray(np.random.default_rng(0).standard_normal((3, 6)), jnp.float32)
PARAMS = {"w": Thin.random(0, 6, 8), "b": jnp.arange(8, dtype=jnp.float32)}
TOL = {"rtol": 1e-4, "atol": 1e-4}  # float32, sums of 8 products in another association


def dense(params, x):
    return jnp.tanh(x @ params["w"] * jnp.float32(0.1) + params["b"][None])


def counted(fn):
    """The function, and a list that grows by one per trace."""
    traces = []

    @functools.wraps(fn)
    def wrapped(*args, **kwargs):
        traces.append(None)
        return fn(*args, **kwargs)

    return wrapped, traces


def close(ours, theirs, **tol):
    ours, theirs = jax.tree.leaves(ours), jax.tree.leaves(theirs)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(np.asarray(a, np.float64), np.asarray(b, np.float64), **(tol or TOL))


# Arguments --------------------------------------------------------------------------------------------------------


def test_statics_and_keywords():
    def fn(params, x, power, *, train, mutable, act=jnp.tanh, extra=None):
        out = act(x @ params["w"]) ** power
        assert isinstance(train, bool)
        assert mutable == ["batch_stats"]
        assert extra is None
        return {"out": out if train else -out, "none": None}

    ours = lift(fn)(PARAMS, X, 2, train=False, mutable=["batch_stats"], act=jnp.sin)
    theirs = fn(materialize(PARAMS), X, 2, train=False, mutable=["batch_stats"], act=jnp.sin)
    assert ours["none"] is None
    close(ours, theirs)


def test_equal_statics_of_different_type_are_different():
    """1, 1.0 and True are equal and hash alike, in a dict of caches too."""
    lifted = lift(lambda params, kind: jnp.float32({bool: 1, int: 2, float: 3}[type(kind)]) + params["b"][0])
    assert [int(lifted(PARAMS, kind)) for kind in (True, 1, 1.0)] == [1, 2, 3]


def test_unhashable_static_is_named():
    def dense_with(params, x, config):
        return x @ params["w"]

    with pytest.raises(TypeError, match=r"lift\(dense_with\): the argument at 'config' is a bytearray"):
        lift(dense_with)(PARAMS, X, config=bytearray(b"no"))
    with pytest.raises(TypeError, match="the argument at '2' is a set"):
        lift(lambda params, x, s: x)(PARAMS, X, {1})


def test_static_argnames():
    def fn(params, x, config):
        assert config == (1, 2)
        return x @ params["w"] * jnp.float32(config[1])

    close(lift(fn, static_argnames="config")(PARAMS, X, config=(1, 2)), fn(materialize(PARAMS), X, (1, 2)))
    close(lift(fn, static_argnames=["config"])(PARAMS, X, (1, 2)), fn(materialize(PARAMS), X, (1, 2)))
    with pytest.raises(ValueError, match="no parameter 'confi'"):
        lift(fn, static_argnames="confi")(PARAMS, X, (1, 2))


def test_numpy_and_python_scalars():
    fn = lambda params, x, scale, offset: x @ params["w"] * scale + offset  # noqa: E731
    params = jax.tree.map(np.asarray, PARAMS)
    close(lift(fn)(params, np.asarray(X), np.float32(2), 1), fn(materialize(PARAMS), X, jnp.float32(2), 1))


def test_leaves_in_any_argument_and_in_the_result():
    def fn(first, x, *, second):
        return {"product": x @ first @ second["v"], "leaf": second["v"], "turned": first.T, "joined": (first, x)}

    second = {"v": Probe.of(jnp.ones((8, 2)))}
    ours = lift(fn)(PARAMS["w"], X, second=second)
    assert not any(map(is_compressed, jax.tree.leaves(ours, is_leaf=is_compressed)))
    close(ours, fn(materialize(PARAMS["w"]), X, second=materialize(second)))


def test_nested_leaves():
    """A field that is a leaf again is handled by the kind's own plain functions, or by materialize."""
    nested = {"w": Thin(Grouped.of(PARAMS["w"].u, 3), Probe.of(PARAMS["w"].v)), "b": PARAMS["b"]}
    assert nested["w"].component_paths() == ("u/codes", "u/scale", "v/value")
    assert jax.tree.structure(jax.jit(lambda tree: tree)(nested)) == jax.tree.structure(nested)


def test_lifted_twice_and_wrapped():
    lifted = lift(dense)
    assert lifted.__name__ == "dense"
    close(lift(lifted)(PARAMS, X), dense(materialize(PARAMS), X))
    close(lift(functools.partial(dense))(PARAMS, X), dense(materialize(PARAMS), X))


def test_callable_object():
    class Model:
        def __call__(self, params, x):
            return dense(params, x)

        def method(self, params, x):
            return dense(params, x)

    close(lift(Model())(PARAMS, X), dense(materialize(PARAMS), X))
    close(lift(Model().method)(PARAMS, X), dense(materialize(PARAMS), X))


# Caching ----------------------------------------------------------------------------------------------------------


def test_eager_calls_are_cached():
    fn, traces = counted(dense)
    lifted = lift(fn)
    first = lifted(PARAMS, X)
    assert len(traces) == 1
    np.testing.assert_array_equal(lifted(PARAMS, X), first)
    lifted(jax.tree.map(lambda a: a + 1, PARAMS), X + 1)
    assert len(traces) == 1
    lifted(PARAMS, X[:2])
    lifted(materialize(PARAMS), X)
    assert len(traces) == 3


def test_no_retrace_under_jit(compilations):
    fn, traces = counted(dense)
    jitted = jax.jit(lift(fn))
    jitted(PARAMS, X)
    jitted(PARAMS, X + 1)
    assert len(traces) == compilations("dense") == 1


def test_lifting_the_same_function_again_does_not_retrace():
    """As with jit: ``lift(f)(...)`` in a loop traces once."""
    fn, traces = counted(dense)
    for _ in range(3):
        lift(fn)(PARAMS, X)
    assert len(traces) == 1


def test_a_lifted_function_does_not_outlive_its_caller():
    fn, _ = counted(dense)
    alive = weakref.ref(fn)
    lift(fn)(PARAMS, X)
    del fn
    gc.collect()
    assert alive() is None


# Transformations --------------------------------------------------------------------------------------------------


def loss(call):
    return lambda params, x: jnp.sum(call(params, x) ** 2)


def floats(params):
    """The arguments of `loss` as functions of the float fields of the leaf alone."""
    return lambda call: lambda u, x: loss(call)({"w": Thin(u, params["w"].v), "b": params["b"]}, x)


def test_derivatives():
    ours, theirs = loss(lift(dense)), lambda p, x: loss(dense)(materialize(p), x)
    close(jax.grad(ours)(PARAMS, X), jax.grad(theirs)(PARAMS, X))
    tangents = jax.tree.map(jnp.cos, PARAMS)
    close(jax.jvp(ours, (PARAMS, X), (tangents, X)), jax.jvp(theirs, (PARAMS, X), (tangents, X)))

    def hessian_vector(fn):
        return jax.jvp(jax.grad(fn), (PARAMS, X), (tangents, X))

    close(
        jax.jit(hessian_vector, static_argnums=0)(ours),
        jax.jit(hessian_vector, static_argnums=0)(theirs),
        rtol=1e-3,
        atol=1e-3,
    )  # second derivatives sum a hundred terms of both signs


def test_vmap_over_data_and_over_leaves():
    xs = jnp.stack([X, X + 1])
    close(jax.vmap(lift(dense), (None, 0))(PARAMS, xs), jnp.stack([dense(materialize(PARAMS), x) for x in xs]))
    stacked = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), PARAMS)
    single = [jax.tree.map(lambda a, i=i: a[i], stacked) for i in range(2)]
    close(jax.vmap(lift(dense), (0, None))(stacked, X), jnp.stack([dense(materialize(p), X) for p in single]))


def test_inside_scan_and_map():
    lifted = lift(dense)
    stacked = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), PARAMS)
    by_scan = lax.scan(lambda carry, p: (carry, lifted(p, X)), 0, stacked)[1]
    close(by_scan, jax.vmap(lambda p: dense(materialize(p), X))(stacked))
    close(lax.map(lambda x: lifted(PARAMS, x[None]), X), dense(materialize(PARAMS), X)[:, None])


@pytest.mark.parametrize("check_vma", [True, False])
def test_inside_shard_map(check_vma):
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    x = jnp.tile(X, (8, 1))
    fn = jax.shard_map(lift(dense), mesh=mesh, in_specs=(P(), P("d")), out_specs=P("d"), check_vma=check_vma)
    close(jax.jit(fn)(PARAMS, x), dense(materialize(PARAMS), x))


def test_closed_over_tracers():
    @jax.jit
    def outer(params, x, scale):
        return lift(lambda p, y: dense(p, y) * scale + x.sum())(params, x)

    def plain(params, x, scale):
        return dense(materialize(params), x) * scale + x.sum()

    scale = jnp.float32(3)
    close(outer(PARAMS, X, scale), plain(PARAMS, X, scale))
    close(jax.grad(lambda s: outer(PARAMS, X, s).sum())(scale), jax.grad(lambda s: plain(PARAMS, X, s).sum())(scale))
    close(
        jax.vmap(outer, (None, None, 0))(PARAMS, X, jnp.arange(2.0)),
        jax.vmap(plain, (None, None, 0))(PARAMS, X, jnp.arange(2.0)),
    )


def test_a_closed_over_leaf_is_the_caller_s():
    """A leaf in a closure is no argument: it reaches jnp as it is, and that fails as it would without lift."""
    leaf = PARAMS["w"]
    with pytest.raises(TypeError):
        lift(lambda x: x @ leaf)(X)


def test_donated_arguments():
    state = jnp.ones((3, 8))
    updated = jax.jit(lambda p, s: lift(lambda p, s: s + dense(p, X))(p, s), donate_argnums=1)(PARAMS, state)
    assert state.is_deleted()
    close(updated, 1 + dense(materialize(PARAMS), X))


def test_checkify_and_eval_shape():
    checked = checkify.checkify(lift(dense))
    error, out = jax.jit(checked)(PARAMS, X)
    error.throw()
    close(out, dense(materialize(PARAMS), X))
    assert jax.eval_shape(lift(dense), PARAMS, X).shape == (3, 8)


# What the lowered program keeps -----------------------------------------------------------------------------------


def lowered_text(fn, *args):
    return jax.jit(fn).lower(*args).as_text(debug_info=True)


def test_name_scopes_appear_once():
    def fn(params, x):
        with jax.named_scope("outer_scope"):
            x = jnp.tanh(x @ params["w"])
            with jax.named_scope("inner_scope"):
                return lax.fori_loop(0, 2, lambda i, y: jax.named_call(lambda y: jnp.sin(y * 2), name="looped")(y), x)

    text = lowered_text(lift(fn), PARAMS, X)
    assert "outer_scope/dot_general" in text
    assert "outer_scope/inner_scope" in text
    for name in ("outer_scope", "inner_scope", "looped"):
        assert f"{name}/{name}" not in text
    assert text.count("outer_scope/outer_scope") == 0
    locations = [line for line in text.splitlines() if "outer_scope" in line]
    assert all(line.count("outer_scope") == 1 for line in locations if line.startswith("#loc"))


def test_ordered_effects(capfd):
    def fn(params, x):
        jax.debug.print("first {}", x[0, 0], ordered=True)
        y = x @ params["w"]
        jax.debug.print("second {}", params["w"].shape[0], ordered=True)
        jax.debug.print("third {}", params["w"][0, 0], ordered=True)
        return lax.fori_loop(0, 2, lambda i, y: jax.debug.print("loop {}", i, ordered=True) or y * 2, y)

    lift(fn)(PARAMS, X).block_until_ready()
    jax.effects_barrier()
    printed = [line.split()[0] for line in capfd.readouterr().out.splitlines()]
    assert printed == ["first", "second", "third", "loop", "loop"]


def test_prng_keys():
    def fn(params, x, key, rngs):
        noise = jax.random.bernoulli(key, 0.5, x.shape)
        other = jax.random.normal(jax.random.split(rngs["dropout"])[0], x.shape)
        return jnp.where(noise, x, other) @ params["w"], jax.random.fold_in(key, 1)

    key, rngs = jax.random.key(0), {"dropout": jax.random.key(1)}
    ours, new = lift(fn)(PARAMS, X, key, rngs)
    theirs, expected = fn(materialize(PARAMS), X, key, rngs)
    close(ours, theirs)
    assert new.dtype == expected.dtype
    np.testing.assert_array_equal(jax.random.key_data(new), jax.random.key_data(expected))


def test_sharding_constraints_of_nested_jits_are_kept():
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    by_rows = NamedSharding(mesh, P("d", None))

    @functools.partial(jax.jit, out_shardings=by_rows)
    def inner(w, x):
        return lax.with_sharding_constraint(jnp.tanh(x @ w), by_rows)

    fn = lambda params, x: inner(params["w"], x)  # noqa: E731
    x = jnp.tile(X, (8, 1))
    out = jax.jit(lift(fn))(PARAMS, x)
    assert out.sharding.is_equivalent_to(by_rows, 2)
    close(out, fn(materialize(PARAMS), x))


def test_constraint_on_a_weight_reaches_its_fields():
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    columns = NamedSharding(mesh, P(None, "d"))
    fn = lambda params, x: x @ lax.with_sharding_constraint(params["w"], columns)  # noqa: E731
    jaxpr = jax.make_jaxpr(lift(fn))(PARAMS, X).jaxpr
    asked = [e for e in all_equations(jaxpr) if e.primitive.name == "sharding_constraint"]
    shapes = {tuple(e.invars[0].aval.shape): e.params["sharding"].spec for e in asked}
    assert shapes == {(6, 2): P(None, None), (2, 8): P(None, "d")}
    close(lift(fn)(PARAMS, X), fn(materialize(PARAMS), X))


def test_explicit_shardings():
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        fn = lambda params, x: jnp.einsum("ij,jk->ik", x, params["w"], out_sharding=P("d", None))  # noqa: E731
        split = lambda a, *spec: jax.device_put(a, NamedSharding(mesh, P(*spec)))  # noqa: E731
        params = {"w": Probe.of(split(jnp.ones((16, 8)), "d", None))}
        x = split(jnp.ones((8, 16)), None, "d")
        out = jax.jit(lift(fn))(params, x)
        assert out.sharding.spec == P("d", None)
        np.testing.assert_array_equal(out, jnp.full((8, 8), 16.0))


def test_dense_leaves_leave_the_program_alone():
    """Without a compressed leaf the program is the one of ``jit(fn)``."""

    def fn(params, x):
        x = jax.checkpoint(lambda x: jnp.tanh(x @ params["w"]))(x)
        return lax.scan(lambda c, _: (jax.nn.relu(c) * 2, c.sum()), x, None, length=3)

    params = materialize(PARAMS)
    plain = jax.jit(fn).lower(params, X).compile().cost_analysis()
    ours = jax.jit(lift(fn)).lower(params, X).compile().cost_analysis()
    assert ours["flops"] == plain["flops"]
    assert ours["bytes accessed"] == plain["bytes accessed"]
