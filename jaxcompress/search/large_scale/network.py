"""Computes a network given by its DNA, all of one shape: one program for every architecture within the bounds."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.search.large_scale.dna import DNA, Bounds, Vertices, vertices


class Weights(NamedTuple):
    """Parameters at the largest shape; zeros where a network has none.

    Attributes:
        kernels: float32 ``[layers, kernel, kernel, channels, channels]``, windows around the centre.
        biases: float32 ``[layers, channels]``.
        output: float32 ``[channels, outputs]``.
        output_bias: float32 ``[outputs]``.
    """

    kernels: jax.Array
    biases: jax.Array
    output: jax.Array
    output_bias: jax.Array


def drawn_weights(bounds: Bounds, dna: DNA, key: jax.Array) -> Weights:
    """Fresh weights of one network: He et al.'s by its own fan-in, zero biases."""
    first, second = jax.random.split(key)
    sizes, (kernels, output) = vertices(bounds, dna), masks(bounds, dna)
    fan_in = jnp.maximum(dna.window.prod(-1) * sizes.channels[:-1], 1).astype(jnp.float32)
    scale = jnp.sqrt(2.0 / fan_in)[:, None, None, None, None]
    return Weights(
        jax.random.normal(first, kernels.shape) * scale * kernels,
        jnp.zeros((bounds.layers, bounds.channels)),
        jax.random.normal(second, output.shape) * output / jnp.sqrt(sizes.channels[-1].astype(jnp.float32)),
        jnp.zeros(bounds.outputs),
    )


def masks(bounds: Bounds, dna: DNA) -> tuple[jax.Array, jax.Array]:
    """Which entries of the kernels and of the last layer one network has. float32."""
    channels = vertices(bounds, dna).channels
    there = _first(channels, bounds.channels)
    centred = jnp.abs(jnp.arange(bounds.kernel) - bounds.kernel // 2)[None, None, :]
    inside = (2 * centred <= dna.window[:, :, None] - 1).astype(jnp.float32)  # [layers, 2, kernel]
    kernels = (
        inside[:, 0, :, None, None, None]
        * inside[:, 1, None, :, None, None]
        * there[:-1, None, None, :, None]
        * (there[1:] * dna.convolution[:, None].astype(jnp.float32))[:, None, None, None, :]
    )
    return kernels, there[-1][:, None] * jnp.ones((1, bounds.outputs))


def apply(bounds: Bounds, weights: Weights, dna: DNA, images: jax.Array) -> jax.Array:
    """Logits ``[batch, outputs]`` of images ``[batch, height, width, channels]``.

    Images shrink to the upper left corner of arrays that keep their shape. Where several arrows meet in a vertex they
    are added: what comes along the chain stays, a skip of another height or width is resampled (nearest neighbour),
    channels are cut or filled up with zeros, as in the paper.
    """
    sizes, (inside, _) = vertices(bounds, dna), masks(bounds, dna)
    start = jnp.pad(images, ((0, 0), (0, 0), (0, 0), (0, bounds.channels - bounds.image[2])))
    values = jnp.zeros((bounds.layers + 1, *start.shape)).at[0].set(start)

    def layer(values: jax.Array, item: tuple[jax.Array, DNA, jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        i, own, kernel, bias = item
        there = partial(_layer, bounds, sizes, own, kernel, bias, i)
        new = lax.cond(i < dna.count, there, lambda values: values[i], values)
        return values.at[i + 1].set(new), None

    layers = dna._replace(count=jnp.zeros(bounds.layers), rate=jnp.zeros(bounds.layers), skips=dna.skips.T[1:])
    items = (jnp.arange(bounds.layers), layers, weights.kernels * inside, weights.biases)
    values, _ = lax.scan(layer, values, items)
    area = (sizes.height[-1] * sizes.width[-1]).astype(jnp.float32)
    return values[-1].sum(axis=(1, 2)) / area @ weights.output + weights.output_bias[None, :]


def _layer(
    bounds: Bounds, sizes: Vertices, own: DNA, kernel: jax.Array, bias: jax.Array, i: jax.Array, values: jax.Array
) -> jax.Array:
    """Vertex ``i + 1``: the layer behind vertex ``i`` and the skips that end here."""
    convolved = partial(_strided, kernel, bias, own.stride)
    new = lax.cond(own.convolution, convolved, lambda x: x, values[i])
    with_skips = partial(_with_skips, sizes, own.skips, i + 1)
    new = lax.cond(own.skips.any(), with_skips, lambda new, _: new, new, values)
    new = jnp.where(own.relu, jax.nn.relu(new), new)
    inside = _first(sizes.height[i + 1], bounds.image[0])[:, None] * _first(sizes.width[i + 1], bounds.image[1])[None]
    return new * inside[None, :, :, None] * _first(sizes.channels[i + 1], bounds.channels)[None, None, None]


def _strided(kernel: jax.Array, bias: jax.Array, stride: jax.Array, x: jax.Array) -> jax.Array:
    """A convolution with zero padding, as one product of patches; every ``2^stride``-th row and column of it."""
    size, channels = kernel.shape[0], kernel.shape[-1]
    batch, height, width, _ = x.shape
    half = size // 2
    padded = jnp.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
    shifts = [padded[:, a : a + height, b : b + width] for a in range(size) for b in range(size)]
    product = jnp.concatenate(shifts, axis=-1).reshape(-1, size * size * channels) @ kernel.reshape(-1, channels)
    full = (product + bias[None, :]).reshape(batch, height, width, channels)
    step = jnp.left_shift(1, stride)
    rows, columns = (jnp.minimum(jnp.arange(n) * step, n - 1) for n in (height, width))
    return full[:, rows][:, :, columns]


def _with_skips(sizes: Vertices, skips: jax.Array, to: jax.Array, new: jax.Array, values: jax.Array) -> jax.Array:
    """Adds the vertices that ``skips`` names, each resampled to the size of vertex ``to``."""
    rows = _nearest(sizes.height, sizes.height[to], values.shape[2])
    columns = _nearest(sizes.width, sizes.width[to], values.shape[3])
    chosen = rows * skips.astype(jnp.float32)[:, None, None]
    return new + jnp.einsum("vih,vjw,vbhwc->bijc", chosen, columns, values)


def _nearest(sizes: jax.Array, to: jax.Array, maximum: int) -> jax.Array:
    """Of each vertex the matrix whose row ``i`` takes row ``floor(i * size / to)``. float32 ``[vertices, i, row]``."""
    source = jnp.arange(maximum)[None, :] * sizes[:, None] // to
    return jax.nn.one_hot(source, maximum)


def _first(count: jax.Array, maximum: int) -> jax.Array:
    """1 for the first ``count`` of ``maximum`` places; any leading axes."""
    places = jnp.expand_dims(jnp.arange(maximum), tuple(range(count.ndim)))
    return (places < jnp.expand_dims(count, -1)).astype(jnp.float32)
