import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.solvers.gathered_rows import fit_gathered_rows, gathered_rows, scattered_rows


def problem():
    r = np.random.RandomState(0)
    ids, coefficients = r.randint(0, 15, (60, 3)), r.standard_normal((60, 3))
    design = np.zeros((60, 16))  # bucket 15 is in no row
    for k in range(3):
        np.add.at(design, (np.arange(60), ids[:, k]), coefficients[:, k])
    target, weights = r.standard_normal((60, 4)), r.rand(60) * (np.arange(60) % 7 > 0)
    narrow = [jnp.asarray(a, jnp.float32) for a in (target, coefficients, weights)]
    return design, target, weights, jnp.asarray(ids), narrow


FIT = jax.jit(fit_gathered_rows, static_argnames="buckets")


def test_rows_are_a_product_with_the_design_and_its_transpose():
    design, target, _, ids, (narrow, coefficients, _) = problem()
    table = np.random.RandomState(1).standard_normal((16, 4)).astype(np.float32)
    np.testing.assert_allclose(
        gathered_rows(jnp.asarray(table), ids, coefficients), design @ table, rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(scattered_rows(narrow, ids, coefficients, 16), design.T @ target, rtol=1e-5, atol=1e-5)


def test_agrees_with_least_squares_in_float64():
    design, target, weights, ids, (narrow, coefficients, mass) = problem()
    root = np.sqrt(weights)[:, None]
    expected = np.linalg.lstsq(design * root, target * root, rcond=None)[0]
    found = FIT(narrow, ids, coefficients, buckets=16, weights=mass)
    # The gradient has fallen by 1e-5, and the system's condition number is 30.
    np.testing.assert_allclose(found.table, expected, atol=3e-4)
    assert not np.asarray(found.table)[15].any()
    assert int(found.iterations) <= 16
    assert float(found.residual.max()) <= 1e-5


def test_ridge_and_start():
    design, target, weights, ids, (narrow, coefficients, mass) = problem()
    gram = design.T @ (weights[:, None] / weights.max() * design)
    damping = 0.3 * np.mean([(weights / weights.max())[:, None] * coefficients**2 @ np.ones(3)]) * 60 / 16
    expected = np.linalg.solve(gram + damping * np.eye(16), design.T @ (weights[:, None] / weights.max() * target))
    found = FIT(narrow, ids, coefficients, buckets=16, weights=mass, ridge=0.3)
    np.testing.assert_allclose(found.table, expected, atol=3e-4)
    again = FIT(narrow, ids, coefficients, buckets=16, weights=mass, ridge=0.3, start=found.table)
    assert int(again.iterations) == 0


def test_one_bucket_a_row_takes_one_iteration():
    _, _, _, ids, (narrow, coefficients, _) = problem()
    found = FIT(narrow, ids[:, :1], coefficients[:, :1], buckets=16)
    assert int(found.iterations) == 1


def test_half_precision_is_fitted_in_float32():
    _, _, _, ids, (narrow, coefficients, _) = problem()
    found = FIT(narrow.astype(jnp.bfloat16), ids, coefficients, buckets=16)
    assert found.table.dtype == jnp.float32
