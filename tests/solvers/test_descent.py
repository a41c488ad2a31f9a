"""Descent on the output error: against exhaustive search, least squares in float64, and its own starting point."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.solvers.descent import best_gains, best_levels, damped_moment, descend_weights, output_error

F, R = 8, 5


def problem(seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(size=(30, F)) @ (np.eye(F) + 0.5 * random.normal(size=(F, F)))
    return random.normal(size=(F, R)).astype(np.float32), (x.T @ x / 30).astype(np.float32)


def error(w, v, s):
    off = np.float64(w) - np.float64(v)
    return np.einsum("fr,fg,gr->r", off, np.float64(s), off)


def nearest(values, feature):
    return jnp.round(values)


def test_the_error_is_the_quadratic_form():
    w, s = problem()
    np.testing.assert_allclose(output_error(jnp.asarray(w), jnp.round(w), s), error(w, np.round(w), s), rtol=1e-5)
    damped = damped_moment(jnp.asarray(s), 0.1)
    np.testing.assert_allclose(damped, s / np.diag(s).mean() + 0.1 * np.eye(F), rtol=1e-5)


def test_no_single_step_helps_any_more_and_blocks_change_nothing():
    w, s = problem(1)
    start = jnp.round(w)
    run = jax.jit(descend_weights, static_argnames=("rounding", "block_size"))
    moved = np.asarray(run(w, start, s, rounding=nearest, passes=20))
    before, after = error(w, start, s), error(w, moved, s)
    assert (after <= before * (1 + 1e-5)).all()
    assert after.sum() < 0.8 * before.sum()
    for i, step in itertools.product(range(F), (-1, 1)):
        tried = moved.copy()
        tried[i] += step
        assert (error(w, tried, s) >= after * (1 - 1e-4)).all()
    np.testing.assert_array_equal(run(w, start, s, rounding=nearest, passes=20, block_size=3), moved)
    support = np.random.default_rng(0).random((F, R)) < 0.5
    kept = descend_weights(w, jnp.where(support, start, 0), s, nearest, support=jnp.asarray(support), passes=2)
    assert (np.asarray(kept)[~support] == 0).all()


def test_gains_are_least_squares():
    w, s = problem(2)
    v = np.float32(np.round(w) + 0.1)
    got = best_gains(jnp.asarray(w), jnp.asarray(v), jnp.asarray(s))
    want = np.einsum("fr,fg,gr->r", np.float64(v), s, w) / np.einsum("fr,fg,gr->r", np.float64(v), s, v)
    inside = (want > 0.25) & (want < 4)
    np.testing.assert_allclose(got[0], np.where(inside, want, 1), rtol=1e-4)
    shared = best_gains(jnp.asarray(w), jnp.asarray(v), jnp.asarray(s), shared=True)
    total = np.einsum("fr,fg,gr->", np.float64(v), s, w) / np.einsum("fr,fg,gr->", np.float64(v), s, v)
    np.testing.assert_allclose(shared, [[total]], rtol=1e-4)
    groups = best_gains(jnp.asarray(w), jnp.asarray(v), jnp.asarray(s), groups=4)
    scaled = v * np.repeat(groups, 2, 0)
    assert error(w, scaled, s).sum() < error(w, v * np.asarray(got), s).sum() < error(w, v, s).sum()


@pytest.mark.slow
def test_levels_come_to_the_least_squares_table():
    w, s = problem(3)
    codes = np.digitize(w, [-0.5, 0.5]).astype(np.int32)
    table = jnp.broadcast_to(jnp.array([-1.0, 0.1, 1.0]), (1, R, 3))
    for _ in range(60):  # one round moves every level once
        table = best_levels(jnp.asarray(w), jnp.asarray(codes), table, jnp.asarray(s))
    for r in range(R):
        ones = np.eye(3)[codes[:, r]]
        used = ones.any(0)
        system = ones.T @ np.float64(s) @ ones
        want = np.linalg.lstsq(system, ones.T @ np.float64(s) @ w[:, r], rcond=None)[0]
        if (np.diff(want[used]) > 0).all():  # else sorting the table parts it from its codes
            np.testing.assert_allclose(np.asarray(table)[0, r][used], want[used], atol=1e-3)
    held = best_levels(jnp.asarray(w), jnp.asarray(codes), jnp.zeros((1, R, 3)), jnp.asarray(s))
    np.testing.assert_array_equal(held, np.zeros((1, R, 3)))


def test_levels_with_indices_of_64_bits():
    w, s = problem()
    with jax.enable_x64(True):
        table = best_levels(
            jnp.asarray(w), jnp.zeros((F, R), jnp.int32), jnp.ones((1, R, 2), jnp.float32), jnp.asarray(s)
        )
    assert np.isfinite(np.asarray(table)).all()
