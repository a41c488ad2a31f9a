"""What all ranges of arrays have in common."""

import functools

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.quantize.formats import format_of
from jaxcompress.quantize.ranges import MSE, RANGES, Entropy, Percentile, find_scaling, range_of, required_statistics

INT4, UINT4, LEVELS = format_of("int", 4), format_of("int", 4, symmetric=False), format_of("levels", 2)
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((3, 8, 5)) * np.array([1, 100, 0.01])[:, None, None], jnp.float32)
QUICK = {"mse": MSE(steps=8, sides=4), "entropy": Entropy(steps=8, sides=4)}
CASES = [
    ("absmax", INT4),
    ("minmax", UINT4),
    *((QUICK.get(name, name), format) for name in ("percentile", "mse", "entropy") for format in (INT4, UINT4)),
    *((name, LEVELS) for name in ("absmax", "equalized", "kmeans")),
]
every = pytest.mark.parametrize(("ranges", "format"), CASES, ids=lambda v: getattr(v, "name", v))


def same(a, b, **tolerance):
    jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance), a, b)


def test_extremes_by_hand():
    x = jnp.array([[0.0, 7.0], [-14.0, 3.5]])
    assert find_scaling(x, (2, 1), INT4).scale.tolist() == [[1.0], [2.0]]
    assert find_scaling(x, (1, 2), INT4, "minmax").scale.tolist() == [[2.0, 1.0]]
    found = find_scaling(jnp.array([[-7.0, 8.0]]), (1, 1), UINT4)
    assert (found.scale.tolist(), found.zero_point.tolist()) == ([[1.0]], [[-1]])
    assert (found.scale.dtype, found.zero_point.dtype) == (jnp.float32, jnp.int8)


@every
def test_groups_are_by_themselves_under_transforms_and_compile_once(ranges, format):
    """Channel, group and stack axes: each scale sees its own entries only. jit and vmap change nothing."""
    found = find_scaling(X, (3, 2, 5), format, ranges)
    assert all(field.shape[:3] == (3, 2, 5) for field in jax.tree.leaves(found))
    seen = []
    listen = lambda event, *_, **__: seen.append(event) if event.endswith("backend_compile_duration") else None  # noqa: E731
    changed = np.asarray(X)[::-1].copy()
    changed[1, 4:, 3] = X[1, 4:, 3]
    changed = jnp.asarray(changed)
    jax.monitoring.register_event_duration_secs_listener(listen)
    other = find_scaling(changed, (3, 2, 5), format, ranges)
    jax.monitoring.unregister_event_duration_listener(listen)
    assert not seen, "a second call compiled"
    same([field[1, 1, 3] for field in jax.tree.leaves(other)], [field[1, 1, 3] for field in jax.tree.leaves(found)])
    assert not np.array_equal(other[-1 if format is LEVELS else 0], found[-1 if format is LEVELS else 0])
    mapped = jax.jit(jax.vmap(lambda x: find_scaling(x, (2, 5), format, ranges)))(X)
    same(mapped, found, rtol=1e-6)


@every
def test_zeros_constants_and_the_ends_of_float32(ranges, format):
    x = X.at[0, :4].set(0).at[0, 4:].set(3.0).at[1, :4].set(-1e-30).at[1, 4:].set(0).at[1, 5].set(1e30)
    found = find_scaling(x, (3, 2, 5), format, ranges)
    assert (found.scale > 0).all()
    assert all(jnp.isfinite(field).all() for field in jax.tree.leaves(found))
    rounded = format.project(x, found)
    assert jnp.isfinite(rounded).all()
    assert (rounded[0, :4] == 0).all()
    if format is not LEVELS:
        assert (format.project(jnp.zeros_like(x), found) == 0).all(), "zero is on every integer grid"
        # What is constant lies at the end of the grid, or half a step off where zero points are rounded.
        np.testing.assert_allclose(rounded[0, 4:], x[0, 4:], rtol=0.04)


@pytest.mark.parametrize(("ranges", "format"), [CASES[i] for i in (2, 5, 6, -1)], ids=lambda v: getattr(v, "name", v))
def test_lowers_for_every_platform(ranges, format):
    fn = jax.jit(lambda x: find_scaling(x, (3, 2, 5), format, ranges))
    exported = jax.export.export(fn, platforms=["cpu", "cuda", "tpu"])(jax.ShapeDtypeStruct(X.shape, X.dtype))
    assert exported.platforms == ("cpu", "cuda", "tpu")


def test_half_precision_and_no_entries():
    assert find_scaling(X.astype(jnp.bfloat16), (3, 1, 1), INT4, "mse").scale.dtype == jnp.float32
    assert find_scaling(jnp.zeros((0, 4)), (0, 1), INT4, "mse").scale.shape == (0, 1)
    assert find_scaling(jnp.zeros((2, 0)), (2, 1), INT4).scale.tolist() == [[1.0], [1.0]]


def test_weights_of_zero():
    x = jnp.array([[1.0, 2.0, 700.0], [1.0, 2.0, 7.0]])
    found = find_scaling(x, (2, 1), INT4, "absmax", weights=jnp.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    np.testing.assert_allclose(found.scale[:, 0], [2 / 7, 1.0])  # a group without any weight is taken as it is


def test_errors_name_what_is_wrong_and_what_there_is():
    with pytest.raises(ValueError, match="ranges='nonsense' is not known; there are absmax, minmax, percentile, mse"):
        find_scaling(X, (3, 1, 1), INT4, "nonsense")
    with pytest.raises(TypeError, match="ranges must be a name or a Range such as MSE"):
        find_scaling(X, (3, 1, 1), INT4, 0.5)
    with pytest.raises(ValueError, match="scale_shape must have the axes of x"):
        find_scaling(X, (3, 3, 1), INT4)
    with pytest.raises(ValueError, match=r"weights must have the shape of x, \(3, 8, 5\), got \(8, 5\)"):
        find_scaling(X, (3, 1, 1), INT4, "mse", weights=X[0])
    with pytest.raises(ValueError, match="'moving_average' is for activations"):
        find_scaling(X, (3, 1, 1), INT4, "moving_average")


def test_names_and_options():
    assert {range_of(name).name for name in RANGES} == set(RANGES)
    assert range_of(Percentile(99.0)) == Percentile(99.0)
    assert required_statistics("absmax", UINT4) == ("min", "max")
    assert required_statistics(Entropy(steps=10)) == ("histogram",)
