"""Convolutions of every form, for the kinds that serve them as chains of smaller ones; what XLA counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax import lax


@dataclasses.dataclass(frozen=True)
class Conv:
    """A convolution ``fn(kernel, x)``.

    Attributes:
        numbers: dimension numbers as strings.
        kernel: shape.
        image: shape of the data.
        options: of `jax.lax.conv_general_dilated`.
        worthwhile: whether factors of rank 2 (inputs) and 3 (outputs) cost less than the dense kernel.
    """

    numbers: tuple[str, str, str]
    kernel: tuple[int, ...]
    image: tuple[int, ...]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    worthwhile: bool = True

    @property
    def kernel_axes(self) -> tuple[int, ...]:
        """Axes of the kernel: output features, input features, spatial ones."""
        return tuple(lax.conv_dimension_numbers(self.image, self.kernel, self.numbers).rhs_spec)

    @property
    def fn(self) -> Callable[..., Any]:
        """The call."""

        def fn(kernel: Any, x: Any) -> Any:
            ones = (1,) * (len(self.kernel) - 2)
            options = {"window_strides": ones, "padding": "SAME", **self.options}
            return lax.conv_general_dilated(x, kernel, **options, dimension_numbers=self.numbers)

        return fn


NHWC = ("NHWC", "HWIO", "NHWC")
CONVS = {
    "plain": Conv(NHWC, (3, 3, 8, 10), (2, 7, 6, 8)),
    "strided": Conv(("NHWC", "HWIO", "NCHW"), (3, 2, 8, 10), (2, 9, 8, 8), {"window_strides": (2, 3)}),
    "dilated": Conv(
        NHWC,
        (3, 3, 8, 10),
        (2, 7, 6, 8),
        {"rhs_dilation": (2, 1), "lhs_dilation": (1, 2), "padding": ((1, 3), (2, -1))},
    ),
    "torch layout": Conv(("NCHW", "OIHW", "NCHW"), (10, 8, 3, 3), (2, 8, 7, 6), {"padding": "VALID"}),
    "spatial axes turned": Conv(("NHWC", "OWIH", "HWNC"), (10, 3, 8, 2), (2, 7, 6, 8), {"window_strides": (1, 2)}),
    "transposed": Conv(NHWC, (4, 4, 8, 10), (2, 5, 4, 8), {"lhs_dilation": (2, 2), "padding": ((2, 2), (2, 2))}),
    "one axis": Conv(("NWC", "WIO", "NWC"), (5, 8, 10), (2, 11, 8), {"window_strides": (2,), "rhs_dilation": (2,)}),
    "three axes": Conv(("NDHWC", "DHWIO", "NDHWC"), (3, 2, 3, 8, 10), (1, 5, 4, 5, 8), {"window_strides": (2, 1, 1)}),
    "two groups": Conv(NHWC, (3, 3, 8, 24), (2, 5, 5, 16), {"feature_group_count": 2, "window_strides": (2, 1)}),
    "groups first": Conv(("NCHW", "OIHW", "NCHW"), (24, 8, 3, 3), (2, 16, 5, 5), {"feature_group_count": 2}),
    "batch groups": Conv(NHWC, (3, 3, 8, 10), (2, 5, 5, 8), {"batch_group_count": 2}, worthwhile=False),
}


def flops(fn: Callable[..., Any], *args: Any) -> int:
    """Twice the multiply-adds of all products and convolutions in the program of a call.

    Of a convolution: entries of the result times the entries of the kernel that one of them meets (what XLA counts but
    for taps that meet the padding).
    """
    total = 0

    def walk(jaxpr: Any) -> None:
        nonlocal total
        for eqn in jaxpr.eqns:
            shapes = [v.aval.shape for v in (*eqn.invars[:2], eqn.outvars[0]) if hasattr(v.aval, "shape")]
            if eqn.primitive.name == "dot_general":
                (contracted, _), _ = eqn.params["dimension_numbers"]
                total += 2 * _size(shapes[2]) * _size([shapes[0][axis] for axis in contracted])
            elif eqn.primitive.name == "conv_general_dilated":
                out_axis = eqn.params["dimension_numbers"].rhs_spec[0]
                total += 2 * _size(shapes[2]) * _size([n for axis, n in enumerate(shapes[1]) if axis != out_axis])
            for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda p: hasattr(p, "eqns")):
                closed = getattr(inner, "jaxpr", inner)
                if hasattr(closed, "eqns"):
                    walk(closed)

    walk(jax.make_jaxpr(fn)(*args).jaxpr)
    return total


def _size(shape: Any) -> int:
    size = 1
    for n in shape:
        size *= n
    return size
