"""Control flow: bodies are entered with leaves alive."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from jaxcompress.core.explain import explain
from jaxcompress.core.lift import lift
from jaxcompress.core.tree import materialize
from tests.core.kinds import Probe, Thin, all_equations, floats_of_shape, served

D = 6
X = jnp.asarray(np.random.default_rng(0).standard_normal((3, D)), jnp.float32)
PARAMS = {"w": Thin.random(0, D, D)}
STACK = {"w": Thin.random(1, 3, D, D)}


def step(w, x):
    return jnp.tanh(x @ w * jnp.float32(0.3))


def scan_constant(p, x):
    return lax.scan(lambda c, _: (step(p["w"], c), c.sum()), x, None, length=3)


def scan_carry(p, x):
    return lax.scan(lambda c, _: ((c[0], step(c[0]["w"], c[1])), None), (p, x), None, length=3)[0][1]


def scan_sliced(p, x):
    return lax.scan(lambda c, w: (step(w, c), None), x, p["w"])[0]


def scan_sliced_transposed(p, x):
    return lax.scan(lambda c, w: (step(w.T, c), None), x, p["w"], reverse=True)[0]


def scan_nested(p, x):
    def outer(c, w):
        return lax.scan(lambda c, _: (step(w, c), None), c, None, length=2)[0], None

    return lax.scan(outer, x, p["w"])[0]


def scan_of_two_stacks(p, x):
    """A stack with two leading axes, scanned twice."""
    return lax.scan(lambda c, ws: (lax.scan(lambda c, w: (step(w, c), None), c, ws)[0], None), x, p["w"])[0]


def while_constant(p, x):
    return lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, step(p["w"], s[1])), (0, x))[1]


def while_carry(p, x):
    return lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1], step(s[1]["w"], s[2])), (0, p, x))[2]


def while_in_condition(p, x):
    def go_on(s):
        return (s[0] < 3) & ((s[1] @ p["w"]).sum() < 1e9)

    return lax.while_loop(go_on, lambda s: (s[0] + 1, step(p["w"], s[1])), (0, x))[1]


def fori_carry(p, x):
    return lax.fori_loop(0, 3, lambda i, s: (s[0], step(s[0]["w"], s[1])), (p, x))[1]


def fori_carry_nested(p, x):
    def outer(_, s):
        return lax.fori_loop(0, s[2], lambda i, t: (t[0], step(t[0]["w"], t[1]), t[2]), s)

    return lax.fori_loop(0, 2, outer, (p, x, jnp.int32(2)))[1]


def carry_through_calls(p, x):
    """The carried parameters pass a jit, a remat and a cond on their way around the loop."""

    def body(s):
        i, p, x = s
        p, x = jax.jit(lambda p, x: (p, step(p["w"], x)))(p, x)
        p, x = jax.checkpoint(lambda p, x: (p, step(p["w"], x)))(p, x)
        return i + 1, p, lax.cond(i > 0, lambda: x, lambda: step(p["w"], x))

    return lax.while_loop(lambda s: s[0] < 2, body, (0, p, x))[2]


def cond(p, x):
    return lax.cond(x.sum() > 0, lambda p, x: step(p["w"], x), lambda p, x: step(p["w"].T, x), p, x)


def switch(p, x):
    return lax.switch(jnp.int32(x[0, 0] > 0) + 1, [lambda x: x, lambda x: step(p["w"], x), lambda x: x @ p["w"].T], x)


def remat(p, x):
    return jax.checkpoint(lambda p, x: step(p["w"], step(p["w"], x)))(p, x)


def nested_jit(p, x):
    return jax.jit(lambda p, x: jax.jit(step)(p["w"].T, x))(p, x)


def map_rows(p, x):
    return lax.map(lambda row: step(p["w"], row[None])[0], x, batch_size=2)


def platform(p, x):
    return lax.platform_dependent(p["w"], x, cpu=step, default=lambda w, x: step(w, x) * 2)


ONE = (
    scan_constant, scan_carry, while_constant, while_carry, while_in_condition, fori_carry, fori_carry_nested,
    carry_through_calls, cond, switch, remat, nested_jit, map_rows, platform,
)  # fmt: skip
SLICED = (scan_sliced, scan_sliced_transposed, scan_nested, scan_of_two_stacks)


def fori_index(p, x):
    return lax.fori_loop(0, 3, lambda i, x: step(p["w"][i], x), x)


def vmapped_index(p, x):
    return jax.vmap(lambda i, row: row @ p["w"][i])(jnp.array([2, 0, 1]), x)


@pytest.mark.parametrize("fn", [*ONE, *SLICED], ids=lambda fn: fn.__name__)
def test_leaves_stay_compressed(fn):
    """Served, the same result, and nothing of the dense shape inside, at any depth."""
    params = PARAMS if fn in ONE else STACK if fn is not scan_of_two_stacks else {"w": Thin.random(2, 2, 2, D, D)}
    assert served(fn, params, X), explain(fn, params, X)
    assert floats_of_shape(lift(fn), (D, D), params, X) == 0
    assert floats_of_shape(lift(fn), (3, D, D), params, X) == 0
    for ours, theirs in zip(
        jax.tree.leaves(lift(fn)(params, X)), jax.tree.leaves(jax.jit(fn)(materialize(params), X)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)  # six products of length 6 in float32


@pytest.mark.parametrize("fn", [fori_index, vmapped_index], ids=lambda fn: fn.__name__)
def test_picked_layers_stay_compressed(fn):
    params = {"w": Probe.of(STACK["w"].materialize())}
    assert served(fn, params, X), explain(fn, params, X)
    np.testing.assert_allclose(lift(fn)(params, X), fn(materialize(params), X), rtol=1e-4, atol=1e-5)


def test_branches_of_other_platforms_are_not_compiled():
    """A branch may hold what only its platform can compile."""
    fn = lambda p, x: lax.platform_dependent(p["w"], x, tpu=lambda w, x: x @ w, default=step)  # noqa: E731
    jaxpr = jax.make_jaxpr(lift(fn))(PARAMS, X).jaxpr
    (equation,) = (e for e in all_equations(jaxpr) if e.primitive.name == "cond")
    assert equation.params["branches_platforms"] == (("tpu",), None)
    text = jax.jit(lift(fn)).lower(PARAMS, X).as_text()
    assert text.count("stablehlo.tanh") == 1
    assert text.count("stablehlo.dot_general") == 2  # the two thin products of the branch for this platform


def test_changing_carries_are_materialized_and_named():
    fn = lambda p, x: lax.fori_loop(0, 2, lambda i, s: (s[0] * 2, step(s[0], s[1])), (p["w"], x))[1]  # noqa: E731
    (line,) = explain(fn, PARAMS, X)
    assert not line.served
    assert "changes from step to step" in line.how
    np.testing.assert_allclose(lift(fn)(PARAMS, X), fn(materialize(PARAMS), X), rtol=1e-4, atol=1e-5)


def test_swapped_carries_are_not_mistaken_for_constant_ones():
    def fn(p, x):
        return lax.fori_loop(0, 3, lambda i, s: (s[1], s[0], step(s[0], s[2])), (p["a"], p["b"], x))[2]

    params = {"a": Thin.random(0, D, D), "b": Thin.random(1, D, D)}
    np.testing.assert_allclose(lift(fn)(params, X), fn(materialize(params), X), rtol=1e-4, atol=1e-5)


def test_an_axis_that_some_field_does_not_carry_is_not_scanned():
    fn = lambda p, x: lax.scan(lambda c, row: (c + row[None, :], None), x, p["w"])[0]  # noqa: E731
    (line,) = explain(fn, PARAMS, X)
    assert "not every field of the leaf carries the scanned axis" in line.how
    np.testing.assert_allclose(lift(fn)(PARAMS, X), fn(materialize(PARAMS), X), rtol=1e-4, atol=1e-5)


def test_results_of_bodies():
    """Weights that leave a loop or a branch are dense, and that is noted."""

    def fn(p, x):
        _, stacked = lax.scan(lambda c, _: (c, p["w"]), 0, None, length=2)
        chosen = lax.cond(x.sum() > 0, lambda: p["w"], lambda: 2 * p["w"])
        return stacked, chosen, jax.jit(lambda w: w.T)(p["w"])

    for ours, theirs in zip(lift(fn)(PARAMS, X), fn(materialize(PARAMS), X), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    why = {line.how for line in explain(fn, PARAMS, X)}
    assert {"it leaves the loop stacked", "it leaves a branch", "results are dense arrays"} <= why


def test_gradients_through_control_flow():
    def fn(p, x):
        return jnp.sum(cond({"w": p["w"][0]}, jax.checkpoint(scan_sliced)(p, x)) ** 2)

    ours = jax.jit(jax.grad(lift(fn), (0, 1)))(STACK, X)
    theirs = jax.jit(jax.grad(lambda p, x: fn(materialize(p), x), (0, 1)))(STACK, X)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)  # four products deep, and back


def remats(fn, *args):
    return [e.params for e in all_equations(jax.make_jaxpr(fn)(*args).jaxpr) if e.primitive.name == "remat2"]


def test_checkpoint_keeps_its_policy():
    policy = jax.checkpoint_policies.save_only_these_names("kept")

    def fn(p, x):
        block = lambda w, x: checkpoint_name(step(w, x), "kept")  # noqa: E731
        return jax.checkpoint(block, policy=policy, prevent_cse=False)(p["w"], x)

    ((theirs,), (ours,)) = remats(fn, materialize(PARAMS), X), remats(lift(fn), PARAMS, X)
    assert ours["policy"] is policy
    assert ours["prevent_cse"] is theirs["prevent_cse"] is False


def test_checkpoint_saves_what_the_policy_says():
    """What the backward pass keeps: the named value, not the inner products."""
    policy = jax.checkpoint_policies.save_only_these_names("kept")

    def fn(p, x):
        def block(w, x):
            return jnp.sin(checkpoint_name(jnp.cos(x @ w), "kept"))

        return jax.checkpoint(block, policy=policy)(p["w"], x).sum()

    def saved(loss, params):
        _, pullback = jax.vjp(loss, params, X)
        return sorted(leaf.shape for leaf in jax.tree.leaves(pullback) if leaf.shape == X.shape)

    ours = saved(lift(fn), PARAMS)
    assert ours == saved(lambda p, x: fn(materialize(p), x), PARAMS)
    assert ours


def test_differentiated_checkpoint_keeps_its_barrier():
    """A derivative taken inside the model: recomputation must not be merged with the forward pass."""

    def fn(p, x):
        return jax.grad(lambda x: jnp.sum(jnp.sin(jax.checkpoint(step)(p["w"], x))))(x)

    equations = list(all_equations(jax.make_jaxpr(lift(fn))(PARAMS, X).jaxpr))
    assert any(e.primitive.name == "optimization_barrier" for e in equations)
    np.testing.assert_allclose(lift(fn)(PARAMS, X), fn(materialize(PARAMS), X), rtol=1e-4, atol=1e-5)


EXPECTED_PARAMETERS = {
    "jit": "compiler_options_kvs ctx_mesh donated_invars in_layouts in_shardings inline jaxpr keep_unused name "
    "out_layouts out_shardings",
    "scan": "jaxpr length num_carry num_consts reverse unroll",
    "while": "body_jaxpr body_nconsts cond_jaxpr cond_nconsts",
    "cond": "branches",
    "remat2": "differentiated jaxpr policy prevent_cse",
    "shard_map": "check_vma in_specs jaxpr mesh newly_manual_axes out_specs",
    "custom_jvp_call": "call_jaxpr jvp_jaxpr_fun num_consts symbolic_zeros",
    "custom_vjp_call": "bwd call_jaxpr fwd_jaxpr_thunk num_consts out_trees symbolic_zeros",
}


def test_canary_of_the_primitives_that_are_rebuilt():
    """The rules name these parameters. When JAX changes them, this fails before anything subtle does."""

    @jax.custom_vjp
    def twice(x):
        return 2 * x

    twice.defvjp(lambda x: (2 * x, None), lambda _, g: (2 * g,))
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec()

    def fn(x):
        x = jax.jit(jnp.sin)(x)
        x = lax.while_loop(lambda x: x.sum() > 9, jnp.cos, lax.scan(lambda c, _: (c * 2, None), x, None, length=2)[0])
        x = jax.nn.relu(twice(lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x)))
        return jax.shard_map(jnp.sin, mesh=mesh, in_specs=spec, out_specs=spec)(jax.checkpoint(jnp.sin)(x))

    found = {e.primitive.name: " ".join(sorted(e.params)) for e in all_equations(jax.make_jaxpr(fn)(X).jaxpr)}
    assert {name: found.get(name) for name in EXPECTED_PARAMETERS} == EXPECTED_PARAMETERS
