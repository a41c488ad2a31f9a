"""DoReFa: weights squashed by a tanh onto an even grid over [-1, 1]; activations clipped to [0, 1] (see `pact`)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.quantize.training.straight_through import nearest, widened
from jaxcompress.solvers.grid import grouped, spread


def dorefa_weights(x: jax.Array, *, bits: int, layers: tuple[int, ...], rescaled: bool = False) -> jax.Array:
    """Weights on ``2**bits`` even levels over [-1, 1]; straight through the rounding, through tanh and maximum as is.

    With ``n = 2**bits - 1``:

        2 * round(n * (tanh(x) / (2 max|tanh(x)|) + 1/2)) / n - 1

    Args:
        x: float array.
        bits: 2 to 8, static.
        layers: shape of a scale: which entries share a maximum (all in the paper).
        rescaled: multiplies by ``max|tanh(x)|``: then weights keep the range that training gave them, which a network
            without normalization needs. The paper leaves them on [-1, 1].

    Returns:
        Array of the shape of ``x``, float32 (float64 for float64).

    Example:
        >>> dorefa_weights(jnp.array([-2.0, 0.1, 0.4]), bits=2, layers=(1,)).round(3).tolist()
        [-1.0, 0.333..., 0.333...]

    References:
        Zhou et al., 2016, equation 9. https://arxiv.org/abs/1606.06160
    """
    numerators, scale = dorefa_levels(x, bits=bits, layers=layers, rescaled=rescaled)
    return numerators * spread(scale, x.shape)


def dorefa_levels(x: jax.Array, *, bits: int, layers: tuple[int, ...], rescaled: bool) -> tuple[jax.Array, jax.Array]:
    """`dorefa_weights` as ``(odd integers, scale)``, whose product it is; the integers are floats from -n to n."""
    n = 2**bits - 1
    squashed = jnp.tanh(widened(x))
    largest = _largest(squashed, layers)
    safe = jnp.where(largest > 0, largest, jnp.ones_like(largest))
    numerators = 2 * nearest(n * (squashed / (2 * spread(safe, x.shape)) + 0.5)) - n
    # Division by a constant may become a product in one program and not in another: the factor is one number.
    factor = jnp.asarray(1 / n, largest.dtype)
    return numerators, (safe if rescaled else jnp.ones_like(safe)) * factor


def _largest(x: jax.Array, layers: tuple[int, ...]) -> jax.Array:
    """The largest absolute value of each layer, as a function of the one entry that has it.

    The derivative of a maximum compares entries with it, which fails where a compiler computes them twice.
    """
    groups = grouped(x, layers)
    order = (*range(0, groups.ndim, 2), *range(1, groups.ndim, 2))
    flat = jnp.abs(groups.transpose(order).reshape(*layers, -1))
    index = jnp.argmax(lax.stop_gradient(flat), axis=-1, keepdims=True)
    return jnp.take_along_axis(flat, index, axis=-1)[..., 0]
