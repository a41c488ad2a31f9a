"""The leaf kind of separable convolution kernels: two kernels that slide along different axes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress.core.leaf import ArrayOrLeaf, CompressedArray, dense, is_compressed, leaf_kind
from jaxcompress.core.lift import lift
from jaxcompress.core.roles import Roles
from jaxcompress.factorize.convolutions import ConvOptions, entries, for_groups
from jaxcompress.solvers.contraction import contract

Axes = tuple[tuple[int, ...], tuple[int, ...]]


@leaf_kind("separable", trainable=("first", "second"), priority=2)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Separable(CompressedArray):
    """A sum over ``rank`` filters: ``materialize()[h, w, i, o] == sum_r first[h, 0, i, r] second[0, w, r, o]``.

    A convolution is one with ``first``, along some of the spatial axes, and one with ``second``, along the others; each
    takes the strides, paddings and dilations of its own axes. Both fields are kernels in the layout of the dense one.
    Of a grouped convolution the groups share ``first``. Where two convolutions cost more than the dense one, the leaf
    is materialized.

    Attributes:
        first: the dense shape with size 1 along ``second_axes`` and the rank along ``out``; an array, or a leaf again.
        second: the dense shape with size 1 along ``first_axes`` and the rank along ``feature``; likewise.
        first_axes: spatial axes of ``first``; like all axes here counted after the stack.
        second_axes: spatial axes of ``second``.
        feature: axis of the input features.
        out: axis of the output features.
    """

    first: ArrayOrLeaf
    second: ArrayOrLeaf
    first_axes: tuple[int, ...] = dataclasses.field(default=(0,), metadata={"static": True})
    second_axes: tuple[int, ...] = dataclasses.field(default=(1,), metadata={"static": True})
    feature: int = dataclasses.field(default=2, metadata={"static": True})
    out: int = dataclasses.field(default=3, metadata={"static": True})

    @classmethod
    def create(
        cls,
        first: ArrayOrLeaf,
        second: ArrayOrLeaf,
        first_axes: tuple[int, ...] = (0,),
        second_axes: tuple[int, ...] = (1,),
        feature: int = 2,
        out: int = 3,
    ) -> Self:
        """Checks the fields.

        Args:
            first: float; see the class.
            second: float of the same dtype.
            first_axes: static, and so the others.
            second_axes: the other spatial axes.
            feature: axis of the input features.
            out: axis of the output features.

        Raises:
            TypeError: if a field is not float, or the dtypes differ.
            ValueError: if the axes are not all axes after the stack, each once, or the shapes do not fit.

        Example:
            >>> leaf = Separable.create(jnp.ones((3, 1, 8, 2)), jnp.ones((1, 3, 2, 16)))
            >>> leaf.shape, leaf.rank, leaf.materialize()[0, 0, 0, 0].tolist()
            ((3, 3, 8, 16), 2, 2.0)
        """
        if first.dtype != second.dtype or not jnp.issubdtype(first.dtype, jnp.floating):
            raise TypeError(f"first and second must be of one float dtype, got {first.dtype} and {second.dtype}")
        axes = (*first_axes, *second_axes, feature, out)
        if sorted(axes) != list(range(len(axes))) or not first_axes or not second_axes:
            raise ValueError(
                f"first_axes={first_axes}, second_axes={second_axes}, feature={feature} and out={out} must be all axes "
                "after the stack, each once, at least one in first_axes and in second_axes"
            )
        stack = first.ndim - len(axes)
        fits = stack >= 0 and first.ndim == second.ndim and first.shape[:stack] == second.shape[:stack]
        if fits:
            one, two = first.shape[stack:], second.shape[stack:]
            fits = all(one[axis] == 1 for axis in second_axes) and all(two[axis] == 1 for axis in first_axes)
            fits = fits and one[out] == two[feature]
        if not fits:
            raise ValueError(
                f"first must have size 1 along {second_axes}, second along {first_axes}, and the rank along axis {out} "
                f"of first and {feature} of second (counted after the stack); got {first.shape} and {second.shape}"
            )
        return cls(_as_array(first), _as_array(second), tuple(first_axes), tuple(second_axes), feature, out)

    @property
    def rank(self) -> int:
        """Number of features between the two convolutions."""
        return self.first.shape[self.stack_ndim + self.out]

    @property
    def stack_ndim(self) -> int:
        """Number of leading axes that hold separate kernels."""
        return len(self.first.shape) - len(self.first_axes) - len(self.second_axes) - 2

    def alignment(self) -> Mapping[str, tuple[int | None, ...]]:
        """Each field holds the stack, its spatial axes and one axis of features."""
        return {"first": self._held(self.first_axes, self.feature), "second": self._held(self.second_axes, self.out)}

    def _held(self, spatial: tuple[int, ...], features: int) -> tuple[int | None, ...]:
        stack = self.stack_ndim
        kept = {*range(stack), *(stack + axis for axis in (*spatial, features))}
        return tuple(axis if axis in kept else None for axis in range(len(self.first.shape)))

    def field_roles(self, name: str, roles: Roles) -> Roles | None:
        """Both fields are kernels of the same layout."""
        del name
        return roles

    @property
    def dtype(self) -> np.dtype:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Dtype of the fields."""
        return self.first.dtype

    def materialize(self) -> jax.Array:
        """The dense kernel, at the highest precision of the device."""
        fields = dense(self.first), dense(self.second)
        return _product(fields, None, names=self._names(), out=tuple(range(fields[0].ndim)), precision=_HIGHEST)

    def astype(self, dtype: Any) -> Self | None:
        """The same kernels in another dtype."""
        first, second = self.first.astype(dtype), self.second.astype(dtype)
        return None if first is None or second is None else self.replace(first=first, second=second)

    def matmul(
        self,
        x: jax.Array,
        *,
        contract: Axes,
        batch: Axes,
        precision: Any = None,
        preferred_element_type: Any = None,
    ) -> jax.Array | None:
        """Data and both fields two at a time, in the order of the fewest multiplications."""
        if x.dtype != self.dtype:
            return None
        ndim = len(self.first.shape)
        paired = dict(zip((*contract[0], *batch[0]), (*contract[1], *batch[1]), strict=True))
        of_x = tuple(paired.get(axis, 2 * ndim + axis) for axis in range(x.ndim))
        left = [axis for axis in range(ndim) if axis not in paired.values()]
        out = (*(paired[axis] for axis in batch[0]), *(name for name in of_x if name >= 2 * ndim), *left)
        return self._run(
            _product,
            x,
            names=(of_x, *self._names()),
            out=out,
            precision=precision,
            preferred_element_type=preferred_element_type,
        )

    def conv(self, x: jax.Array, **params: Any) -> jax.Array | None:
        """Two convolutions, first the one that holds the input features of this use."""
        options = ConvOptions.of(params)
        out, feature, spatial = options.kernel_axes
        if self.stack_ndim or params["batch_group_count"] != 1 or x.dtype != self.dtype:
            return None
        if (feature, out) not in ((self.feature, self.out), (self.out, self.feature)):
            return None
        straight = feature == self.feature
        own = self.first_axes if straight else self.second_axes
        before = tuple(place for place, axis in enumerate(spatial) if axis in own)
        if not self._pays(x, options, before):
            return None
        return self._run(_conv, x, options=options, before=before, straight=straight)

    def _pays(self, x: Any, options: ConvOptions, before: tuple[int, ...]) -> bool:
        """Whether the two convolutions multiply less often than the dense one."""
        out, feature, spatial = options.kernel_axes
        window = [self.shape[axis] for axis in spatial]
        batch = x.shape[options["dimension_numbers"].lhs_spec[0]]
        early = [size if place in before else 1 for place, size in enumerate(window)]
        middle = entries([batch, *options.along(before).sizes(x.shape, early)])
        end = entries([batch, *options.sizes(x.shape, window)])
        ins, outs, rank = self.shape[feature], self.shape[out], self.rank
        late = entries(window) // entries(early)
        chain = middle * entries(early) * ins * rank * options.groups + end * late * rank * outs
        return chain < end * entries(window) * ins * outs

    def _names(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Names of the axes of the fields without those of size 1: dense ones their number, the rank the next."""
        stack, ndim = self.stack_ndim, len(self.first.shape)
        rank = {"first": stack + self.out, "second": stack + self.feature}
        held = {
            name: tuple(ndim if place == rank[name] else axis for place, axis in enumerate(axes))
            for name, axes in self.alignment().items()
        }
        first, second = (tuple(-1 if axis is None else axis for axis in held[name]) for name in ("first", "second"))
        return first, second

    def _run(self, fn: Any, x: jax.Array, **static: Any) -> jax.Array:
        """Calls a function of the fields; under lift where one of them is a leaf itself."""
        fields: Any = (self.first, self.second)
        return (_LIFTED[fn] if any(map(is_compressed, fields)) else fn)(fields, x, **static)


_HIGHEST = lax.Precision.HIGHEST


def _product(
    fields: tuple[jax.Array, jax.Array],
    x: jax.Array | None,
    *,
    names: tuple[tuple[int, ...], ...],
    out: tuple[int, ...],
    precision: Any = None,
    preferred_element_type: Any = None,
) -> jax.Array:
    """The product of the fields, with data if there are any; axes named -1 have size 1."""
    arrays = [*fields] if x is None else [x, *fields]
    squeezed = [
        lax.squeeze(array, [place for place, name in enumerate(axes) if name < 0])
        for array, axes in zip(arrays, names, strict=True)
    ]
    named = [tuple(name for name in axes if name >= 0) for axes in names]
    options = {"precision": precision, "preferred_element_type": preferred_element_type}
    return contract(squeezed, named, out, **options)


def _conv(
    fields: tuple[jax.Array, jax.Array],
    x: jax.Array,
    *,
    options: ConvOptions,
    before: tuple[int, ...],
    straight: bool,
) -> jax.Array:
    early, late = fields if straight else fields[::-1]
    out, _, spatial = options.kernel_axes
    after = tuple(place for place in range(len(spatial)) if place not in before)
    y = options.along(before).replace(preferred_element_type=None).run(x, for_groups(early, out, options.groups))
    # The result of the first convolution lies as its output does, and is the input of the second.
    numbers = options["dimension_numbers"]
    return options.along(after).replace(dimension_numbers=numbers._replace(lhs_spec=numbers.out_spec)).run(y, late)


_LIFTED = {fn: lift(fn) for fn in (_product, _conv)}


def _as_array(field: ArrayOrLeaf) -> ArrayOrLeaf:
    return field if is_compressed(field) else jnp.asarray(field)
