"""Rounding to a grid whose step is learned (LSQ), and whose offset is (LSQ+)."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from jaxcompress.solvers import grid
from jaxcompress.solvers.grid import spread


@dataclasses.dataclass(frozen=True)
class StepGrid:
    """The grid of `learned_step`, static.

    Attributes:
        bits: width of a code, 2 to 8.
        signed: codes ``-2**(bits-1) .. 2**(bits-1) - 1`` times the step (weights, signed activations); False:
            ``0 .. 2**bits - 1`` (activations behind a ReLU). An offset is added to either.
        gradient_scale: factor of the gradients of step and offset, ``1 / sqrt(N * Qp)`` in the paper.
    """

    bits: int
    signed: bool = True
    gradient_scale: float = 1.0

    @property
    def first(self) -> int:
        """The smallest multiple of the step, ``-Qn``."""
        return grid.smallest_code(self.bits, symmetric=False) if self.signed else 0

    @property
    def last(self) -> int:
        """The largest multiple of the step, ``Qp``."""
        return self.first + 2**self.bits - 1


def lsq_gradient_scale(entries: float, last: int) -> float:
    """The factor of section 2.2 of the paper: with it, a step moves in proportion to its size as weights do.

    Example:
        >>> lsq_gradient_scale(100, 4)
        0.05
    """
    return 1 / math.sqrt(max(entries, 1) * last)


def learned_step(x: jax.Array, scale: jax.Array, offset: jax.Array | None, step_grid: StepGrid) -> jax.Array:
    """Rounds to the nearest point of a grid, with the derivatives of LSQ and LSQ+.

    With ``u = (x - offset) / scale`` the value is ``scale * clip(round(u), -Qn, Qp) + offset``, and

    | | d/dx | d/dscale | d/doffset |
    | - | - | - | - |
    | ``-Qn < u < Qp`` | 1 | ``round(u) - u`` | 0 |
    | ``u <= -Qn`` | 0 | ``-Qn`` | 1 |
    | ``u >= Qp`` | 0 | ``Qp`` | 1 |

    those of scale and offset times ``step_grid.gradient_scale``. The offset enters as a whole number of steps, of those
    for which zero is on the grid, so that integers with a zero point mean the same (the paper keeps it real). A step
    that training made negative counts by its absolute value.

    Args:
        x: float array.
        scale: with as many axes as ``x``, the size of each dividing its (see `jaxcompress.solvers.grid`).
        offset: of the scale's shape, in units of ``x``; None: zero, and not learned.
        step_grid: the codes.

    Returns:
        Array of the shape of ``x``, in the dtype of the scale.

    Example:
        >>> int4 = StepGrid(bits=4)
        >>> learned_step(jnp.array([0.6, 9.0]), jnp.array([0.5]), None, int4).tolist()
        [0.5, 3.5]
        >>> jax.grad(lambda s: learned_step(jnp.array([0.6, 9.0]), s, None, int4).sum())(jnp.array([0.5])).tolist()
        [6.8...]

    References:
        Esser et al., 2020, equations 1 to 5. https://arxiv.org/abs/1902.08153
        Bhalgat et al., 2020 (LSQ+), section 3. https://arxiv.org/abs/2004.09576
    """
    return _learned_step(x.astype(scale.dtype), scale, offset, step_grid)


def step_codes(
    x: jax.Array, scale: jax.Array, offset: jax.Array | None, step_grid: StepGrid
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """What `learned_step` rounds to, as integers: ``(codes, positive scale, zero point)``.

    Its value is ``(codes - zero_point) * scale``; codes lie in ``-2**(bits-1) .. 2**(bits-1) - 1``. The zero point is
    None on a signed grid without an offset.
    """
    positive = _positive(scale)
    point = _zero_point(positive, offset, step_grid)
    codes = grid.quantize(x.astype(scale.dtype), positive, _or_zeros(point, scale), bits=step_grid.bits)
    return codes.astype(jnp.int8), positive, point


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _learned_step(x: jax.Array, scale: jax.Array, offset: jax.Array | None, step_grid: StepGrid) -> jax.Array:
    return grid.dequantize(*step_codes(x, scale, offset, step_grid))


@_learned_step.defjvp
def _learned_step_jvp(step_grid: StepGrid, primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    x, scale, offset = primals
    dx, dscale, doffset = tangents
    out = _learned_step(x, scale, offset, step_grid)
    positive = _positive(scale)
    shift = _zero_point(positive, offset, step_grid)
    first = jnp.asarray(grid.smallest_code(step_grid.bits, symmetric=False), scale.dtype)
    lowest = spread(first - _or_zeros(shift, scale).astype(scale.dtype), x.shape)
    u = x / spread(positive, x.shape)
    below, above = u <= lowest, u >= lowest + (step_grid.last - step_grid.first)
    by_scale = jnp.where(below, step_grid.first, jnp.where(above, step_grid.last, jnp.round(u) - u))
    sign = jnp.where(scale < 0, -1, 1).astype(scale.dtype)
    tangent = jnp.where(below | above, jnp.zeros_like(dx), dx)
    tangent += by_scale * spread(sign * dscale * step_grid.gradient_scale, x.shape)
    if offset is not None:
        moved = spread(doffset * step_grid.gradient_scale, x.shape)
        tangent += jnp.where(below | above, moved, jnp.zeros_like(moved))
    return out, tangent


def _positive(scale: jax.Array) -> jax.Array:
    return jnp.maximum(jnp.abs(scale), jnp.asarray(jnp.finfo(scale.dtype).tiny, scale.dtype))


def _zero_point(scale: jax.Array, offset: jax.Array | None, step_grid: StepGrid) -> jax.Array | None:
    """The code of zero; None on a signed grid without an offset."""
    if offset is None and step_grid.signed:
        return None
    smallest = grid.smallest_code(step_grid.bits, symmetric=False)
    steps = jnp.zeros_like(scale) if offset is None else jnp.round(offset / scale)
    point = jnp.clip(smallest - step_grid.first - steps, smallest, grid.largest_code(step_grid.bits))
    return point.astype(jnp.int8)


def _or_zeros(point: jax.Array | None, scale: jax.Array) -> jax.Array:
    return jnp.zeros(scale.shape, jnp.int8) if point is None else point
