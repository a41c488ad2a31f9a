"""The leaf kind of matrices of low rank: two thin factors."""

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
from jaxcompress.factorize.convolutions import ConvOptions, for_groups, mix_features

Axes = tuple[tuple[int, ...], tuple[int, ...]]


@leaf_kind("lowrank", trainable=("u", "v"), priority=2)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LowRank(CompressedArray):
    """A product of two factors, read as a matrix from some axes to others: ``materialize() == u @ v``.

    The dense axes are ``stack + rows + cols``. Rows and columns may be several axes each: the kernel of a convolution
    has the rows (height, width, in) and the column (out). A contraction with data is two thin ones, a convolution is a
    thin one and a product per pixel.

    Attributes:
        u: ``stack + rows + (rank,)``; an array, or a leaf again (int8 factors).
        v: ``stack + (rank,) + cols``; likewise.
        row_ndim: number of row axes.
        col_ndim: number of column axes.
    """

    u: ArrayOrLeaf
    v: ArrayOrLeaf
    row_ndim: int = dataclasses.field(default=1, metadata={"static": True})
    col_ndim: int = dataclasses.field(default=1, metadata={"static": True})

    @classmethod
    def create(cls, u: ArrayOrLeaf, v: ArrayOrLeaf, row_ndim: int = 1, col_ndim: int = 1) -> Self:
        """Checks the factors.

        Args:
            u: float, ``stack + rows + (rank,)``.
            v: float of the same dtype, ``stack + (rank,) + cols``.
            row_ndim: number of row axes, static.
            col_ndim: number of column axes, static.

        Raises:
            TypeError: if a factor is not float, or the dtypes differ.
            ValueError: if the shapes do not fit.

        Example:
            >>> leaf = LowRank.create(jnp.array([[1.0], [2.0]]), jnp.array([[3.0, 4.0, 5.0]]))
            >>> leaf.materialize().tolist(), leaf.stored_bits
            ([[3.0, 4.0, 5.0], [6.0, 8.0, 10.0]], 160)
        """
        if u.dtype != v.dtype or not jnp.issubdtype(u.dtype, jnp.floating):
            raise TypeError(f"u and v must be of one float dtype, got {u.dtype} and {v.dtype}")
        stack = u.ndim - row_ndim - 1
        fits = row_ndim >= 1 and col_ndim >= 1 and stack >= 0 and v.ndim == stack + 1 + col_ndim
        if not fits or u.shape[:stack] != v.shape[:stack] or u.shape[-1] != v.shape[stack]:
            raise ValueError(
                f"u must have the shape stack + rows + (rank,) and v stack + (rank,) + cols, with row_ndim={row_ndim} "
                f"and col_ndim={col_ndim}; got {u.shape} and {v.shape}"
            )
        return cls(_as_array(u), _as_array(v), row_ndim, col_ndim)

    @property
    def rank(self) -> int:
        """Number of columns of ``u``."""
        return self.u.shape[-1]

    @property
    def stack_ndim(self) -> int:
        """Number of leading axes that hold separate matrices."""
        return len(self.u.shape) - self.row_ndim - 1

    def alignment(self) -> Mapping[str, tuple[int | None, ...]]:
        """Each factor holds the stack and its own side; the rank is neither's."""
        stack, core = self.stack_ndim, self.stack_ndim + self.row_ndim
        return {"u": (*range(core), None), "v": (*range(stack), None, *range(core, core + self.col_ndim))}

    @property
    def dtype(self) -> np.dtype:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Dtype of the factors."""
        return self.u.dtype

    def materialize(self) -> jax.Array:
        """The product of the factors, at the highest precision of the device."""
        u, v = dense(self.u), dense(self.v)
        stack = tuple(range(self.stack_ndim))
        numbers = (((u.ndim - 1,), (len(stack),)), (stack, stack))
        return lax.dot_general(u, v, numbers, precision=lax.Precision.HIGHEST)

    def astype(self, dtype: Any) -> Self | None:
        """The same factors in another dtype."""
        u, v = self.u.astype(dtype), self.v.astype(dtype)
        return None if u is None or v is None else self.replace(u=u, v=v)

    def matmul(
        self,
        x: jax.Array,
        *,
        contract: Axes,
        batch: Axes,
        precision: Any = None,
        preferred_element_type: Any = None,
    ) -> jax.Array | None:
        """Two thin contractions, first the factor with more of the summed axes; any axis may be summed or in step."""
        if x.dtype != self.dtype:
            return None
        rows = range(self.stack_ndim, self.stack_ndim + self.row_ndim)
        summed_rows = sum(axis in rows for axis in contract[1])
        summed_cols = sum(axis >= rows.stop for axis in contract[1])
        return self._run(
            _two_dots,
            x,
            layout=(self.stack_ndim, self.row_ndim, self.col_ndim, summed_rows >= summed_cols),
            contract=contract,
            batch=batch,
            precision=precision,
            preferred_element_type=preferred_element_type,
        )

    def conv(self, x: jax.Array, **params: Any) -> jax.Array | None:
        """A convolution to ``rank`` features, then a product per pixel; one side must be the output features alone.

        The groups of a grouped convolution share the first factor; where that multiplies more often than the dense
        kernel (most depthwise convolutions), there is no such form.
        """
        options = ConvOptions.of(params)
        feature, last = options.kernel_axes[0], len(options["dimension_numbers"].rhs_spec) - 1
        out_is_cols = self.col_ndim == 1 and feature == last
        out_is_rows = self.row_ndim == 1 and feature == 0
        if params["batch_group_count"] != 1 or self.stack_ndim or x.dtype != self.dtype:
            return None
        if not (out_is_cols or out_is_rows) or not (options.groups == 1 or self._pays_in_groups(options)):
            return None
        return self._run(_conv_then_dot, x, options=options, out_is_cols=out_is_cols)

    def _pays_in_groups(self, options: ConvOptions) -> bool:
        """Whether a pixel takes fewer multiplications by the factors than by the dense kernel."""
        outputs = self.shape[options.kernel_axes[0]]
        patch = self.size // outputs
        return self.rank * (patch * options.groups + outputs) < patch * outputs

    def _run(self, fn: Any, x: jax.Array, **static: Any) -> jax.Array:
        """Calls a function of the factors; under lift where one of them is a leaf itself."""
        u: Any = self.u
        v: Any = self.v
        return (_LIFTED[fn] if is_compressed(u) or is_compressed(v) else fn)(u, v, x, **static)


def _two_dots(
    u: jax.Array,
    v: jax.Array,
    x: jax.Array,
    *,
    layout: tuple[int, int, int, bool],
    contract: Axes,
    batch: Axes,
    precision: Any,
    preferred_element_type: Any,
) -> jax.Array:
    """``dot_general(x, u @ v, (contract, batch))`` by names: dense axis ``a`` is named ``a``, the rank ``ndim``."""
    stack, row_ndim, col_ndim, u_first = layout
    ndim = stack + row_ndim + col_ndim
    rank = ndim
    of_u = [*range(stack + row_ndim), rank]
    of_v = [*range(stack), rank, *range(stack + row_ndim, ndim)]
    paired = dict(zip((*contract[0], *batch[0]), (*contract[1], *batch[1]), strict=True))
    of_x = [paired.get(axis, ndim + 1 + axis) for axis in range(x.ndim)]
    kept = [paired[axis] for axis in batch[0]] + [name for name in of_x if name > rank]
    out = kept + [axis for axis in range(ndim) if axis not in paired.values()]
    (first, of_first), (second, of_second) = ((u, of_u), (v, of_v)) if u_first else ((v, of_v), (u, of_u))
    needed = {*of_second, *out}
    middle = [name for name in dict.fromkeys([*of_x, *of_first]) if name in needed]
    y = jnp.einsum(x, of_x, first, of_first, middle, precision=precision)
    return jnp.einsum(
        y, middle, second, of_second, out, precision=precision, preferred_element_type=preferred_element_type
    )


def _conv_then_dot(u: jax.Array, v: jax.Array, x: jax.Array, *, options: ConvOptions, out_is_cols: bool) -> jax.Array:
    wide, narrow = (u, v) if out_is_cols else (v, u)  # the rank of `wide` lies where the kernel has its output features
    out, _, _ = options.kernel_axes
    y = options.replace(preferred_element_type=None).run(x, for_groups(wide, out, options.groups))
    feature = options["dimension_numbers"].out_spec[1]
    precision = {name: options[name] for name in ("precision", "preferred_element_type")}
    if options.groups > 1:
        own = jnp.moveaxis(narrow, 0 if out_is_cols else 1, 0).reshape(
            narrow.shape[not out_is_cols], options.groups, -1
        )
        return mix_features(y, jnp.swapaxes(own, 0, 1), axis=feature, groups=options.groups, **precision)
    rank_axis = 0 if out_is_cols else 1
    return jnp.moveaxis(lax.dot_general(y, narrow, (((feature,), (rank_axis,)), ((), ())), **precision), -1, feature)


_LIFTED = {fn: lift(fn) for fn in (_two_dots, _conv_then_dot)}


def _as_array(factor: ArrayOrLeaf) -> ArrayOrLeaf:
    return factor if is_compressed(factor) else jnp.asarray(factor)
