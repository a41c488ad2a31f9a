"""Leaf kinds that quantize the data too: the product of a quantized weight with quantized activations.

Dynamic: the scale of every row comes from the row, when it is there. Static: one scale per site, fixed by calibration.
Either way the reference is the *fake* form, which rounds the data to the grid and multiplies floats; the integer form
multiplies codes and gives the same up to rounding. Gradients pass the rounding straight through.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.core.dtypes import wider
from jaxcompress.core.leaf import ArrayOrLeaf, CompressedArray, dense, leaf_kind
from jaxcompress.quantize.affine import Quantized
from jaxcompress.quantize.around_weight import AroundWeight
from jaxcompress.quantize.forms import Call, by_platform, by_platform_text, takes_integers
from jaxcompress.quantize.integer_product import Axes, Codes, integer_conv, integer_matmul
from jaxcompress.solvers.grid import largest_code, or_one, quantize, spread

NO_BATCH: Axes = ((), ())


class QuantizedInput(AroundWeight):
    """What the two kinds share: a weight, and a grid for what it meets.

    Attributes:
        weight: the weight, usually quantized; it is what `materialize` gives.
        bits: of the activations' codes, 2 to 8.
        form: ``"auto"``, ``"integer"`` or ``"fake"``, see `jaxcompress.quantize.forms`.
    """

    weight: ArrayOrLeaf
    bits: int
    form: str

    def encode(self, x: jax.Array, axes: tuple[int, ...], batch: Axes) -> Codes:
        """The codes of the data, with scales of size 1 along ``axes``."""
        raise NotImplementedError(f"{type(self).__name__} must define encode()")

    def matmul(
        self, x: jax.Array, *, contract: Axes, batch: Axes, precision: Any = None, preferred_element_type: Any = None
    ) -> jax.Array | None:
        """Rounds the data, then multiplies codes or floats."""
        if x.dtype != self.dtype:
            return None
        options = {"precision": precision, "preferred_element_type": preferred_element_type}

        def fake(x: jax.Array, leaf: Self) -> jax.Array:
            return leaf.weight_matmul(leaf._rounded(x, contract[0], batch), contract, batch, **options)

        def integer(x: jax.Array, leaf: Self) -> jax.Array:
            out = integer_matmul(leaf.encode(x, contract[0], batch), _known_codes(leaf), contract, batch)
            return out.astype(preferred_element_type or x.dtype)

        return self._choose(x, fake, integer, contract[1], Call.of_matmul(x, self, contract, batch))

    def how(self, x: Any, *, contract: Axes, batch: Axes) -> str:
        """Names the form, or the forms by platform."""
        call = Call.of_matmul(x, self, contract, batch)
        integers = self._has_integers(contract[1])
        chosen = lambda p: self.form if self.form != "auto" else "integer" if takes_integers(p, call) else "fake"  # noqa: E731
        return f"{self.kind} matmul, {by_platform_text(chosen if integers else lambda p: 'fake')}"

    def conv(self, x: jax.Array, **params: Any) -> jax.Array | None:
        """Rounds the data, then convolves codes or floats. A dynamic scale is that of an example."""
        numbers = params["dimension_numbers"]
        if x.dtype != self.dtype or params["batch_group_count"] != 1:
            return None
        example = tuple(numbers.lhs_spec[1:])

        def fake(x: jax.Array, leaf: Self) -> jax.Array:
            return leaf.weight_conv(leaf._rounded(x, example, NO_BATCH), **params)

        def integer(x: jax.Array, leaf: Self) -> jax.Array:
            out = integer_conv(leaf.encode(x, example, NO_BATCH), _known_codes(leaf), **params)
            return out.astype(params["preferred_element_type"] or x.dtype)

        return self._choose(x, fake, integer, tuple(numbers.rhs_spec[1:]), Call.of_conv(x, self, params))

    def _has_integers(self, summed: tuple[int, ...]) -> bool:
        """Whether the weight is integers times scales that are constant along the sum."""
        codes = jax.eval_shape(lambda leaf: _codes(leaf.weight), self)
        return codes is not None and all(codes.scale.shape[axis] == 1 for axis in summed)

    def _rounded(self, x: jax.Array, axes: tuple[int, ...], batch: Axes) -> jax.Array:
        """The data on the grid, in its own dtype; the gradient is that of the identity."""
        values = self.encode(lax.stop_gradient(x), axes, batch).decode().astype(x.dtype)
        return _through(x, values)

    def _choose(
        self, x: jax.Array, fake: Callable[..., Any], integer: Callable[..., Any], summed: tuple[int, ...], call: Call
    ) -> jax.Array:
        """The form that fits; that of integers has the gradient of the other."""
        if not self._has_integers(summed):
            if self.form == "integer":
                raise ValueError(
                    f"form='integer' needs weights of integers whose scale is constant along the sum, got {self!r}"
                )
            return fake(x, self)
        with_gradient = jax.custom_jvp(integer)
        with_gradient.defjvp(lambda primals, tangents: (integer(*primals), jax.jvp(fake, primals, tangents)[1]))
        if self.form != "auto":
            return (with_gradient if self.form == "integer" else fake)(x, self)
        return by_platform(lambda platform: takes_integers(platform, call), with_gradient, fake, x, self)


@leaf_kind("dynamic_input", priority=2)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DynamicActivations(QuantizedInput):
    """A weight that meets its data on symmetric grids, one for every row (of a convolution: every example).

    Attributes:
        weight: the weight, usually quantized.
        bits: of the activations' codes, 2 to 8.
        form: ``"auto"``, ``"integer"`` or ``"fake"``, see `jaxcompress.quantize.forms`.
    """

    weight: ArrayOrLeaf
    bits: int = dataclasses.field(metadata={"static": True})
    form: str = dataclasses.field(default="auto", metadata={"static": True})

    def alignment(self) -> Mapping[str, tuple[int | None, ...]]:
        """The weight runs along the dense axes."""
        return {"weight": tuple(range(len(self.weight.shape)))}

    def encode(self, x: jax.Array, axes: tuple[int, ...], batch: Axes) -> Codes:
        """Scales that reach the largest absolute value along ``axes``."""
        del batch
        wide = x.astype(wider(x.dtype, jnp.float32))
        top = jnp.asarray(largest_code(self.bits), wide.dtype)
        scale = or_one(jnp.max(jnp.abs(wide), axis=axes, keepdims=True, initial=0) / top)
        return Codes(quantize(wide, scale, bits=self.bits).astype(jnp.int8), scale)


@leaf_kind("static_input", priority=2)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class StaticActivations(QuantizedInput):
    """A weight that meets its data on grids that calibration has fixed, one for each of its sites.

    Data beyond the range is clipped, infinities too; NaN has no code and becomes an arbitrary one. Dynamic grids let
    NaN through.

    Attributes:
        weight: the weight, usually quantized.
        scale: float, ``[stack..., sites]``.
        zero_point: int8, the code of zero, of the scale's shape; all zero for symmetric grids.
        bits: of the activations' codes, 2 to 8.
        sites: the numbers of the calibrated uses of the leaf, as `jaxcompress.sites` lists them.
        form: ``"auto"``, ``"integer"`` or ``"fake"``, see `jaxcompress.quantize.forms`.
    """

    weight: ArrayOrLeaf
    scale: jax.Array
    zero_point: jax.Array
    bits: int = dataclasses.field(metadata={"static": True})
    sites: tuple[int, ...] = dataclasses.field(default=(0,), metadata={"static": True})
    form: str = dataclasses.field(default="auto", metadata={"static": True})

    def alignment(self) -> Mapping[str, tuple[int | None, ...]]:
        """The weight runs along the dense axes, of the others' axes the stack does."""
        grid = (*range(len(self.scale.shape) - 1), None)
        return {"weight": tuple(range(len(self.weight.shape))), "scale": grid, "zero_point": grid}

    def at_site(self, index: int) -> Self:
        """The leaf with the grid of one site.

        Raises:
            ValueError: if that site was not calibrated.
        """
        if index not in self.sites:
            raise ValueError(
                f"a weight of shape {self.shape} meets data at its site {index}, where its activations were never "
                f"calibrated (calibrated: {list(self.sites)}): observe the call that is made here, and quantize anew"
            )
        at = self.sites.index(index)
        weight = self.weight.at_site(index) if isinstance(self.weight, CompressedArray) else self.weight
        scale, zero = (field[..., at : at + 1] for field in (self.scale, self.zero_point))
        return self.replace(weight=weight, scale=scale, zero_point=zero, sites=(index,))

    def encode(self, x: jax.Array, axes: tuple[int, ...], batch: Axes) -> Codes:
        """The codes on the grid of the site."""
        del axes
        if len(self.sites) > 1:
            raise ValueError(f"the grid of a site is needed, of {self.sites}: call at_site first")
        shape = [1] * x.ndim
        for axis, size in enumerate(self.scale.shape[:-1]):
            if axis in batch[1]:
                shape[batch[0][batch[1].index(axis)]] = size
            elif size > 1:
                raise ValueError(
                    f"the {size} layers along axis {axis} of a weight of shape {self.shape} have grids of their own, "
                    "and one product meets all of them"
                )
        # The stack of the data may be in another order than the leaf's: sizes are placed axis by axis.
        order = sorted(range(self.scale.ndim - 1), key=lambda axis: _place(axis, batch))
        scale, zero = (jnp.transpose(field[..., 0], order).reshape(shape) for field in (self.scale, self.zero_point))
        wide = wider(x.dtype, scale.dtype)
        codes = quantize(x.astype(wide), scale.astype(wide), zero, bits=self.bits).astype(jnp.int8)
        return Codes(codes, scale, zero.astype(jnp.int32))


def _place(axis: int, batch: Axes) -> int:
    return batch[0][batch[1].index(axis)] if axis in batch[1] else -1


@jax.custom_jvp
def _through(x: jax.Array, values: jax.Array) -> jax.Array:
    """``values`` with the gradient of ``x``."""
    del x
    return values


_through.defjvp(lambda primals, tangents: (primals[1], tangents[0]))


def _known_codes(leaf: QuantizedInput) -> Codes:
    codes = _codes(leaf.weight)
    assert codes is not None, "the form of integers is chosen for weights that have some"
    return codes


def _codes(leaf: ArrayOrLeaf) -> Codes | None:
    """The integers of a weight, of a masked one with the code of zero where it is pruned; None if it has none."""
    if isinstance(leaf, Quantized):
        values = dense(leaf.qvalue)
        if not jnp.issubdtype(values.dtype, jnp.integer):
            return None
        zero = getattr(leaf, "zero_point", None)
        shape = tuple(1 if s == 1 else n for s, n in zip(leaf.scale.shape, leaf.shape, strict=True))
        wide = None if zero is None else spread(zero.astype(jnp.int32), shape)
        return Codes(values.astype(jnp.int8), spread(leaf.scale, shape), wide)
    if not isinstance(leaf, CompressedArray):
        return None
    held = list(leaf.components().values())
    inside = [field for field in held if isinstance(field, CompressedArray)]
    if len(inside) != 1 or any(field.dtype != jnp.bool_ for field in held if field is not inside[0]):
        return None
    codes, support = _codes(inside[0]), leaf.support()
    if codes is None or len(held) == 1:  # a leaf around a leaf and no more: another form of the same weight
        return codes
    if support is None:
        return None
    zero = jnp.zeros((), jnp.int8) if codes.zero_point is None else codes.zero_point.astype(jnp.int8)
    return codes._replace(codes=jnp.where(support, codes.codes, jnp.broadcast_to(zero, codes.codes.shape)))
