"""MSE-optimal clips against brute force in float64."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.quantize.formats import format_of
from jaxcompress.quantize.ranges import MSE, find_scaling
from jaxcompress.quantize.ranges.clip_search import best_clips


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def heavy(*shape, seed=0):
    return np.random.default_rng(seed).standard_t(3, size=shape).astype(np.float32)


def errors(x, bits, low, high, *, symmetric, weights=1.0, power=2.0):
    """Of rows, in float64, for ends of shape ``[..., rows]``: what the definition of the grid says."""
    x, low, high = np.asarray(x, np.float64), np.asarray(low, np.float64)[..., None], np.asarray(high)[..., None]
    top = 2 ** (bits - 1) - 1
    if symmetric:
        scale = np.maximum(-low, high) / top
        q = np.clip(np.round(x / scale), -top, top) * scale
    else:
        scale = (high - low) / (2**bits - 1)
        zero = np.clip(np.round(-top - 1 - low / scale), -top - 1, top)
        q = (np.clip(np.round(x / scale) + zero, -top - 1, top) - zero) * scale
    return np.sum(weights * np.abs(x - q) ** power, axis=-1)


def error_of(x, format, scaling, weights=1.0, power=2.0):
    q = np.asarray(format.project(jnp.asarray(x), scaling), np.float64)
    return np.sum(weights * np.abs(np.asarray(x, np.float64) - q) ** power, axis=1)


FRACTIONS = np.linspace(0.01, 1, 1500)


@pytest.mark.parametrize("draw", [normal, heavy])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_symmetric_clips_are_the_best_of_fifteen_hundred(draw, bits):
    x = draw(4, 500)
    x[3] /= 1e3
    format = format_of("int", bits)
    found = error_of(x, format, find_scaling(jnp.asarray(x), (4, 1), format, "mse"))
    reach = FRACTIONS[:, None] * np.abs(x).max(1)
    best = errors(x, bits, -reach, reach, symmetric=True).min(0)
    assert (found <= 1.001 * best).all(), found / best  # its fractions are other ones: 64, and 63 around the best
    assert (found < errors(x, bits, -reach[-1], reach[-1], symmetric=True)).all()


def test_both_ends_of_asymmetric_grids_are_clipped_independently():
    x = np.stack([np.exp(normal(300)), -np.exp(normal(300, seed=1)), normal(300) ** 3 + 2, np.maximum(normal(300), 0)])
    format = format_of("int", 4, symmetric=False)
    found = error_of(x, format, find_scaling(jnp.asarray(x), (4, 1), format, "mse"))
    low, high = np.minimum(x.min(1), 0), np.maximum(x.max(1), 0)
    best = np.full(4, np.inf)
    for f, g in itertools.product(np.linspace(0.02, 1, 80), repeat=2):
        # A group on one side of zero has no other end to clip.
        best = np.minimum(best, errors(x, 4, np.minimum(f * low, -1e-30), g * high, symmetric=False))
    # 16 positions per end, and 15 between the neighbours of the best: rough groups of 300 have better ones in between.
    assert (found <= 1.02 * best).all(), found / best
    full = error_of(x, format, find_scaling(jnp.asarray(x), (4, 1), format, "minmax"))
    symmetric = format_of("int", 4)
    other = error_of(x, symmetric, find_scaling(jnp.asarray(x), (4, 1), symmetric, "mse"))
    assert (found < full).all()
    assert (found < other)[[0, 1, 3]].all()


def test_the_anchor_of_gaussian_weights():
    """ANCHORS.md has int4 per output channel at .1330 with absmax and at .1101 with the best clip, its size unnamed."""
    x = jnp.asarray(normal(420, 256))
    format = format_of("int", 4)
    relative = {}
    for ranges in ("absmax", "mse"):
        q = format.project(x, find_scaling(x, (1, 256), format, ranges))
        relative[ranges] = float(jnp.linalg.norm(x - q) / jnp.linalg.norm(x))
    assert relative["absmax"] == pytest.approx(0.133, abs=0.002)
    assert relative["mse"] < 0.112
    reach = FRACTIONS[700:, None] * np.abs(x).max(0)
    best = np.min([errors(x.T, 4, -r, r, symmetric=True) for r in reach[::8]], axis=0)
    assert relative["mse"] <= 1.0005 * np.sqrt(best.sum() / np.sum(np.square(x, dtype=np.float64)))


@pytest.mark.parametrize("name", ["nf4", "fp8_e4m3", "mxfp4", "levels"])
def test_every_format_gains_by_clipping_or_keeps_its_range(name):
    x, format = jnp.asarray(normal(64, 32)), format_of(name)
    full = error_of(x, format, find_scaling(x, (64, 1), format, "absmax"))
    found = error_of(x, format, find_scaling(x, (64, 1), format, "mse"))
    assert (found <= full * (1 + 1e-6)).all()
    assert found.sum() < 0.99 * full.sum()


def test_important_entries_are_met_more_closely():
    x, format = heavy(8, 200), format_of("int", 3)
    weights = np.random.default_rng(1).exponential(size=x.shape).astype(np.float32) ** 4
    plain = find_scaling(jnp.asarray(x), (8, 1), format, "mse")
    weighted = find_scaling(jnp.asarray(x), (8, 1), format, "mse", weights=jnp.asarray(weights))
    assert (error_of(x, format, weighted, weights) <= error_of(x, format, plain, weights) * (1 + 1e-6)).all()
    assert error_of(x, format, weighted, weights).sum() < 0.97 * error_of(x, format, plain, weights).sum()
    reach = FRACTIONS[:, None] * np.abs(x).max(1)
    best = errors(x, 3, -reach, reach, symmetric=True, weights=weights).min(0)
    assert (error_of(x, format, weighted, weights) <= 1.005 * best).all()


def test_second_moments_as_weights_lower_the_output_error():
    """Inputs of very different size: what their weights are rounded to matters as much as they do."""
    rng = np.random.default_rng(2)
    inputs = rng.standard_normal((2000, 96)) * np.exp(1.5 * rng.standard_normal(96))
    kernel, format = jnp.asarray(heavy(96, 24)), format_of("int", 3)
    moments = jnp.asarray(np.broadcast_to(np.mean(inputs**2, 0)[:, None], (96, 24)), jnp.float32)
    scalings = {
        "absmax": find_scaling(kernel, (1, 24), format),
        "mse": find_scaling(kernel, (1, 24), format, "mse"),
        "weighted": find_scaling(kernel, (1, 24), format, "mse", weights=moments),
    }
    off = {name: np.asarray(kernel - format.project(kernel, s), np.float64) for name, s in scalings.items()}
    output = {name: np.linalg.norm(inputs @ difference) for name, difference in off.items()}
    assert output["weighted"] < 0.97 * output["mse"]
    assert output["mse"] < output["absmax"]


def test_another_power():
    x, format = heavy(4, 300), format_of("int", 4)
    found = error_of(x, format, find_scaling(jnp.asarray(x), (4, 1), format, MSE(power=4.0)), power=4.0)
    reach = FRACTIONS[:, None] * np.abs(x).max(1)
    best = errors(x, 4, -reach, reach, symmetric=True, power=4.0).min(0)
    assert (found <= 1.005 * best).all()
    assert (found < error_of(x, format, find_scaling(jnp.asarray(x), (4, 1), format, "mse"), power=4.0)).all()


def test_equal_weights_are_none():
    x, format = jnp.asarray(heavy(4, 500)), format_of("int", 4)
    weighted = find_scaling(x, (4, 1), format, "mse", weights=jnp.full(x.shape, 1e30))
    np.testing.assert_allclose(weighted.scale, find_scaling(x, (4, 1), format, "mse").scale, rtol=1e-6)


@pytest.mark.parametrize("exponent", [-90, 60, 100])
def test_powers_of_two_change_nothing(exponent):
    """Squares of such numbers leave float32, so this holds only if errors are taken of relative values."""
    x, format = normal(3, 100), format_of("int", 4)
    scale = find_scaling(jnp.asarray(x), (3, 1), format, "mse").scale
    scaled = find_scaling(jnp.asarray(np.ldexp(x, exponent)), (3, 1), format, "mse").scale
    np.testing.assert_array_equal(np.ldexp(np.asarray(scale), exponent), scaled)


def test_the_search_by_hand():
    def loss(low, high):
        return jnp.abs(low - jnp.array([0.5, 1.0])) + jnp.abs(high - jnp.array([0.2, 0.625]))

    best = best_clips(loss, 2, jnp.float32, steps=4, symmetric=False)
    # Quarters first: (.5, .25), (1, .5 or .75, the wider stays). Then steps of 1/8 around them.
    np.testing.assert_allclose(best.low, [0.5, 1.0])
    np.testing.assert_allclose(best.high, [0.25, 0.625])


def test_bad_options():
    with pytest.raises(ValueError, match="MSE: steps must be 2 or more, got 1"):
        MSE(steps=1)
    with pytest.raises(ValueError, match=r"MSE: power must be 0.1 or more, got 0"):
        MSE(power=0)
