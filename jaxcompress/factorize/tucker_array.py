"""The leaf kind of Tucker decompositions: a small core and a thin factor for some axes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress.core.leaf import ArrayOrLeaf, CompressedArray, dense, is_compressed, leaf_kind
from jaxcompress.core.lift import lift
from jaxcompress.core.roles import Roles
from jaxcompress.factorize.convolutions import ConvOptions, entries, for_groups, mix_features
from jaxcompress.solvers.contraction import cheapest_order, contract

Axes = tuple[tuple[int, ...], tuple[int, ...]]
MOST_AXES = 6
_FACTORS = tuple(f"factor{axis}" for axis in range(MOST_AXES))


@leaf_kind("tucker", trainable=("core", *_FACTORS), priority=2)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TuckerArray(CompressedArray):
    """A core times a factor along some axes: ``materialize()[i, j, k] == sum_ab core[a, b, k] u[i, a] v[j, b]``.

    A contraction meets core and factors one after the other in the cheapest order for the data at hand. A convolution
    is a product with the factor of the input features at every pixel, a convolution with the core, and a product with
    the factor of the output features; factors of spatial axes are multiplied into the core, and those of features too
    where that is cheaper. Of a grouped convolution the groups share core and input factor. Where nothing is cheaper
    than the dense kernel (most depthwise convolutions) the leaf is materialized.

    Attributes:
        core: ``stack + (rank or size of every axis)``; an array, or a leaf again (int8).
        factor0: of the first axis after the stack, ``stack + (size, rank)``, an array or leaf; None where the core has
            the axis itself. ``factor1`` to ``factor5``: of those that follow.
    """

    core: ArrayOrLeaf
    factor0: ArrayOrLeaf | None = None
    factor1: ArrayOrLeaf | None = None
    factor2: ArrayOrLeaf | None = None
    factor3: ArrayOrLeaf | None = None
    factor4: ArrayOrLeaf | None = None
    factor5: ArrayOrLeaf | None = None

    @classmethod
    def create(cls, core: ArrayOrLeaf, factors: Sequence[ArrayOrLeaf | None]) -> Self:
        """Checks the fields.

        Args:
            core: float, ``stack + (rank or size of every axis)``.
            factors: one for each axis after the stack, float of the dtype of the core, ``stack + (size, rank)``; None
                where there is none.

        Raises:
            TypeError: if a field is not float, or the dtypes differ.
            ValueError: if the shapes do not fit, there is no factor, or there are more than six axes.

        Example:
            >>> leaf = TuckerArray.create(jnp.ones((2, 3)), [jnp.ones((5, 2)), None])
            >>> leaf.shape, leaf.stored_bits
            ((5, 3), 512)
        """
        given = [factor for factor in factors if factor is not None]
        dtypes = {core.dtype, *(factor.dtype for factor in given)}
        if len(dtypes) > 1 or not jnp.issubdtype(core.dtype, jnp.floating):
            raise TypeError(f"core and factors must be of one float dtype, got {sorted(map(str, dtypes))}")
        stack = core.ndim - len(factors)
        if not given or stack < 0 or not 1 <= len(factors) <= MOST_AXES:
            raise ValueError(
                f"factors must be one (or None) for each axis after the stack, 1 to {MOST_AXES} axes, at least one not "
                f"None; got {len(factors)} of which {len(given)} are not None, for a core of shape {core.shape}"
            )
        for axis, factor in enumerate(factors):
            fits = factor is None or (
                factor.ndim == stack + 2
                and factor.shape[:stack] == core.shape[:stack]
                and factor.shape[-1] == core.shape[stack + axis]
            )
            if not fits:
                raise ValueError(
                    f"factor{axis} must have the shape {(*core.shape[:stack], 'size', core.shape[stack + axis])} for a "
                    f"core of shape {core.shape}, got {factor.shape if factor is not None else None}"
                )
        held = {name: _as_array(factor) for name, factor in zip(_FACTORS, factors, strict=False) if factor is not None}
        return cls(_as_array(core), **held)

    @property
    def stack_ndim(self) -> int:
        """Number of leading axes that hold separate arrays."""
        return next(len(factor.shape) for factor in self.factors.values()) - 2

    @property
    def factors(self) -> dict[int, ArrayOrLeaf]:
        """The factors there are, by axis after the stack."""
        held = {axis: getattr(self, name) for axis, name in enumerate(_FACTORS)}
        return {axis: factor for axis, factor in held.items() if factor is not None}

    @property
    def ranks(self) -> tuple[int, ...]:
        """Sizes of the core after the stack."""
        return tuple(self.core.shape[self.stack_ndim :])

    def alignment(self) -> Mapping[str, tuple[int | None, ...]]:
        """The core holds the axes without a factor, each factor its own."""
        stack, factors = self.stack_ndim, self.factors
        core = tuple(axis if axis - stack not in factors else None for axis in range(len(self.core.shape)))
        return {"core": core} | {_FACTORS[axis]: (*range(stack), stack + axis, None) for axis in factors}

    def field_roles(self, name: str, roles: Roles) -> Roles | None:
        """The core is a smaller array of the same axes."""
        return roles if name == "core" else super().field_roles(name, roles)

    @property
    def dtype(self) -> np.dtype:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Dtype of core and factors."""
        return self.core.dtype

    def materialize(self) -> jax.Array:
        """The core times all factors, at the highest precision of the device."""
        ndim, factors = len(self.core.shape), self.factors
        names = _names(ndim, self.stack_ndim, tuple(factors))
        arrays = [dense(self.core), *map(dense, factors.values())]
        return contract(arrays, names, range(ndim), precision=lax.Precision.HIGHEST)

    def astype(self, dtype: Any) -> Self | None:
        """The same core and factors in another dtype."""
        changed = {name: field.astype(dtype) for name, field in self.components().items()}
        return None if None in changed.values() else self.replace(**changed)

    def matmul(
        self,
        x: jax.Array,
        *,
        contract: Axes,
        batch: Axes,
        precision: Any = None,
        preferred_element_type: Any = None,
    ) -> jax.Array | None:
        """Data, core and factors two at a time, in the order of the fewest multiplications."""
        if x.dtype != self.dtype:
            return None
        of_x, out = self._names_of_product(x, contract, batch)
        return self._run(
            _product,
            x,
            names=(of_x, *_names(len(self.core.shape), self.stack_ndim, tuple(self.factors))),
            out=out,
            precision=precision,
            preferred_element_type=preferred_element_type,
        )

    def how(self, x: Any, *, contract: Axes, batch: Axes) -> str:
        """The order of the products."""
        of_x, out = self._names_of_product(x, contract, batch)
        names = (of_x, *_names(len(self.core.shape), self.stack_ndim, tuple(self.factors)))
        shapes = [x.shape, *(field.shape for field in self.components().values())]
        sizes = {
            n: size for axes, shape in zip(names, shapes, strict=True) for n, size in zip(axes, shape, strict=True)
        }
        held = ["x", *self.components()]
        for first, second in cheapest_order(names, out, sizes)[0]:
            pair = f"({held[first]} {held[second]})"
            held = [name for i, name in enumerate(held) if i not in (first, second)] + [pair]
        return f"{self.kind} matmul {held[0][1:-1]}"

    def conv(self, x: jax.Array, **params: Any) -> jax.Array | None:
        """Input factor, convolution with the core, output factor; either factor may be multiplied into the core."""
        if self.stack_ndim or params["batch_group_count"] != 1 or x.dtype != self.dtype:
            return None
        options = ConvOptions.of(params)
        apart = self._kept_apart(x, options)
        return self._run(_conv, x, axes=tuple(self.factors), apart=apart, options=options) if apart else None

    def _kept_apart(self, x: jax.Array, options: ConvOptions) -> tuple[int, ...]:
        """Which of the feature axes of the kernel are served by a product per pixel; those that make it cheapest."""
        out, feature, spatial = options.kernel_axes
        batch, channels, *image = options["dimension_numbers"].lhs_spec
        window = [self.shape[axis] for axis in spatial]
        before = entries([x.shape[axis] for axis in (batch, *image)])
        after = entries([x.shape[batch], *options.sizes(x.shape, window)])
        taps, core, held, groups = entries(window), self.core.shape, self.factors, options.groups

        def cost(apart: tuple[int, ...]) -> int:
            ins = core[feature] if feature in apart else self.shape[feature]
            outs = core[out] * groups if out in apart else self.shape[out]
            total = after * taps * ins * outs
            if feature in apart:
                total += before * x.shape[channels] * core[feature]
            elif feature in held:
                total += taps * self.shape[feature] * core[feature] * core[out]
            if out in apart:
                total += after * core[out] * self.shape[out]
            elif out in held:
                total += taps * ins * core[out] * self.shape[out]
            return total

        choices = [(), *((axis,) for axis in (feature, out) if axis in held)]
        return min(choices + ([(feature, out)] if len(choices) == 3 else []), key=cost)

    def _names_of_product(self, x: Any, contract: Axes, batch: Axes) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Names of the axes of ``x`` and of the result: dense axis ``a`` is named ``a``, those of ``x`` come last."""
        ndim = len(self.core.shape)
        paired = dict(zip((*contract[0], *batch[0]), (*contract[1], *batch[1]), strict=True))
        of_x = tuple(paired.get(axis, 2 * ndim + axis) for axis in range(len(x.shape)))
        free = [name for name in of_x if name >= 2 * ndim]
        left = [axis for axis in range(ndim) if axis not in paired.values()]
        return of_x, (*(paired[axis] for axis in batch[0]), *free, *left)

    def _run(self, fn: Any, x: jax.Array, **static: Any) -> jax.Array:
        """Calls a function of the fields; under lift where one of them is a leaf itself."""
        fields: tuple[Any, ...] = tuple(self.components().values())
        return (_LIFTED[fn] if any(map(is_compressed, fields)) else fn)(fields, x, **static)


def _names(ndim: int, stack: int, factors: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Names of the axes of core and factors: dense axis ``a`` is named ``a``, the rank along it ``ndim + a``."""
    thin = {stack + axis for axis in factors}
    core = tuple(ndim + axis if axis in thin else axis for axis in range(ndim))
    return (core, *((*range(stack), stack + axis, ndim + stack + axis) for axis in factors))


def _product(
    fields: Sequence[jax.Array],
    x: jax.Array,
    *,
    names: tuple[tuple[int, ...], ...],
    out: tuple[int, ...],
    precision: Any,
    preferred_element_type: Any,
) -> jax.Array:
    options = {"precision": precision, "preferred_element_type": preferred_element_type}
    return contract([x, *fields], names, out, **options)


def _conv(
    fields: Sequence[jax.Array], x: jax.Array, *, axes: tuple[int, ...], apart: tuple[int, ...], options: ConvOptions
) -> jax.Array:
    core, factors = fields[0], dict(zip(axes, fields[1:], strict=True))
    out, feature, _ = options.kernel_axes
    groups, precision, element = options.groups, options["precision"], options["preferred_element_type"]
    inside = tuple(axis for axis in axes if axis not in apart)
    if inside:
        names = _names(core.ndim, 0, inside)
        kernel = contract([core, *(factors[axis] for axis in inside)], names, range(core.ndim), precision=precision)
    else:
        kernel = core
    numbers = options["dimension_numbers"]
    if feature in apart:
        x = mix_features(x, factors[feature], axis=numbers.lhs_spec[1], groups=groups, precision=precision)
    if out not in apart:
        return options.run(x, kernel)
    y = options.replace(preferred_element_type=None).run(x, for_groups(kernel, out, groups))
    last = factors[out].T if groups == 1 else jnp.swapaxes(factors[out].reshape(groups, -1, core.shape[out]), 1, 2)
    return mix_features(
        y, last, axis=numbers.out_spec[1], groups=groups, precision=precision, preferred_element_type=element
    )


_LIFTED = {fn: lift(fn) for fn in (_product, _conv)}


def _as_array(field: ArrayOrLeaf) -> ArrayOrLeaf:
    return field if is_compressed(field) else jnp.asarray(field)
