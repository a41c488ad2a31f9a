"""The projection against the published way (Cholesky, S^-1) and against the optimum, both in NumPy float64."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.solvers.metric_lowrank import metric_error, metric_lowrank, metric_singular_values

RNG = np.random.default_rng(0)
solve = jax.jit(metric_lowrank, static_argnames="rank")


def problem(features, outputs, rows, condition=30.0):
    """A weight and data of which the second moment has this condition number (where there are rows enough)."""
    turn = [np.linalg.qr(RNG.normal(size=(features, features)))[0] for _ in range(2)]
    mix = turn[0] * np.geomspace(1, condition**-0.5, features) @ turn[1]
    return RNG.normal(size=(features, outputs)), RNG.normal(size=(rows, features)) @ mix


def published(w, moment, rank):
    """SVD-LLM: Cholesky in float64, jitter where it fails, SVD(S W), truncate, S^-1."""
    least = np.linalg.eigvalsh(moment)[0]
    shift = 0.0 if least > 0 else -least + 1e-6
    s = np.linalg.cholesky(moment + shift * np.eye(len(moment))).T
    u, values, vt = np.linalg.svd(s @ w, full_matrices=False)
    return np.linalg.solve(s, (u[:, :rank] * values[:rank]) @ vt[:rank]), values


def optimum(w, x, rank):
    """The least error of outputs of this rank: what truncating the outputs themselves leaves out."""
    return np.sqrt(np.sum(np.linalg.svd(x @ w, compute_uv=False)[rank:] ** 2))


def output_error(w, x, found):
    return np.linalg.norm(x @ (w - np.asarray(found.u, np.float64) @ np.asarray(found.v, np.float64)))


@pytest.mark.parametrize(("features", "outputs"), [(12, 8), (8, 12)])
def test_the_published_result_and_its_singular_values(features, outputs):
    w, x = problem(features, outputs, 100)
    moment = x.T @ x / len(x)
    want, values = published(w, moment, 3)
    found = solve(jnp.asarray(w, jnp.float32), jnp.asarray(moment, jnp.float32), rank=3)
    # Singular vectors lose a few digits where singular values lie close: 1e-4 of entries of size 1.
    np.testing.assert_allclose(found.u @ found.v, want, atol=1e-4)
    np.testing.assert_allclose(found.s, values[:3], rtol=1e-5)
    np.testing.assert_allclose(found.v @ found.v.T, np.eye(3), atol=1e-5)
    every = metric_singular_values(jnp.asarray(w, jnp.float32), jnp.asarray(moment, jnp.float32))
    np.testing.assert_allclose(every, values, rtol=1e-4)


@pytest.mark.parametrize("condition", [1e1, 1e4, 1e7])
@pytest.mark.parametrize(("features", "outputs", "rows"), [(32, 12, 200), (12, 32, 200), (12, 32, 6), (32, 12, 9)])
def test_float32_reaches_the_optimum_of_any_moment(features, outputs, rows, condition):
    """Fewer rows than features too; the excess is below 1e-4 of the outputs (squares in float32: 3e-4 at worst)."""
    w, x = problem(features, outputs, rows, condition)
    moment = jnp.asarray(x.T @ x / rows, jnp.float32)
    for rank in (3, 9):
        found = solve(jnp.asarray(w, jnp.float32), moment, rank=rank)
        excess = output_error(w, x, found) - optimum(w, x, rank)
        assert excess < 1e-4 * np.linalg.norm(x @ w)


@pytest.mark.parametrize(("features", "outputs"), [(12, 8), (8, 12)])
def test_full_rank_is_exact_whatever_the_metric(features, outputs):
    w, x = problem(features, outputs, 4)  # singular: 4 rows
    found = solve(jnp.asarray(w, jnp.float32), jnp.asarray(x.T @ x, jnp.float32), rank=8, damping=1e-3)
    np.testing.assert_allclose(found.u @ found.v, w, atol=1e-4)
    blind = solve(jnp.asarray(w, jnp.float32), jnp.zeros((features, features)), rank=3)  # nothing is seen
    assert np.isfinite(blind.u @ blind.v).all()


def test_damping_lets_the_weights_decide_what_the_data_do_not_show():
    w = np.diag([1.0, 5.0, 2.0])
    seen = jnp.diag(jnp.array([1.0, 0.0, 0.0]))
    found = solve(jnp.asarray(w, jnp.float32), seen, rank=2, damping=1e-3)
    np.testing.assert_allclose(found.u @ found.v, np.diag([1.0, 5.0, 0.0]), atol=1e-5)


def test_a_diagonal_is_a_full_metric_and_batches_are_loops():
    w = jnp.asarray(RNG.normal(size=(3, 10, 6)), jnp.float32)
    diagonal = jnp.asarray(RNG.uniform(0.1, 9, size=(3, 10)), jnp.float32)
    full = jax.vmap(jnp.diag)(diagonal)
    thin, whole = solve(w, diagonal, rank=2), solve(w, full, rank=2)
    np.testing.assert_allclose(thin.u @ thin.v, whole.u @ whole.v, atol=1e-4)
    mapped = jax.vmap(lambda w, d: metric_lowrank(w, d, rank=2))(w, diagonal)
    np.testing.assert_allclose(mapped.u @ mapped.v, thin.u @ thin.v, atol=1e-4)
    one = solve(w[1], full[1], rank=2)
    np.testing.assert_allclose(one.u @ one.v, thin.u[1] @ thin.v[1], atol=1e-4)
    np.testing.assert_allclose(metric_error(w, full), metric_error(w, diagonal), rtol=1e-5)
    np.testing.assert_allclose(
        metric_error(w - thin.u @ thin.v, full), np.sum(metric_singular_values(w, full)[:, 2:] ** 2, -1), rtol=1e-3
    )


def test_scales_of_any_size_and_bad_input():
    w, x = problem(8, 6, 40)
    moment = jnp.asarray(x.T @ x / 40, jnp.float32)
    usual = solve(jnp.asarray(w, jnp.float32), moment, rank=2)
    for unit in (1e-30, 1e30):
        other = solve(jnp.asarray(w, jnp.float32), unit * moment, rank=2)
        np.testing.assert_allclose(other.u @ other.v, usual.u @ usual.v, atol=1e-4)
        np.testing.assert_allclose(other.s, usual.s * unit**0.5, rtol=1e-4)
    for unit in (1e-25, 1e25):  # of weights, whose squares are no numbers
        other = solve(jnp.asarray(w * unit, jnp.float32), moment, rank=2)
        np.testing.assert_allclose(other.u @ other.v / unit, usual.u @ usual.v, atol=1e-4)
        np.testing.assert_allclose(other.s / unit, usual.s, rtol=1e-4)
    with pytest.raises(ValueError, match=r"rank must be from 1 to 6 .* got 7"):
        metric_lowrank(jnp.asarray(w), moment, rank=7)
    with pytest.raises(ValueError, match=r"metric must be .* got the shape \(6, 6\)"):
        metric_lowrank(jnp.asarray(w), moment[:6, :6], rank=2)


def test_lowers_for_every_platform():
    fn = jax.jit(lambda w, m: metric_lowrank(w, m, rank=2))
    shapes = jax.ShapeDtypeStruct((2, 6, 9), jnp.float32), jax.ShapeDtypeStruct((2, 6, 6), jnp.float32)
    assert len(jax.export.export(fn, platforms=["cpu", "cuda", "tpu"])(*shapes).out_avals) == 3
