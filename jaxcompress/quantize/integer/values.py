"""What a value of the traced function is in the integer program.

A parameter, or what is computed from parameters alone, is `Known`. Data is `Codes` of a grid, or still open: the result
of contractions (`Contracted`) or a sum of codes (`Summed`), to which scales, biases and bounds are added until
something needs its codes. Only then is it rounded to a grid. So a BatchNorm goes into the weights and a ReLU into two
bounds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from jax.extend.core import JaxprEqn

from jaxcompress.quantize.integer.channels import Channels
from jaxcompress.quantize.integer.products import Conv, Dot

Arrays: TypeAlias = Mapping[int, np.ndarray]  # known values in float64, of size 1 along axes where they are constant


NO_CHANNELS = Channels((), ())


@dataclasses.dataclass(frozen=True)
class Known:
    """A value that no data enters, by its number."""

    value: int


@dataclasses.dataclass(frozen=True)
class Codes:
    """Integers on the grid of a site: ``(codes - zero_point) * scale``.

    Attributes:
        slot: where the array is at run time.
        grid: name of the site.
    """

    slot: int
    grid: str


@dataclasses.dataclass(frozen=True)
class Native:
    """Data that is no float in the traced function either, and stays what it is."""

    slot: int


@dataclasses.dataclass(frozen=True)
class Floating:
    """A value of the float tail."""

    slot: int


@dataclasses.dataclass(frozen=True)
class Factor:
    """What a value is multiplied by.

    Attributes:
        known: the factor, or None for -1.
        inverse: divides instead.
        channels: of the contraction that it scales; None for a sum of codes.
    """

    known: int | None
    inverse: bool = False
    channels: Channels | None = None

    def array(self, arrays: Arrays) -> np.ndarray:
        """The factor, for each channel of a contraction."""
        if self.known is None:
            return np.array(-1.0)
        array = arrays[self.known] if self.channels is None else self.channels.vector(arrays[self.known])
        return 1 / array if self.inverse else array


@dataclasses.dataclass(frozen=True)
class Addend:
    """What is added to a value, times factors that came later."""

    known: int
    factors: tuple[Factor, ...] = ()
    channels: Channels | None = None

    def array(self, arrays: Arrays) -> np.ndarray:
        """The addend, for each channel of a contraction."""
        array = arrays[self.known] if self.channels is None else self.channels.vector(arrays[self.known])
        return array * product(self.factors, arrays)


@dataclasses.dataclass(frozen=True)
class Product:
    """Codes contracted with a weight.

    Attributes:
        source: the codes.
        op: how.
        weight: the weight, a known value.
        factors: what scales the result.
        layout: what moved its entries since.
    """

    source: Codes
    op: Dot | Conv
    weight: int
    factors: tuple[Factor, ...] = ()
    layout: tuple[JaxprEqn, ...] = ()


@dataclasses.dataclass(frozen=True)
class Operand:
    """Codes, or sums over axes or windows of them.

    Attributes:
        source: the codes.
        reduce: the sum, if there is one.
        count: how many codes it takes at most.
        factors: what scales them.
        layout: what moved the sums' entries since.
    """

    source: Codes
    reduce: JaxprEqn | None = None
    count: int = 1
    factors: tuple[Factor, ...] = ()
    layout: tuple[JaxprEqn, ...] = ()


@dataclasses.dataclass(frozen=True)
class Open:
    """A value that has not been rounded to a grid yet.

    Attributes:
        shape: of the value.
        addends: what is added, per channel.
        bounds: ``("max" | "min", known value)``, in order; behind them nothing but further bounds is added.
        value: number of the value in the traced function.
    """

    shape: tuple[Any, ...]
    addends: tuple[Addend, ...] = ()
    bounds: tuple[tuple[str, int], ...] = ()
    value: int = -1


@dataclasses.dataclass(frozen=True)
class Contracted(Open):
    """Sums of products with weights over one int32, with a scale for every channel."""

    products: tuple[Product, ...] = ()
    channels: Channels = NO_CHANNELS

    def scaled(self, factor: Factor) -> Contracted:
        """Times a factor that varies along channels alone."""
        factor = dataclasses.replace(factor, channels=self.channels)
        return dataclasses.replace(
            self, products=with_factor(self.products, factor), addends=with_factor(self.addends, factor)
        )

    def plus(self, known: int) -> Contracted:
        """With an addend that varies along channels alone."""
        return dataclasses.replace(self, addends=(*self.addends, Addend(known, (), self.channels)))


@dataclasses.dataclass(frozen=True)
class Summed(Open):
    """A sum of codes, each times a factor."""

    operands: tuple[Operand, ...] = ()

    def scaled(self, factor: Factor) -> Summed:
        """Times any known factor."""
        return dataclasses.replace(
            self, operands=with_factor(self.operands, factor), addends=with_factor(self.addends, factor)
        )

    def plus(self, known: int) -> Summed:
        """With any known addend."""
        return dataclasses.replace(self, addends=(*self.addends, Addend(known)))


Value: TypeAlias = Known | Codes | Native | Floating | Contracted | Summed


def product(factors: tuple[Factor, ...], arrays: Arrays) -> np.ndarray:
    """All factors multiplied."""
    total = np.array(1.0)
    for factor in factors:
        total = total * factor.array(arrays)
    return total


def with_factor(parts: tuple[Any, ...], factor: Factor) -> Any:
    """Products, operands or addends with one more factor each."""
    return tuple(dataclasses.replace(part, factors=(*part.factors, factor)) for part in parts)
