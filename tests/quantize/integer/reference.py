"""The arithmetic of integer-only inference in NumPy with 64-bit integers, after the sources of gemmlowp and LiteRT."""

import numpy as np


def high_mul(a, b):
    """gemmlowp::SaturatingRoundingDoublingHighMul."""
    a, b = np.asarray(a, np.int64), np.asarray(b, np.int64)
    product = a * b
    nudged = product + np.where(product >= 0, 2**30, 1 - 2**30)
    quotient = np.where(nudged >= 0, nudged // 2**31, -(-nudged // 2**31))  # C++ divides towards zero
    return np.where((a == -(2**31)) & (b == -(2**31)), 2**31 - 1, quotient)


def rounding_shift(x, count):
    """gemmlowp::RoundingDivideByPOT."""
    x, count = np.asarray(x, np.int64), np.asarray(count, np.int64)
    mask = (np.int64(1) << count) - 1
    threshold = (mask >> 1) + (x < 0)
    return (x >> count) + ((x & mask) > threshold)


def rescale(x, multiplier, shift):
    """tflite::MultiplyByQuantizedMultiplier; what the left shift brings beyond 32 bits saturates."""
    shift = np.asarray(shift, np.int64)
    x = np.asarray(x, np.int64) << np.maximum(shift, 0)
    x = np.clip(x, -(2**31), 2**31 - 1)
    return rounding_shift(high_mul(x, multiplier), np.maximum(-shift, 0))


def fixed_point(real):
    """tflite::QuantizeMultiplier, of one number."""
    if real == 0:
        return 0, 0
    fraction, shift = np.frexp(real)
    multiplier = int(np.round(fraction * 2.0**31))
    if abs(multiplier) == 2**31:
        multiplier, shift = multiplier // 2, shift + 1
    return (0, 0) if shift < -31 else (multiplier, int(shift))


def requantized(total, node):
    """Sums to codes, with the constants of a node; channels last."""
    node = {name: np.asarray(value, np.int64) for name, value in node.items()}
    rescaled = rescale(total, node["multiplier"], node["shift"]) + node["zero_point"]
    return np.clip(rescaled, node["low"], node["high"])


def dense(codes, node):
    """A dense layer on codes."""
    total = codes.astype(np.int64) @ np.asarray(node["weight_0"], np.int64) + np.asarray(node["bias"], np.int64)
    return requantized(total, node)


def conv(codes, node, strides=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1), input_dilation=(1, 1), groups=1):
    """A convolution on codes, NHWC and HWIO, by its definition."""
    total = conv_sums(codes, node["weight_0"], int(node["zero_0"]), strides, padding, dilation, input_dilation, groups)
    return requantized(total + np.asarray(node["bias"], np.int64), node)


def conv_sums(x, w, zero, strides=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1), input_dilation=(1, 1), groups=1):
    """The sums of products, with the zero point as padding."""
    x, w = np.asarray(x, np.int64), np.asarray(w, np.int64)
    n, h, width, c = x.shape
    spread = np.full((n, (h - 1) * input_dilation[0] + 1, (width - 1) * input_dilation[1] + 1, c), zero, np.int64)
    spread[:, :: input_dilation[0], :: input_dilation[1]] = x
    x = np.pad(spread, ((0, 0), *np.maximum(padding, 0).tolist(), (0, 0)), constant_values=zero)
    (top, bottom), (left, right) = np.maximum(np.negative(padding), 0).tolist()
    x = x[:, top : x.shape[1] - bottom, left : x.shape[2] - right]
    kh, kw, each, out = w.shape
    rows = (x.shape[1] - (kh - 1) * dilation[0] - 1) // strides[0] + 1
    columns = (x.shape[2] - (kw - 1) * dilation[1] - 1) // strides[1] + 1
    total = np.zeros((n, rows, columns, out), np.int64)
    for row in range(rows):
        for column in range(columns):
            top, left = row * strides[0], column * strides[1]
            window = x[:, top : top + kh * dilation[0] : dilation[0], left : left + kw * dilation[1] : dilation[1]]
            for o in range(out):
                first = (o // (out // groups)) * each
                part = window[:, :kh, :kw, first : first + each]
                total[:, row, column, o] = (part * w[..., o]).sum((1, 2, 3))
    return total


def add(a, b, grid_a, grid_b, grid):
    """tflite::reference_integer_ops::Add, from the real scales: both inputs shifted left by 20."""
    twice = 2 * max(grid_a.scale, grid_b.scale)
    scaled = [
        rescale((codes.astype(np.int64) - g.zero_point) << 20, *fixed_point(g.scale / twice))
        for codes, g in ((a, grid_a), (b, grid_b))
    ]
    out = rescale(scaled[0] + scaled[1], *fixed_point(twice / (2**20 * grid.scale)))
    return np.clip(out + grid.zero_point, grid.smallest, grid.largest)
