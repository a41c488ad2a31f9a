"""Products with a kernel that is values times scales, in three forms.

* `scale_after`: the product with the values at scale 1, the scales on the result. Where the scales do not vary along
  the sum.
* `blocks`: a sum over blocks of the contraction, one of which is dense at a time. For any scales.
* `materialized`: the product with the dense kernel.

Each takes the leaf, the data and the numbers of `jax.lax.dot_general`, and returns its result, or ``None`` where the
form does not serve. The leaf is a `Scaled` one.
"""

from __future__ import annotations

import functools
import math
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.core.dtypes import wider
from jaxcompress.core.leaf import CompressedArray, is_compressed
from jaxcompress.quantize.forms import PLATFORMS, Call, by_platform, by_platform_text, weight_form
from jaxcompress.solvers.grid import spread, widened

Axes: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]

BLOCK_ELEMENTS = 1 << 18
"""Weights of a kernel that `blocks` makes dense at a time, where a block of one step of the scales is no larger."""


class Scaled(CompressedArray):
    """A leaf whose dense array is values times scales; the base of the kinds here.

    Attributes:
        scale: float; as many axes as the array, the size of each dividing its.
    """

    scale: jax.Array

    def unscaled(self, dtype: Any) -> jax.Array:
        """The values at scale 1, of the dense shape."""
        raise NotImplementedError(f"{type(self).__name__} must define unscaled()")

    def slow_in_loops(self, contracted: tuple[int, ...]) -> bool:
        """Whether XLA's code for `unscaled` in the body of a loop is several times slower than outside, on a CPU."""
        del contracted
        return False

    def astype(self, dtype: Any) -> Any:
        """The same values and scales with a dense array of another dtype."""
        return self.replace(dtype=jnp.dtype(dtype))

    def matmul(
        self,
        x: jax.Array,
        *,
        contract: Axes,
        batch: Axes,
        precision: Any = None,
        preferred_element_type: Any = None,
    ) -> jax.Array | None:
        """The product in the form that `jaxcompress.quantize.forms` names for its shape, ``None`` for the dense one."""
        options = {"precision": precision, "preferred_element_type": preferred_element_type}
        after = self._constant_along(contract[1])
        numbers, in_blocks = {"contract": contract, "batch": batch}, self._in_blocks(x, contract, batch)
        if not in_blocks:
            return scale_after(self, x, **numbers, **options) if after else None
        if x.dtype != self.dtype:
            return None
        block_form: Any = functools.partial(blocks, **numbers, **options)
        other: Any = functools.partial(scale_after if after else materialized, **numbers, **options)
        return by_platform(lambda platform: platform in in_blocks, block_form, other, self, x)

    def how(self, x: Any, *, contract: Axes, batch: Axes) -> str:
        """Names the form, or the forms by platform."""
        other = "scale_after" if self._constant_along(contract[1]) else "materialize"
        in_blocks = self._in_blocks(x, contract, batch)
        return f"{self.kind} matmul, {by_platform_text(lambda p: 'blocks' if p in in_blocks else other)}"

    def _constant_along(self, axes: tuple[int, ...]) -> bool:
        return all(self.scale.shape[axis] == 1 for axis in axes)

    def _in_blocks(self, x: Any, contract: Axes, batch: Axes) -> list[str]:
        """The platforms on which the product is one of blocks."""
        if not can_block(self, x, contract) or self.slow_in_loops(contract[1]):
            return []
        call = Call.of_matmul(x, self, contract, batch)
        return [platform for platform in PLATFORMS if weight_form(platform, call) == "blocks"]

    def conv(self, x: jax.Array, **params: Any) -> jax.Array | None:
        """Convolves with the values and applies the scale to the result, where it varies by output feature alone."""
        return conv_scale_after(self, x, **params)


def scale_after(
    leaf: Scaled,
    x: jax.Array,
    contract: Axes,
    batch: Axes,
    *,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> jax.Array | None:
    """``(x . values) * scale``: one product with the values at scale 1, which is exact for integers in the dtype of x.

    Returns:
        The product, or ``None`` where the scale varies along the sum or ``x`` is of another dtype than the leaf.
    """
    if any(leaf.scale.shape[axis] != 1 for axis in contract[1]) or x.dtype != leaf.dtype:
        return None
    out_dtype = jnp.dtype(preferred_element_type or x.dtype)
    out = lax.dot_general(
        x,
        leaf.unscaled(x.dtype),
        (contract, batch),
        precision=precision,
        preferred_element_type=wider(out_dtype, widened(leaf.scale).dtype),
    )
    return (out * _placed(_where_it_varies(leaf), x.ndim, contract, batch).astype(out.dtype)).astype(out_dtype)


def blocks(
    leaf: Scaled,
    x: jax.Array,
    contract: Axes,
    batch: Axes,
    *,
    precision: Any = None,
    preferred_element_type: Any = None,
    block_elements: int = BLOCK_ELEMENTS,
) -> jax.Array | None:
    """A sum of products with blocks of the kernel along the longest contracted axis, each made dense in its turn.

    No dense float copy of the kernel exists at any time, in the gradient neither: it makes the blocks anew. Scales that
    do not vary along the sum are applied in the end, as `scale_after` does.

    Args:
        leaf: the kernel.
        x: dense operand.
        contract: ``(axes of x, axes of the leaf)`` summed over.
        batch: ``(axes of x, axes of the leaf)`` kept in step.
        precision: as in `jax.lax.dot_general`.
        preferred_element_type: as in `jax.lax.dot_general`.
        block_elements: weights that may be dense at a time; a block is at least one step of the scales.

    Returns:
        The product, or ``None`` where nothing is summed over, the axis cannot be cut at the steps of all fields, or
        ``x`` is of another dtype than the leaf.
    """
    if not can_block(leaf, x, contract):
        return None
    axis = _longest(leaf, contract)
    size = block_size(leaf, axis, block_elements)
    x_axis = contract[0][contract[1].index(axis)]
    out_dtype = jnp.dtype(preferred_element_type or x.dtype)
    wide = wider(out_dtype, widened(leaf.scale).dtype)
    in_the_end = all(leaf.scale.shape[other] == 1 for other in contract[1])

    @jax.checkpoint
    def of_block(leaf: Scaled, x: jax.Array, index: jax.Array) -> jax.Array:
        start = index * jnp.asarray(size, index.dtype)
        part, kernel = lax.dynamic_slice_in_dim(x, start, size, x_axis), window(leaf, axis, start, size)
        dense = kernel.unscaled(x.dtype) if in_the_end else kernel.materialize()
        return lax.dot_general(part, dense, (contract, batch), precision=precision, preferred_element_type=wide)

    shape = jax.eval_shape(of_block, leaf, x, jnp.int32(0))
    total, _ = lax.scan(
        lambda total, index: (total + of_block(leaf, x, index), None),
        jnp.zeros(shape.shape, shape.dtype),
        jnp.arange(leaf.shape[axis] // size, dtype=jnp.int32),
    )
    if in_the_end:
        total = total * _placed(_where_it_varies(leaf), x.ndim, contract, batch).astype(total.dtype)
    return total.astype(out_dtype)


def materialized(
    leaf: CompressedArray,
    x: jax.Array,
    contract: Axes,
    batch: Axes,
    *,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> jax.Array:
    """The product with the dense kernel."""
    kernel = leaf.materialize()
    return lax.dot_general(
        x, kernel, (contract, batch), precision=precision, preferred_element_type=preferred_element_type
    )


def conv_scale_after(leaf: Scaled, x: jax.Array, **params: Any) -> jax.Array | None:
    """A convolution with the values at scale 1, the scale on the result.

    Returns:
        The result, or ``None`` where the scale varies by more than output feature or ``x`` is of another dtype than the
        leaf.
    """
    numbers = params["dimension_numbers"]
    feature = numbers.rhs_spec[0]
    varies = any(size != 1 for axis, size in enumerate(leaf.scale.shape) if axis != feature)
    if varies or x.dtype != leaf.dtype:
        return None
    out_dtype = jnp.dtype(params["preferred_element_type"] or x.dtype)
    params |= {"preferred_element_type": wider(out_dtype, widened(leaf.scale).dtype)}
    out = lax.conv_general_dilated_p.bind(x, leaf.unscaled(x.dtype), **params)
    shape = [1] * out.ndim
    shape[numbers.out_spec[1]] = -1
    return (out * _where_it_varies(leaf).reshape(shape).astype(out.dtype)).astype(out_dtype)


def can_block(leaf: Scaled, x: jax.Array, contract: Axes) -> bool:
    """Whether `blocks` serves: something is summed over, and the steps of all fields divide its longest axis."""
    if not contract[1] or x.dtype != leaf.dtype or 0 in leaf.shape:
        return False
    axis = _longest(leaf, contract)
    return leaf.shape[axis] % _granule(leaf, axis) == 0


def _longest(leaf: Scaled, contract: Axes) -> int:
    return max(contract[1], key=lambda axis: leaf.shape[axis])


def block_size(leaf: CompressedArray, axis: int, block_elements: int = BLOCK_ELEMENTS) -> int:
    """Entries along an axis of a block of at most ``block_elements`` weights, in steps of the leaf's fields."""
    size, step = leaf.shape[axis], _granule(leaf, axis)
    rest = leaf.size // size
    fitting = [n for n in range(step, size + 1, step) if size % n == 0 and n * rest <= block_elements]
    return max(fitting, default=step)


def window(leaf: Any, axis: int, start: jax.Array, size: int) -> Any:
    """The leaf of ``size`` entries of the dense array from ``start`` along one axis, both multiples of its steps."""
    changes: dict[str, Any] = {}
    for name, axes in leaf.alignment().items():
        field: Any = getattr(leaf, name)
        whole = leaf.shape[axis]
        if axis not in axes or field.shape[axes.index(axis)] == 1:
            continue
        at, step = axes.index(axis), whole // field.shape[axes.index(axis)]
        begin = start // jnp.asarray(step, start.dtype)
        changes[name] = (
            field.window(at, begin, size // step)
            if is_compressed(field)
            else lax.dynamic_slice_in_dim(field, begin, size // step, at)
        )
    return leaf.replace(**changes)


def _granule(leaf: CompressedArray, axis: int) -> int:
    """The smallest step along an axis at which every field can be cut."""
    steps = [1]
    for name, axes in leaf.alignment().items():
        field: Any = getattr(leaf, name)
        if axis not in axes or field.shape[axes.index(axis)] == 1:
            continue
        own = field.granule(axes.index(axis)) if is_compressed(field) else 1
        steps.append(leaf.shape[axis] // field.shape[axes.index(axis)] * own)
    return math.lcm(*steps)


def _placed(scale: jax.Array, x_ndim: int, contract: Axes, batch: Axes) -> jax.Array:
    """A scale of size 1 along the sum, laid out against the result of a product: batch, free of x, free of the leaf."""
    batches, x_free = len(batch[1]), x_ndim - len(batch[0]) - len(contract[0])
    free = [axis for axis in range(scale.ndim) if axis not in {*contract[1], *batch[1]}]
    moved = lax.transpose(scale, (*batch[1], *free, *contract[1]))
    return moved.reshape(*moved.shape[:batches], *(1,) * x_free, *moved.shape[batches : batches + len(free)])


def _where_it_varies(leaf: Scaled) -> jax.Array:
    """The scale in full along every axis on which it varies."""
    shape = tuple(1 if s == 1 else n for s, n in zip(leaf.scale.shape, leaf.shape, strict=True))
    return spread(widened(leaf.scale), shape)
