import itertools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from scipy import stats

from jaxcompress.quantize import AffineQuantized, FixedTable, PackedInts, Quantized, Scaling, Spec, Tabled, format_of
from jaxcompress.quantize.formats import FORMATS
from jaxcompress.quantize.minifloats import power_of_two
from jaxcompress.quantize.ranges import find_scaling
from jaxcompress.quantize.tables import NF4
from jaxcompress.solvers.grid import group_range

RNG = np.random.default_rng(0)
W = jnp.asarray(RNG.standard_t(4, (8, 12)), jnp.float32)
EVERY = [
    *(format_of("int", bits, symmetric) for bits, symmetric in itertools.product((1, 3, 8), (True, False))),
    *(format_of(name) for name in FORMATS if name not in ("int", "int_full", "levels")),
    format_of("int_full", 3),
    format_of("levels", 3),
]
every_format = pytest.mark.parametrize("format", EVERY, ids=lambda f: f"{f.name}{f.bits}{'' if f.symmetric else 'a'}")


def spanning(x, shape, format):
    return format.scaling(*group_range(x, shape))


@every_format
def test_the_leaf_holds_what_decode_says_bit_for_bit_in_as_few_bits(format):
    scaling = spanning(W, (8, 3), format)
    codes = format.encode(W, scaling)
    values = format.decode(codes, scaling)
    leaf = format.leaf(codes, scaling, jnp.float32)
    assert (values.shape, values.dtype) == (W.shape, jnp.float32)
    np.testing.assert_array_equal(leaf.materialize(), values)
    np.testing.assert_array_equal(jax.jit(lambda leaf: leaf.materialize())(leaf), values)
    np.testing.assert_array_equal(format.project(W, scaling), values)
    np.testing.assert_array_equal(leaf.astype(jnp.bfloat16).materialize(), values.astype(jnp.bfloat16))
    np.testing.assert_array_equal(leaf.with_codes(codes).materialize(), values)
    assert leaf.bits == format.bits
    held = 16 if isinstance(getattr(leaf, "codes", leaf.components().get("qvalue")), PackedInts) else 12  # whole bytes
    per_scale = {"int": 32 if format.symmetric else 40, "levels": 32 + 8 * 32}.get(format.name, 32)
    per_scale = 8 if format.block else per_scale
    assert leaf.stored_bits == 8 * held * format.bits + 24 * per_scale
    kind = {"int": Quantized if format.symmetric else AffineQuantized, "nf4": FixedTable, "levels": Tabled}
    assert type(leaf) is kind.get(format.name, Quantized)


@every_format
def test_values_are_the_nearest_of_the_format(format):
    """Against every code there is: no other value lies nearer, and those of the format are fixed points."""
    scaling = spanning(W, (8, 1), format)
    if format.name in ("int", "int_full"):
        low = -1 if format.bits == 1 else int(format.smallest)
        codes = np.asarray([-1, 1] if format.bits == 1 else range(low, int(format.largest) + 1), np.int8)
    elif format.name in ("nf4", "levels"):
        codes = np.arange(2**format.bits, dtype=np.uint8)
    else:
        dtype = format.encode(W, scaling).dtype
        codes = np.arange(2**format.bits, dtype=np.uint8).view(dtype) if format.bits == 8 else None
        codes = np.arange(16).astype(np.uint8).view(dtype) if codes is None else codes
        codes = codes[np.isfinite(codes.astype(np.float32))]
    grid = format.decode(jnp.broadcast_to(jnp.asarray(codes)[None], (8, codes.size)), scaling)
    best = np.abs(np.asarray(grid)[:, None, :] - np.asarray(W)[:, :, None]).min(-1)
    # A quotient that is rounded to a tie may fall to either side: one rounding of a value.
    ours = np.abs(np.asarray(format.project(W, scaling)) - np.asarray(W))
    assert np.all(ours <= best + 1e-6 * np.abs(np.asarray(W)))
    np.testing.assert_array_equal(format.project(grid, scaling), grid)


def test_integer_codes_by_hand():
    int4, x = format_of("int", 4), jnp.array([[-3.0, 0.4, 3.5, 1.3]])
    scaling = int4.scaling(jnp.array([[-3.0]]), jnp.array([[3.5]]))
    assert (scaling.scale.tolist(), scaling.zero_point) == ([[0.5]], None)
    assert int4.encode(x, scaling).tolist() == [[-6, 1, 7, 3]]
    uint2 = format_of("int", 2, symmetric=False)  # codes -2 to 1
    scaling = uint2.scaling(jnp.array([[-1.0]]), jnp.array([[2.0]]))
    assert (scaling.scale.tolist(), scaling.zero_point.tolist()) == ([[1.0]], [[-1]])
    assert uint2.encode(jnp.array([[-1.0, 0.0, 1.2, 9.0]]), scaling).tolist() == [[-2, -1, 0, 1]]
    assert uint2.project(jnp.array([[-1.0, 0.0, 1.2, 9.0]]), scaling).tolist() == [[-1.0, 0.0, 1.0, 2.0]]
    bit = format_of("int", 1, symmetric=False)  # zero and the far end
    scaling = bit.scaling(jnp.array([[-1.0], [-6.0]]), jnp.array([[2.0], [0.5]]))
    values = bit.project(jnp.array([[-1.0, 0.9, 1.1], [-3.1, -2.9, 4.0]]), scaling)
    assert values.tolist() == [[0.0, 0.0, 2.0], [-6.0, 0.0, 0.0]]


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize(
    ("low", "high"), [(-1.0, 3.0), (0.25, 0.75), (-9.0, -2.0), (0.0, 0.0), (-1e-44, 0.0), (-1e38, 1e38)]
)
def test_zero_points_meet_zero_exactly_and_ends_to_half_a_step(bits, low, high):
    format = format_of("int", bits, symmetric=False)
    scaling = format.scaling(jnp.array([low]), jnp.array([high]))
    assert scaling.zero_point.dtype == jnp.int8
    assert bool(jnp.isfinite(scaling.scale).all())
    values = np.asarray(
        format.project(jnp.array([0.0, low, high]), Scaling(scaling.scale, scaling.zero_point)), np.float64
    )
    assert values[0] == 0
    if bits > 1:
        step = float(scaling.scale[0])
        assert np.all(np.abs(values[1:] - [low, high]) <= 0.5001 * step)
    assert (format.largest - format.smallest) == max(2, 2**bits - 1)


def test_nf4_is_the_table_of_the_paper():
    """Appendix E: quantiles at even probabilities on either side, 8 below and 9 above of which zero is shared."""
    offset = 0.9677083  # between 1 - 1/32 and 1 - 1/30, as the authors' code has it
    above = stats.norm.ppf(np.linspace(offset, 0.5, 9)[:-1])
    below = -stats.norm.ppf(np.linspace(offset, 0.5, 8)[:-1])
    levels = np.sort(np.concatenate([below, [0.0], above]))
    np.testing.assert_allclose(NF4, levels / levels.max(), atol=2e-7)  # published in float32
    nf4 = format_of("nf4")
    scaling = nf4.scaling(jnp.array([-4.0]), jnp.array([2.0]))
    assert scaling.scale.tolist() == [4.0]
    assert nf4.encode(jnp.array([-4.0, 0.0, 0.2, 4.0, 99.0]), scaling).tolist() == [0, 7, 8, 15, 15]


@pytest.mark.parametrize(
    ("name", "dtype", "largest"),
    [
        ("fp8_e4m3", ml_dtypes.float8_e4m3fn, 448.0),
        ("fp8_e5m2", ml_dtypes.float8_e5m2, 57344.0),
        ("fp4", ml_dtypes.float4_e2m1fn, 6.0),
    ],
)
def test_small_floats_round_as_ml_dtypes_do_and_saturate(name, dtype, largest):
    format = format_of(name)
    assert (format.largest, format.smallest, format.bits) == (largest, -largest, jnp.finfo(dtype).bits)
    grid = np.unique(np.abs(np.arange(2**format.bits, dtype=np.uint8).view(dtype).astype(np.float32)))
    grid = grid[np.isfinite(grid)]
    x = np.concatenate(
        [grid, (grid[1:] + grid[:-1]) / 2, RNG.uniform(0, largest, 500), 2.0 ** RNG.uniform(-20, 0, 500)]
    )
    x = np.concatenate([x, -x]).astype(np.float32)  # ties to even, subnormals
    codes = format.encode(jnp.asarray(x), Scaling(jnp.ones(1)))
    np.testing.assert_array_equal(np.asarray(codes), x.astype(dtype))
    beyond = jnp.array([largest * 1.05, 1e38, jnp.inf, -largest * 1.05, -1e38, -jnp.inf])
    np.testing.assert_array_equal(
        np.asarray(jax.jit(lambda x: format.project(x, Scaling(jnp.ones(1))))(beyond)),
        np.repeat([largest, -largest], 3),
    )
    scaling = format.scaling(jnp.array([-3.0]), jnp.array([1.0]))
    assert float(format.project(jnp.array([-3.0]), scaling)[0]) == pytest.approx(-3.0, rel=1e-6)


def test_shared_exponents_are_those_of_the_specification():
    """Section 6.3: the largest power of two in the block over that of an element (2^2, 2^8, 2^15)."""
    largest = jnp.array([1.0, 1.99, 6.0, 8.0, 0.3, 2.0**-140, 0.0, 3e38])
    by_hand = {
        "mxfp4": [-2, -2, 0, 1, -4],
        "mxfp8_e4m3": [-8, -8, -6, -5, -10],
        "mxfp8_e5m2": [-15, -15, -13, -12, -17],
    }
    for name, exponents in by_hand.items():
        scale = np.asarray(power_of_two(largest, name))
        assert np.log2(scale[:5]).tolist() == exponents
        assert scale[6] == 1.0
        assert np.isfinite(np.asarray(jnp.asarray(scale).astype(jnp.float8_e8m0fnu), np.float32)).all()
        np.testing.assert_array_equal(np.asarray(jnp.asarray(scale).astype(jnp.float8_e8m0fnu), np.float32), scale)
    x = jnp.asarray(RNG.normal(size=(4, 64)) * np.exp2(RNG.integers(-20, 20, (4, 1))), jnp.float32)
    mxfp4 = format_of("mxfp4")
    scaling = spanning(x, (4, 2), mxfp4)
    top = np.abs(np.asarray(x)).reshape(4, 2, 32).max(-1) / np.asarray(scaling.scale)
    assert np.all((top >= 4) & (top < 8))
    leaf = mxfp4.leaf(mxfp4.encode(x, scaling), scaling, jnp.float32)
    assert (leaf.qvalue.dtype, leaf.scale.dtype) == (jnp.float4_e2m1fn, jnp.float8_e8m0fnu)
    assert leaf.stored_bits == 4 * 64 * 4 + 8 * 8  # 4.25 bits per weight
    assert Quantized.create(leaf.qvalue, leaf.scale).dtype == jnp.float32


def test_levels_serve_their_own_groups():
    levels = format_of("levels", 2)
    table = jnp.array([[[-1.0, 0.0, 1.0, 5.0], [-8.0, -4.0, 0.0, 2.0]]])
    scaling = Scaling(jnp.array([[1.0, 0.5]]), table=table)
    x = jnp.array([[0.4, 4.0, -3.0, 9.0], [2.0, -0.6, 0.4, -0.2]])
    assert levels.encode(x, scaling).tolist() == [[1, 3, 0, 3], [2, 0, 2, 2]]
    assert levels.project(x, scaling).tolist() == [[0.0, 5.0, -4.0, 1.0], [1.0, -1.0, 0.0, 0.0]]
    with pytest.raises(ValueError, match="a scaling with a table is needed"):
        levels.encode(x, Scaling(jnp.ones((1, 1))))


def test_what_is_no_format_is_named():
    with pytest.raises(ValueError, match=r"format must be one of int, int_full, nf4.*got 'fp16'"):
        format_of("fp16")
    with pytest.raises(ValueError, match="bits must be an integer from 1 to 8, got 9"):
        format_of("int", 9)
    with pytest.raises(ValueError, match="rtn: format='nf4' has 4 bits, got bits=3"):
        format_of("nf4", 3, method="rtn")
    with pytest.raises(ValueError, match="symmetric=False is of format='int' alone, got format='fp4'"):
        format_of("fp4", symmetric=False)
    with pytest.raises(ValueError, match=r"no glob of bits=.*fits 'c'"):
        Spec(bits={"a": 4, "b": 8}).at("c")
    with pytest.raises(ValueError, match="bits is a dict"):
        Spec(bits={"a": 4}).format_of()
    assert [format_of(name).bits for name in FORMATS] == [8, 8, 4, 8, 8, 4, 4, 8, 8, 4]


def test_the_full_range_of_integers_has_one_code_more_below_zero():
    full, narrow = format_of("int_full", 3), format_of("int", 3)
    assert (full.smallest, full.largest, narrow.smallest) == (-4.0, 3.0, -3.0)
    scaling = Scaling(jnp.array([0.5]))
    x = jnp.array([-9.0, -2.0, -1.6, 0.1, 1.5, 9.0])
    assert full.project(x, scaling).tolist() == [-2.0, -2.0, -1.5, 0.0, 1.5, 1.5]
    assert narrow.project(x, scaling).tolist() == [-1.5, -1.5, -1.5, 0.0, 1.5, 1.5]
    assert full.scaling(jnp.array([-1.0]), jnp.array([3.0])).scale.tolist() == [1.0]  # reaches both ends
    w = jnp.asarray(RNG.standard_normal((512, 16)), jnp.float32)
    errors = [jnp.square(f.project(w, find_scaling(w, (1, 16), f, "mse")) - w).mean() for f in (full, narrow)]
    assert errors[0] < 0.9 * errors[1]
    with pytest.raises(ValueError, match="bits=1"):
        format_of("int_full", 1)
