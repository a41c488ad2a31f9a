"""The leaf kind of canonical decompositions: a sum of products of vectors, one along each group of axes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress.core.leaf import ArrayOrLeaf, CompressedArray, is_compressed, leaf_kind
from jaxcompress.core.lift import lift
from jaxcompress.factorize import network as networks
from jaxcompress.factorize.depthwise import Window, depthwise
from jaxcompress.factorize.network import Network
from jaxcompress.solvers.contraction import contract

FACTORS = 8


@leaf_kind("cp", trainable=tuple(f"factor{k}" for k in range(FACTORS)), priority=2)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class CPTensor(CompressedArray):
    """A sum of ``rank`` products: ``W[i, j, k] = sum_r factor0[i, r] factor1[j, r] factor2[k, r]``.

    Every factor belongs to one dense axis or to several (the window of a convolution as one). A contraction with data
    meets the factors one by one, in the order of the fewest multiplications. A convolution becomes one to ``rank``
    features per pixel, a window for each of these, and another product per pixel.

    Attributes:
        factor0: ``stack + sizes of its axes + (rank,)``; an array, or a leaf again.
        factor1: likewise, and so on; absent ones are None.
        axes: for each factor its dense axes, counted after the stack.
    """

    factor0: ArrayOrLeaf
    factor1: ArrayOrLeaf
    factor2: ArrayOrLeaf | None = None
    factor3: ArrayOrLeaf | None = None
    factor4: ArrayOrLeaf | None = None
    factor5: ArrayOrLeaf | None = None
    factor6: ArrayOrLeaf | None = None
    factor7: ArrayOrLeaf | None = None
    axes: tuple[tuple[int, ...], ...] = dataclasses.field(default=((0,), (1,)), metadata={"static": True})

    @classmethod
    def create(cls, factors: Sequence[ArrayOrLeaf], axes: Sequence[Sequence[int]] | None = None) -> Self:
        """Checks the factors.

        Args:
            factors: 2 to 8 of one float dtype, each ``stack + sizes of its axes + (rank,)``.
            axes: for each of them its dense axes, counted after the stack; by default one each, in order.

        Raises:
            TypeError: if a factor is not float, or the dtypes differ.
            ValueError: if the number of factors, ``axes`` or the shapes do not fit.

        Example:
            >>> leaf = CPTensor.create([jnp.array([[1.0], [2.0]]), jnp.array([[3.0]]), jnp.array([[1.0], [0.5]])])
            >>> leaf.materialize().tolist(), leaf.rank, leaf.stored_bits
            ([[[3.0, 1.5]], [[6.0, 3.0]]], 1, 160)
        """
        owned = tuple((k,) for k in range(len(factors))) if axes is None else tuple(map(tuple, axes))
        if not 2 <= len(factors) <= FACTORS:
            raise ValueError(f"factors must be 2 to {FACTORS}, got {len(factors)}")
        if len({f.dtype for f in factors}) > 1 or not jnp.issubdtype(factors[0].dtype, jnp.floating):
            raise TypeError(f"factors must be of one float dtype, got {[str(f.dtype) for f in factors]}")
        flat = [axis for own in owned for axis in own]
        if len(owned) != len(factors) or sorted(flat) != list(range(len(flat))) or not all(owned):
            raise ValueError(f"axes must give each of {len(factors)} factors its own dense axes, got {owned}")
        stacks = [f.ndim - len(own) - 1 for f, own in zip(factors, owned, strict=True)]
        if min(stacks) < 0 or len({(f.shape[:n], f.shape[-1]) for f, n in zip(factors, stacks, strict=True)}) > 1:
            raise ValueError(
                f"factors must have the shapes stack + sizes of their axes + (rank,), with axes={owned}; got "
                f"{[f.shape for f in factors]}"
            )
        held = [f if is_compressed(f) else jnp.asarray(f) for f in factors]
        return cls(*held, *(None,) * (FACTORS - len(held)), axes=owned)

    @property
    def factors(self) -> tuple[ArrayOrLeaf, ...]:
        """Those that there are."""
        return tuple(self.components().values())

    @property
    def rank(self) -> int:
        """Number of products in the sum."""
        return self.factor0.shape[-1]

    @property
    def stack_ndim(self) -> int:
        """Number of leading axes that hold separate tensors."""
        return len(self.factor0.shape) - len(self.axes[0]) - 1

    def alignment(self) -> Mapping[str, tuple[int | None, ...]]:
        """Each factor holds the stack and its own axes; the rank is nobody's."""
        stack = self.stack_ndim
        names = self.components()
        return {
            name: (*range(stack), *(stack + axis for axis in own), None)
            for name, own in zip(names, self.axes, strict=True)
        }

    @property
    def dtype(self) -> np.dtype:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Dtype of the factors."""
        return self.factor0.dtype

    def _network(self) -> Network:
        shape = self.shape
        names = tuple(
            tuple(len(shape) if axis is None else axis for axis in axes) for axes in self.alignment().values()
        )
        return Network(names, tuple((axis,) for axis in range(len(shape))), shape, shape)

    def materialize(self) -> jax.Array:
        """The sum, at the highest precision of the device."""
        arrays = [f.materialize() if isinstance(f, CompressedArray) else f for f in self.factors]
        return networks.materialize(self._network(), arrays)

    def astype(self, dtype: Any) -> Self | None:
        """The same factors in another dtype."""
        cast = {name: factor.astype(dtype) for name, factor in self.components().items()}
        return None if any(factor is None for factor in cast.values()) else self.replace(**cast)

    def matmul(self, x: jax.Array, **numbers: Any) -> jax.Array | None:
        """One factor after the other in the cheapest order; any axis may be summed or in step."""
        return None if x.dtype != self.dtype else networks.matmul(self._network(), self.factors, x, **numbers)

    def how(self, x: Any, *, contract: Any, batch: Any) -> str:
        """The number of products and of multiplications."""
        return networks.how(self.kind, self._network(), self.factors, x, contract=contract, batch=batch)

    def conv(self, x: jax.Array, **params: Any) -> jax.Array | None:
        """A product per pixel, a window for each of ``rank`` features, a product per pixel; grouped ones too.

        The input and the output features must have a factor each, the window one or several.
        """
        numbers = params["dimension_numbers"].rhs_spec
        parts = [tuple(numbers.index(axis) for axis in own) for own in self.axes]  # 0: output, 1: input, then window
        alone = (0,) in parts and (1,) in parts
        if self.stack_ndim or not alone or params["batch_group_count"] != 1 or x.dtype != self.dtype:
            return None
        fn: Any = _LIFTED_CONV if any(map(is_compressed, self.factors)) else _conv
        return fn(self.factors, x, _Options(tuple(parts), tuple(params.items())))


@dataclasses.dataclass(frozen=True)
class _Options:
    """What a convolution is, as one hashable argument."""

    parts: tuple[tuple[int, ...], ...]
    items: tuple[tuple[str, Any], ...]


def _conv(factors: Sequence[jax.Array], x: jax.Array, options: _Options) -> jax.Array:
    """To ``rank`` features, windows along them, and out; in between ``[batch, *spatial, group, rank]``."""
    params, parts = dict(options.items), options.parts
    numbers, groups, precision = params["dimension_numbers"], params["feature_group_count"], params["precision"]
    of_input, of_output = (factors[parts.index((side,))] for side in (1, 0))
    windows = [
        Window(params["window_strides"][i], tuple(params["padding"][i]), params["lhs_dilation"][i], dilation)
        for i, dilation in enumerate(params["rhs_dilation"])
    ]
    n = len(windows)
    batch, feature, *spatial = numbers.lhs_spec
    x = lax.transpose(x, (batch, *spatial, feature))
    x = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    kept = tuple(range(n + 2))
    z = contract([x, of_input], [(*kept, n + 2), (n + 2, n + 3)], (*kept, n + 3), precision=precision)
    sliding = [(tuple(i - 2 for i in part), f) for part, f in zip(parts, factors, strict=True) if min(part) > 1]
    for own, factor in sorted(sliding, key=lambda pair: -math.prod(windows[i].stride for i in pair[0])):
        z = depthwise(z, factor, [1 + i for i in own], [windows[i] for i in own])
    out = of_output.reshape(groups, of_output.shape[0] // groups, of_output.shape[1])
    y = contract(
        [z, out],
        [(*kept, n + 3), (n + 1, n + 4, n + 3)],
        (*kept, n + 4),
        precision=precision,
        preferred_element_type=params["preferred_element_type"],
    )
    y = y.reshape(*y.shape[:-2], y.shape[-2] * y.shape[-1])
    order = [0] * y.ndim
    for position, axis in enumerate((numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])):
        order[axis] = position
    return lax.transpose(y, order)


_LIFTED_CONV = lift(_conv)
