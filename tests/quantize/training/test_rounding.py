"""The array functions of quantization-aware training: values and derivatives by hand, and against relaxed formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.quantize import Scaling, format_of
from jaxcompress.quantize.training.dorefa import dorefa_weights
from jaxcompress.quantize.training.few_levels import few_levels
from jaxcompress.quantize.training.learned_step import StepGrid, learned_step, lsq_gradient_scale, step_codes
from jaxcompress.quantize.training.pact import pact
from jaxcompress.quantize.training.starts import lsq_plus_start, lsq_start
from jaxcompress.quantize.training.straight_through import straight_through

RNG = np.random.RandomState(0)
NORMAL = jnp.asarray(RNG.standard_normal((6, 8)), jnp.float32)


def grads(fn, *args):
    """The gradients of a sum weighted by random numbers, so that no two entries can be mistaken for each other."""
    weights = jnp.asarray(np.random.RandomState(1).standard_normal(jax.eval_shape(fn, *args).shape), jnp.float32)
    return jax.jit(jax.grad(lambda *args: (weights * fn(*args)).sum(), tuple(range(len(args)))))(*args)


# LSQ ----------------------------------------------------------------------------------------------------------------


def test_lsq_by_hand():
    """Esser 2020, equations 1 to 3 and 5, at every kind of entry: 3 bits, Qn = 4, Qp = 3, step 0.5."""
    x = jnp.array([-9.0, -2.0, -1.9, 0.2, 0.3, 1.45, 1.5, 9.0])
    step, grid = jnp.array([0.5]), StepGrid(bits=3)
    assert learned_step(x, step, None, grid).tolist() == [-2.0, -2.0, -2.0, 0.0, 0.5, 1.5, 1.5, 1.5]
    by_x = jax.vmap(jax.grad(lambda v: learned_step(v[None], step, None, grid)[0]))(x)
    assert by_x.tolist() == [0, 0, 1, 1, 1, 1, 0, 0]
    by_step = jax.vmap(lambda v: jax.grad(lambda s: learned_step(v[None], s, None, grid)[0])(step)[0])(x)
    np.testing.assert_allclose(by_step, [-4, -4, -4 + 3.8, -0.4, 1 - 0.6, 3 - 2.9, 3, 3], atol=1e-6)


def relaxed(x, scale, offset, first, last):
    """The formula whose derivative LSQ and LSQ+ define: rounding has the derivative 1, clipping its own."""
    u = jnp.clip((x - offset) / scale, first, last)
    return (u + jax.lax.stop_gradient(jnp.round(u) - u)) * scale + offset


@pytest.mark.parametrize("signed", [True, False])
def test_lsq_is_the_derivative_of_the_relaxed_formula(signed):
    grid = StepGrid(bits=3, signed=signed)
    scale = jnp.asarray(RNG.uniform(0.2, 0.5, (1, 8)), jnp.float32)
    ours = grads(lambda x, s: learned_step(x, s, None, grid), NORMAL, scale)
    theirs = grads(lambda x, s: relaxed(x, s, jnp.zeros((1, 8)), grid.first, grid.last), NORMAL, scale)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_lsq_plus_is_the_derivative_of_the_relaxed_formula():
    """Offsets of whole steps, so that the zero point is no rounding."""
    grid, scale = StepGrid(bits=3, signed=False), jnp.full((1, 8), 0.25)
    offset = -0.25 * jnp.arange(8.0)[None]
    for fn in (lambda x, s, b: learned_step(x, s, b, grid), lambda x, s, b: relaxed(x, s, b, 0, 7)):
        value = fn(NORMAL, scale, offset)
        assert ((value >= offset) & (value <= offset + 1.75)).all()
    ours = grads(lambda x, s, b: learned_step(x, s, b, grid), NORMAL, scale, offset)
    theirs = grads(lambda x, s, b: relaxed(x, s, b, 0, 7), NORMAL, scale, offset)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_finite_differences_where_the_function_has_a_derivative():
    """Outside the grid the value is a straight line in the step and, in whole steps, in the offset."""
    x, grid = jnp.array([-50.0, 50.0]), StepGrid(bits=4, signed=False)
    value = jax.jit(lambda s, b: learned_step(x, s[None], b[None], grid))
    step, offset = jnp.float32(0.5), jnp.float32(-1.0)
    by_step, by_offset = (jax.jvp(value, (step, offset), t)[1] for t in ((1.0, 0.0), (0.0, 1.0)))
    np.testing.assert_allclose(by_offset, value(step, offset + 0.5) - value(step, offset - 0.5), rtol=1e-6)
    doubled = value(2 * step, offset) - value(step, offset)  # the offset is a whole number of either step
    np.testing.assert_allclose(by_step, doubled / step, rtol=1e-6)
    assert by_step.tolist() == [0, 15]


def test_gradient_scale_of_lsq():
    """1 / sqrt(N Qp): the gradient of the step alone is multiplied by it."""
    assert lsq_gradient_scale(48, 3) == pytest.approx(1 / 12)
    scale = jnp.full((1, 1), 0.3)
    plain = grads(lambda x, s: learned_step(x, s, None, StepGrid(3)), NORMAL, scale)
    scaled = grads(lambda x, s: learned_step(x, s, None, StepGrid(3, gradient_scale=1 / 12)), NORMAL, scale)
    np.testing.assert_array_equal(plain[0], scaled[0])
    np.testing.assert_allclose(scaled[1], plain[1] / 12, rtol=1e-6)


def test_steps_start_where_the_papers_have_them():
    np.testing.assert_allclose(lsq_start(NORMAL, (1, 8), bits=4)[0], 2 * np.abs(NORMAL).mean(0) / np.sqrt(7), rtol=1e-6)
    mean, deviation = NORMAL.mean(), NORMAL.std()
    reach = max(abs(mean - 3 * deviation), abs(mean + 3 * deviation))
    np.testing.assert_allclose(lsq_plus_start(NORMAL, (1, 1), bits=4), [[reach / 8]], rtol=1e-6)
    assert lsq_start(jnp.zeros((2, 2)), (1, 2), bits=4).tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("bits", [2, 8])
def test_codes_are_the_values(bits):
    scale = jnp.asarray(RNG.uniform(0.05, 0.5, (3, 8)), jnp.float32).at[0, 0].multiply(-1)  # training may do that
    offset = jnp.asarray(RNG.standard_normal((3, 8)), jnp.float32)
    for point in (None, offset):
        grid = StepGrid(bits)
        codes, positive, zero_point = step_codes(NORMAL, scale, point, grid)
        assert codes.dtype == jnp.int8
        assert -(2 ** (bits - 1)) <= int(codes.min()) <= int(codes.max()) <= 2 ** (bits - 1) - 1
        leaf = format_of("int", bits, symmetric=zero_point is None).leaf(
            codes, Scaling(positive, zero_point), jnp.float32
        )
        np.testing.assert_array_equal(leaf.materialize(), learned_step(NORMAL, scale, point, grid))


# The others ---------------------------------------------------------------------------------------------------------


def test_straight_through_clips_the_gradient_where_it_clips():
    int3 = format_of("int", 3)
    x = jnp.array([-9.0, -1.74, -1.5, 0.2, 1.7, 1.76])
    value = lambda x: straight_through(x, Scaling(jnp.array([0.5])), int3)  # noqa: E731
    assert value(x).tolist() == [-1.5, -1.5, -1.5, 0.0, 1.5, 1.5]
    assert jax.grad(lambda x: value(x).sum())(x).tolist() == [0, 1, 1, 1, 1, 0]
    shifted = lambda x: straight_through(  # noqa: E731
        x, Scaling(jnp.array([0.5]), jnp.array([-4], jnp.int8)), format_of("int", 3, symmetric=False)
    )
    assert shifted(jnp.array([-1.0, 0.6, 3.4, 9.0])).tolist() == [0.0, 0.5, 3.5, 3.5]
    assert jax.grad(lambda x: shifted(x).sum())(jnp.array([-1.0, 0.6, 3.4, 9.0])).tolist() == [0, 1, 1, 0]
    nf4 = format_of("nf4")
    assert straight_through(jnp.array([0.7, -2.0]), Scaling(jnp.array([1.0])), nf4).tolist() == [0.7229568362236023, -1]
    slopes = jax.grad(lambda x: straight_through(x, Scaling(jnp.array([1.0])), nf4).sum())(jnp.array([0.7, -2.0]))
    assert slopes.tolist() == [1, 0]


def test_dorefa_by_the_formula():
    """Zhou 2016, equation 9, in NumPy; the derivative is that of the formula without rounding."""
    w, n = np.asarray(NORMAL, np.float64), 7
    t = np.tanh(w)
    levels = 2 * np.round(n * (t / (2 * np.abs(t).max()) + 0.5)) / n - 1
    ours = dorefa_weights(NORMAL, bits=3, layers=(1, 1))
    np.testing.assert_allclose(ours, levels, atol=1e-6)
    assert (ours != 0).all()
    assert len(np.unique(np.round(ours, 5))) == 8
    np.testing.assert_allclose(
        dorefa_weights(NORMAL, bits=3, layers=(1, 1), rescaled=True), np.abs(t).max() * levels, atol=1e-6
    )

    def smooth(x):
        t = jnp.tanh(x)
        return t / jnp.max(jnp.abs(t))

    for bits in (2, 4):
        ours = grads(lambda x, bits=bits: dorefa_weights(x, bits=bits, layers=(1, 1)), NORMAL)[0]
        row, column = np.unravel_index(np.abs(NORMAL).argmax(), NORMAL.shape)
        others = np.ones(NORMAL.shape, bool)
        others[row, column] = False
        np.testing.assert_allclose(ours[others], grads(smooth, NORMAL)[0][others], rtol=1e-4, atol=1e-6)


def test_dorefa_keeps_layers_apart():
    stacked = jnp.stack([NORMAL, 0.1 * NORMAL])
    both = dorefa_weights(stacked, bits=3, layers=(2, 1, 1))
    np.testing.assert_array_equal(both[0], dorefa_weights(NORMAL, bits=3, layers=(1, 1)))
    np.testing.assert_array_equal(both[1], dorefa_weights(0.1 * NORMAL, bits=3, layers=(1, 1)))


def test_binary_by_hand():
    x = jnp.array([[-2.0, 0.5], [0.0, -0.25]])
    assert few_levels(x, "binary_connect", (1, 2)).tolist() == [[-1, 1], [1, -1]]
    assert few_levels(x, "xnor", (1, 2)).tolist() == [[-1, 0.375], [1, -0.375]]
    assert jax.grad(lambda x: few_levels(x, "binary_connect", (1, 2)).sum())(x).tolist() == [[0, 1], [1, 1]]
    ours = grads(lambda x: few_levels(x, "xnor", (1, 2)), x)[0]
    weights = np.random.RandomState(1).standard_normal((2, 2))
    signs, alpha, inside = np.array([[-1, 1], [1, -1]]), np.array([1.0, 0.375]), np.array([[0, 1], [1, 1]])
    slope_of_size = np.array([[-1, 1], [1, -1]])  # of abs at 0 JAX takes 1
    expected = weights * alpha * inside + (weights * signs).sum(0) * slope_of_size / 2
    np.testing.assert_allclose(ours[[0, 0, 1], [0, 1, 1]], expected[[0, 0, 1], [0, 1, 1]], rtol=1e-5)


def test_ternary_by_hand():
    x = jnp.array([-2.0, 0.5, 0.25, 1.25])  # mean 1, threshold 0.7
    assert few_levels(x, "twn", (1,)).tolist() == [-1.625, 0, 0, 1.625]
    y = jnp.array([-2.0, 0.5, 0.4, 1.1])  # mean 1: 0.5 rounds to the even 0
    assert few_levels(y, "bitnet", (1,)).tolist() == [-1, 0, 0, 1]
    for method in ("twn", "bitnet"):
        assert jax.grad(lambda x, method=method: few_levels(x, method, (1,)).sum())(x).tolist() == [1, 1, 1, 1]
        assert few_levels(jnp.zeros(4), method, (1,)).tolist() == [0, 0, 0, 0]


def test_ternary_follows_the_papers_choice():
    """TWN: of all scales, the mean of what is kept is the one of least squares."""
    best = few_levels(NORMAL, "twn", (1, 1))
    codes = jnp.sign(best)
    errors = [float(((NORMAL - alpha * codes) ** 2).sum()) for alpha in np.linspace(0.1, 3, 59)]
    assert float(((NORMAL - best) ** 2).sum()) <= min(errors) + 1e-5


def test_pact_by_hand():
    """Choi 2018, equations 1 to 3: 2 bits, alpha 3."""
    x, alpha = jnp.array([-1.0, 0.9, 1.6, 2.9, 3.0, 5.0]), jnp.array([3.0])
    np.testing.assert_allclose(pact(x, alpha, bits=2), [0, 1, 2, 3, 3, 3], atol=1e-6)
    assert jax.grad(lambda x: pact(x, alpha, bits=2).sum())(x).tolist() == [0, 1, 1, 1, 0, 0]
    assert jax.grad(lambda a: pact(x, a, bits=2).sum())(alpha).tolist() == [2]
    far = jnp.array([50.0])  # there the value is alpha itself
    slope = (pact(far, alpha + 0.5, bits=4) - pact(far, alpha - 0.5, bits=4))[0]
    np.testing.assert_allclose(jax.grad(lambda a: pact(far, a, bits=4)[0])(alpha)[0], slope, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_floats_are_rounded_in_float32(dtype):
    x, scale = NORMAL.astype(dtype), jnp.full((1, 8), 0.25)
    assert learned_step(x, scale, None, StepGrid(4)).dtype == jnp.float32
    assert jax.grad(lambda x: learned_step(x, scale, None, StepGrid(4)).sum())(x).dtype == dtype
    for value in (few_levels(x, "xnor", (1, 8)), dorefa_weights(x, bits=2, layers=(1, 1))):
        assert value.dtype == jnp.float32
