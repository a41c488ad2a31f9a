"""Functions with derivatives of their own: here none of them is the true one, so that a lost rule shows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcompress.core.lift import lift
from jaxcompress.core.tree import materialize, merge, split_trainable
from tests.core.kinds import Grouped, Probe, Thin, all_equations, floats_of_shape

D = 6
X = jnp.asarray(np.random.default_rng(0).standard_normal((3, D)), jnp.float32)


@jax.custom_vjp
def by_vjp(x, w):
    return x @ w


by_vjp.defvjp(lambda x, w: (by_vjp(x, w), (x, w)), lambda kept, g: (5 * (g @ kept[1].T), 3 * (kept[0].T @ g)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def by_vjp_with_options(scale, x, w, act):
    return act(scale * (x @ w))


by_vjp_with_options.defvjp(
    lambda scale, x, w, act: (by_vjp_with_options(scale, x, w, act), (x, w)),
    lambda scale, act, kept, g: (7 * scale * (g @ kept[1].T), scale * (kept[0].T @ act(g))),
)


@jax.custom_jvp
def by_jvp(x, w):
    return x @ w


@by_jvp.defjvp
def _(primals, tangents):
    (x, w), (dx, dw) = primals, tangents
    return by_jvp(x, w), 2 * (dx @ w) + 0.5 * (x @ dw)


@jax.custom_jvp
def with_symbolic_zeros(x, w):
    return x @ w


@functools.partial(with_symbolic_zeros.defjvp, symbolic_zeros=True)
def _(primals, tangents):
    (x, w), (dx, dw) = primals, tangents
    zero = jax.custom_derivatives.SymbolicZero
    out = with_symbolic_zeros(x, w)
    parts = [0 if isinstance(dx, zero) else 4 * (dx @ w), 0 if isinstance(dw, zero) else 6 * (x @ dw)]
    return out, parts[0] + parts[1]


FUNCTIONS = {
    "vjp": lambda w, x: by_vjp(x, w),
    "vjp_transposed": lambda w, x: by_vjp(by_vjp(x, w), w.T),
    "vjp_options": lambda w, x: by_vjp_with_options(0.5, x, w, jnp.sin),
    "jvp": lambda w, x: by_jvp(x, w),
    "symbolic_zeros": lambda w, x: with_symbolic_zeros(x, w),
    "jax_s_own": lambda w, x: jax.nn.relu(jax.nn.silu(x @ w) + jnp.logaddexp(x, x @ w)),
    "in_scan": lambda w, x: lax.scan(lambda c, _: (jnp.tanh(by_jvp(c, w)), None), x, None, length=3)[0],
    "in_jit_in_remat": lambda w, x: jax.checkpoint(jax.jit(lambda x, w: jnp.sin(by_vjp(x, w))))(x, w),
    "in_cond": lambda w, x: lax.cond(x.sum() > 0, by_vjp, by_jvp, x, w),
    "vmapped": lambda w, x: jax.vmap(by_vjp, (0, None))(x[:, None], w),
}


def loss(function, call):
    def run(params, x):
        return jnp.sum(jnp.sin(call(lambda p, x: function(p["w"], x))(params, x)))

    return run


def both(name):
    function = FUNCTIONS[name]
    plain = lambda fn: lambda p, x: fn(materialize(p), x)  # noqa: E731
    return loss(function, lift), loss(function, plain)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_author_s_derivative_is_kept(name):
    params = {"w": Thin.random(0, D, D)}
    ours, theirs = both(name)
    a, b = jax.jit(lambda p, x: (jax.value_and_grad(ours, (0, 1))(p, x), jax.value_and_grad(theirs, (0, 1))(p, x)))(
        params, X
    )
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(left, right, rtol=2e-3, atol=1e-3)  # gradients of sines of sums of order 10


def test_the_derivatives_are_not_the_true_ones():
    """The guard of this file: had the rules been lost, these would agree."""
    params = {"w": Thin.random(0, D, D)}
    true = jax.grad(loss(lambda w, x: x @ w, lift), 1)(params, X)
    for name in ("vjp", "jvp", "symbolic_zeros"):
        assert float(jnp.abs(jax.grad(both(name)[0], 1)(params, X) - true).max()) > 0.1


@pytest.mark.parametrize("name", ["vjp", "jvp"])
def test_the_primal_is_lifted_and_still_a_custom_call(name):
    params = {"w": Thin.random(0, D, D + 1)}
    fn = lambda p, x: FUNCTIONS[name](p["w"], x)  # noqa: E731
    assert floats_of_shape(lift(fn), (D, D + 1), params, X) == 0
    names = {e.primitive.name for e in all_equations(jax.make_jaxpr(lift(fn))(params, X).jaxpr)}
    assert f"custom_{name}_call" in names


def test_leaves_with_integer_fields():
    """Codes have no cotangent; scales get the author's."""
    params = {"w": Grouped.of(jnp.linspace(-1, 1, D * D).reshape(D, D), 2)}
    trainable, frozen = split_trainable(params)
    ours, theirs = both("vjp")
    a = jax.grad(lambda t: ours(merge(t, frozen), X))(trainable)["w"].scale
    b = jax.grad(lambda t: theirs(merge(t, frozen), X))(trainable)["w"].scale
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-2)  # sums of products with codes up to 127


def test_forward_over_reverse():
    params = {"w": Probe.of(jnp.eye(D))}
    tangents = jax.tree.map(jnp.cos, params)
    results = []
    for fn in both("jvp"):
        results.append(jax.jvp(jax.grad(fn, (0, 1)), (params, X), (tangents, X)))
    for left, right in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4)


def test_vmap_of_the_gradient():
    params, xs = {"w": Thin.random(0, D, D)}, jnp.stack([X, 2 * X])
    a, b = (jax.vmap(jax.grad(fn, 1), (None, 0))(params, xs) for fn in both("in_scan"))
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)
