"""Products of quantized data with quantized weights: integers times integers, the scales after the sum.

Both sides are ``(codes - zero_point) * scale`` with scales that are constant along the sum. The sum over the codes is
an int32; what the zero points add to it are sums over the codes of one side (Jacob et al., 2018, equation 7). It is
exact for up to `LONGEST_SUM` summands of 8 bits whatever they are; without zero points for four times as many.

References:
    Jacob et al., 2018, section 2.3. https://arxiv.org/abs/1712.05877
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.core.dtypes import wider

Axes = tuple[tuple[int, ...], tuple[int, ...]]

LONGEST_SUM = 2**15
"""Products of integers of magnitude 255 or less whose sum surely fits into an int32."""


class Codes(NamedTuple):
    """Integers and where their grid lies, arrays of as many axes: ``(codes - zero_point) * scale``.

    Attributes:
        codes: int8.
        scale: float, sizes 1 or whole.
        zero_point: int32, sizes 1 or whole; None: zero.
    """

    codes: jax.Array
    scale: jax.Array
    zero_point: jax.Array | None = None

    def decode(self) -> jax.Array:
        """The values, in the dtype of the scale."""
        codes = self.codes.astype(self.scale.dtype)
        if self.zero_point is not None:
            codes = codes - jnp.broadcast_to(self.zero_point, codes.shape).astype(codes.dtype)
        return codes * jnp.broadcast_to(self.scale, codes.shape)


def integer_matmul(x: Codes, w: Codes, contract: Axes, batch: Axes) -> jax.Array:
    """``dot_general(x, w)`` of the values, in float32 (float64 if a scale is).

    Args:
        x: data; scale and zero point of size 1 along the contracted axes.
        w: weight, likewise.
        contract: as in `jax.lax.dot_general`.
        batch: likewise.

    Example:
        >>> x = Codes(jnp.array([[1, 2]], jnp.int8), jnp.array([[0.5]]))
        >>> w = Codes(jnp.array([[3], [4]], jnp.int8), jnp.array([[2.0]]), jnp.array([[1]], jnp.int32))
        >>> integer_matmul(x, w, ((1,), (0,)), ((), ())).tolist()  # 0.5 * (1 * 2 + 2 * 3) * 2
        [[8.0]]
    """
    total = lax.dot_general(x.codes, w.codes, (contract, batch), preferred_element_type=jnp.int32)
    place_x, place_w = _places(x.codes.ndim, w.codes.ndim, contract, batch)
    if x.zero_point is not None or w.zero_point is not None:
        count = 1
        for axis in contract[0]:
            count *= x.codes.shape[axis]
        zero_x = None if x.zero_point is None else place_x(x.zero_point)
        zero_w = None if w.zero_point is None else place_w(w.zero_point)
        if zero_x is not None:
            total = total - zero_x * place_w(_sums(w.codes, contract[1], batch[1]))
        if zero_w is not None:
            total = total - zero_w * place_x(_sums(x.codes, contract[0], batch[0]))
        if zero_x is not None and zero_w is not None:
            total = total + zero_x * zero_w * count
    return _times(total, place_x(x.scale), place_w(w.scale))


def integer_conv(x: Codes, w: Codes, **params: Any) -> jax.Array:
    """A convolution of the values, in float32 (float64 if a scale is); padding stands for zeros.

    Args:
        x: data; one scale and zero point for each entry along the batch axis, or one for all.
        w: kernel; scale and zero point of size 1 but along the output features.
        **params: of `jax.lax.conv_general_dilated`, dimension numbers as `ConvDimensionNumbers`.
    """
    numbers = params["dimension_numbers"]
    batch, feature = numbers.out_spec[0], numbers.out_spec[1]
    params |= {"preferred_element_type": jnp.dtype(jnp.int32)}

    def place(array: jax.Array, axis: int, to: int) -> jax.Array:
        shape = [1] * x.codes.ndim
        shape[to] = array.shape[axis]
        return array.reshape(shape)

    def conv(x: jax.Array, w: jax.Array) -> jax.Array:
        return lax.conv_general_dilated_p.bind(x, w, **params)

    total = conv(x.codes, w.codes)
    x_batch, w_out = numbers.lhs_spec[0], numbers.rhs_spec[0]
    ones_x = jnp.ones_like(lax.slice_in_dim(x.codes, 0, 1, axis=x_batch))  # what the padding does not cover
    ones_w = jnp.ones_like(w.codes)
    zero_x = None if x.zero_point is None else place(x.zero_point, x_batch, batch)
    zero_w = None if w.zero_point is None else place(w.zero_point, w_out, feature)
    if zero_x is not None:
        total = total - zero_x * conv(ones_x, w.codes)
    if zero_w is not None:
        total = total - zero_w * conv(x.codes, ones_w)
    if zero_x is not None and zero_w is not None:
        total = total + zero_x * zero_w * conv(ones_x, ones_w)
    return _times(total, place(x.scale, x_batch, batch), place(w.scale, w_out, feature))


def _times(total: jax.Array, *scales: jax.Array) -> jax.Array:
    """The integers times both scales, in float32 or the widest dtype of a scale."""
    dtype = wider(jnp.float32, *(scale.dtype for scale in scales))
    first, second = (scale.astype(dtype) for scale in scales)
    return total.astype(dtype) * (first * second)


def _sums(codes: jax.Array, axes: tuple[int, ...], batch: tuple[int, ...]) -> jax.Array:
    """Sums along ``axes``, kept with size 1; a product with ones, which is faster than adding up 8-bit integers."""
    shape = [codes.shape[axis] for axis in (*batch, *axes)]
    ones = jnp.ones(shape, codes.dtype)
    numbers = ((tuple(range(len(batch), len(shape))), axes), (tuple(range(len(batch))), batch))
    sums = lax.dot_general(ones, codes, numbers, preferred_element_type=jnp.int32)
    free = [axis for axis in range(codes.ndim) if axis not in {*axes, *batch}]
    order = [(*batch, *free).index(axis) for axis in range(codes.ndim) if axis not in axes]
    return jnp.expand_dims(lax.transpose(sums, order), axes)


def _places(x_ndim: int, w_ndim: int, contract: Axes, batch: Axes) -> tuple[Any, Any]:
    """Functions that bring arrays of the axes of ``x`` or ``w``, of size 1 where contracted, to those of the result."""
    free_x = [axis for axis in range(x_ndim) if axis not in {*contract[0], *batch[0]}]
    free_w = [axis for axis in range(w_ndim) if axis not in {*contract[1], *batch[1]}]
    batches = len(batch[0])

    def place_x(array: jax.Array) -> jax.Array:
        moved = lax.transpose(array, (*batch[0], *free_x, *contract[0]))
        return moved.reshape(*moved.shape[: batches + len(free_x)], *(1,) * len(free_w))

    def place_w(array: jax.Array) -> jax.Array:
        moved = lax.transpose(array, (*batch[1], *free_w, *contract[1]))
        kept = moved.shape[: batches + len(free_w)]
        return moved.reshape(*kept[:batches], *(1,) * len(free_x), *kept[batches:])

    return place_x, place_w
