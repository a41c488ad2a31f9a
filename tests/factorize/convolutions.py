"""Convolutions in one, two and three dimensions that every leaf kind of kernels meets."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress.core.explain import explain
from jaxcompress.core.lift import lift
from jaxcompress.core.tree import materialize


@dataclasses.dataclass(frozen=True)
class Case:
    """A convolution: shapes of kernel and data, dimension numbers, and what else is asked for."""

    kernel: tuple[int, ...]
    x: tuple[int, ...]
    numbers: tuple[str, str, str]
    options: dict

    def __call__(self, params, x):
        options = {"window_strides": (1,) * (len(self.kernel) - 2), "padding": "SAME", **self.options}
        return lax.conv_general_dilated(x, params["w"], dimension_numbers=self.numbers, **options)

    @property
    def data(self):
        return jnp.asarray(np.random.default_rng(3).normal(size=self.x), jnp.float32)


CASES = {
    "1d causal": Case((3, 4, 6), (2, 9, 4), ("NHC", "HIO", "NHC"), {"padding": ((2, 0),)}),
    "1d strided": Case((6, 4, 4), (2, 4, 9), ("NCH", "OIH", "NCH"), {"window_strides": (2,), "padding": "VALID"}),
    "2d strided": Case((3, 2, 4, 6), (2, 7, 7, 4), ("NHWC", "HWIO", "NCHW"), {"window_strides": (2, 1)}),
    "2d permuted": Case((4, 3, 6, 2), (7, 2, 4, 6), ("HNCW", "IHOW", "WNHC"), {"window_strides": (1, 3)}),
    "2d dilated": Case(
        (3, 3, 4, 6),
        (2, 7, 7, 4),
        ("NHWC", "HWIO", "NHWC"),
        {"rhs_dilation": (2, 1), "lhs_dilation": (1, 2), "padding": ((1, 1), (2, 0))},
    ),
    "3d": Case((2, 3, 2, 4, 6), (2, 4, 5, 4, 4), ("NDHWC", "DHWIO", "NDHWC"), {"window_strides": (1, 2, 1)}),
}
GROUPED = {
    "two groups": Case((3, 3, 2, 6), (2, 6, 6, 4), ("NHWC", "HWIO", "NHWC"), {"feature_group_count": 2}),
    "each alone": Case((3, 3, 1, 4), (2, 6, 6, 4), ("NHWC", "HWIO", "NHWC"), {"feature_group_count": 4}),
}


def assert_exports(case, params):
    """One program for three platforms, with a batch that is not known yet."""
    (batch,) = jax.export.symbolic_shape("batch")
    at = case.numbers[0].index("N")
    shape = (*case.x[:at], batch, *case.x[at + 1 :])
    run = jax.jit(lift(case))
    program = jax.export.export(run, platforms=("cpu", "cuda", "tpu"))(params, jax.ShapeDtypeStruct(shape, "float32"))
    again = jax.export.deserialize(program.serialize()).call(params, case.data)
    np.testing.assert_allclose(again, run(params, case.data), rtol=1e-5, atol=1e-5)


def assert_serves(case, params, served=True):
    """The law for one leaf, and that it stays compressed."""
    x = case.data
    assert explain(case, params, x)[0].served == served
    ours, theirs = lift(case)(params, x), case(materialize(params), x)
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    # Some 50 products of size 1 to 10 in a sum, associated differently.
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
