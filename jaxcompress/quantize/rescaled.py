"""The leaf kind of weights whose inputs are rescaled: what the data are multiplied by, the weight was divided by."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress.core.dtypes import wider
from jaxcompress.core.leaf import ArrayOrLeaf, CompressedArray, dense, is_compressed, leaf_kind
from jaxcompress.core.paths import flatten_with_paths, replace_at

Axes = tuple[tuple[int, ...], tuple[int, ...]]


@leaf_kind("rescaled", trainable=("values",), priority=2)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Rescaled(CompressedArray):
    """An array times a factor per input: ``materialize() == values * factor``.

    Where the factor varies along contracted axes, a product multiplies the data by it, and then ``values`` computes
    its own product with what comes out: integers, under dynamic or static activations, with data that are easier to
    round. Along free axes the factor is applied to the result.

    Attributes:
        values: float array, or a leaf (a quantized one, maybe under activations).
        factor: float, of as many axes, each of size 1 or whole; stack axes are whole, so that layers come apart.
    """

    values: ArrayOrLeaf
    factor: jax.Array

    @classmethod
    def create(cls, values: ArrayOrLeaf, factor: jax.Array) -> Self:
        """Checks the two fields.

        Args:
            values: float array or leaf of any shape.
            factor: float array of as many axes, each of size 1 or that of ``values``.

        Raises:
            TypeError: if one of them is not float.
            ValueError: if the shapes do not fit.

        Example:
            >>> leaf = Rescaled.create(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([[10.0], [0.5]]))
            >>> leaf.materialize().tolist()
            [[10.0, 20.0], [1.5, 2.0]]
        """
        for name, given in (("values", values.dtype), ("factor", factor.dtype)):
            if not jnp.issubdtype(given, jnp.floating):
                raise TypeError(f"{name} must be float, got {given}")
        if len(factor.shape) != len(values.shape) or any(
            part not in (1, whole) for part, whole in zip(factor.shape, values.shape, strict=True)
        ):
            raise ValueError(
                f"factor must have the axes of values, each of size 1 or whole; got {factor.shape} for {values.shape}"
            )
        return cls(values if is_compressed(values) else jnp.asarray(values), jnp.asarray(factor))

    def alignment(self) -> Mapping[str, tuple[int | None, ...]]:
        """Both fields run along the dense axes."""
        axes = tuple(range(len(self.values.shape)))
        return {"values": axes, "factor": axes}

    @property
    def dtype(self) -> np.dtype:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Dtype of the values."""
        return self.values.dtype

    def materialize(self) -> jax.Array:
        """The dense values times the factor, multiplied in the wider dtype of the two."""
        return _scaled(dense(self.values), self.factor)

    def astype(self, dtype: Any) -> Self | None:
        """The same factor over values of another dtype."""
        values = self.values.astype(dtype)
        return None if values is None else self.replace(values=values)

    def matmul(
        self,
        x: jax.Array,
        *,
        contract: Axes,
        batch: Axes,
        precision: Any = None,
        preferred_element_type: Any = None,
    ) -> jax.Array | None:
        """The product of the values with rescaled data, or rescaled itself where the factor varies along free axes.

        None where the factor varies along both at once, or where the values have no product of their own.
        """
        free = [axis for axis in range(self.ndim) if axis not in {*contract[1], *batch[1]}]
        varies = {axis for axis, size in enumerate(self.factor.shape) if size != 1}
        if x.dtype != self.dtype or (varies & {*contract[1]} and varies & {*free}):
            return None
        outside = bool(varies & {*free})
        if not outside:
            x = _scaled(x, self._along(x.ndim, (*batch[1], *contract[1]), (*batch[0], *contract[0])))
        options = {"precision": precision, "preferred_element_type": preferred_element_type}
        if isinstance(self.values, CompressedArray):
            out = self.values.matmul(x, contract=contract, batch=batch, **options)
        else:
            out = lax.dot_general(x, self.values, (contract, batch), **options)
        if out is None or not outside:
            return out
        last = range(out.ndim - len(free), out.ndim)
        return _scaled(out, self._along(out.ndim, (*batch[1], *free), (*range(len(batch[1])), *last)))

    def conv(self, x: jax.Array, **params: Any) -> jax.Array | None:
        """The convolution of rescaled data, where the factor varies along the input features alone."""
        numbers = params["dimension_numbers"]
        feature = numbers.rhs_spec[1]
        varies = any(size != 1 for axis, size in enumerate(self.factor.shape) if axis != feature)
        if varies or x.dtype != self.dtype or params["batch_group_count"] != 1:
            return None
        shape = [1] * x.ndim
        shape[numbers.lhs_spec[1]] = -1
        repeats = params["feature_group_count"] if self.factor.size > 1 else 1
        x = _scaled(x, jnp.tile(self.factor.reshape(-1), repeats).reshape(shape))
        if isinstance(self.values, CompressedArray):
            return self.values.conv(x, **params)
        return lax.conv_general_dilated_p.bind(x, self.values, **params)

    def _along(self, ndim: int, axes: tuple[int, ...], to: tuple[int, ...]) -> jax.Array:
        """The factor with its ``axes`` moved to the places ``to`` of an array of ``ndim`` axes."""
        rest = [axis for axis in range(self.ndim) if axis not in axes]  # of size 1 here
        order = [axis for _, axis in sorted(zip(to, axes, strict=True))]
        shape = [1] * ndim
        for place, axis in zip(to, axes, strict=True):
            shape[place] = self.factor.shape[axis]
        return lax.transpose(self.factor, (*order, *rest)).reshape(shape)


def _scaled(x: jax.Array, factor: jax.Array) -> jax.Array:
    """``x * factor`` in the dtype of ``x``, multiplied in the wider one."""
    wide = wider(x.dtype, factor.dtype)
    return (x.astype(wide) * factor.astype(wide)).astype(x.dtype)


def rescaled_at(params: Any, factors: Mapping[str, jax.Array]) -> Any:
    """The tree with leaves under a factor of their inputs, by path.

    Example:
        >>> rescaled_at({"w": jnp.ones((2, 3))}, {"w": jnp.ones((2, 1))})["w"]
        Rescaled(values=float32[2,3], factor=float32[2,1])
    """
    now = dict(zip(*flatten_with_paths(params)[:2], strict=True))
    return replace_at(params, {path: Rescaled(now[path], factor) for path, factor in factors.items()})
