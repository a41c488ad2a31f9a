"""The mutations of large-scale evolution, on arrays of fixed shape."""

from __future__ import annotations

import enum
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.search.large_scale.dna import DNA, Bounds, vertices, without_rest


class Mutation(enum.IntEnum):
    """What may happen to a network, all of it alike often where it can happen."""

    ALTER_LEARNING_RATE = 0
    IDENTITY = 1
    RESET_WEIGHTS = 2
    INSERT_CONVOLUTION = 3
    REMOVE_CONVOLUTION = 4
    ALTER_STRIDE = 5
    ALTER_NUMBER_OF_CHANNELS = 6
    FILTER_SIZE = 7
    INSERT_ONE_TO_ONE = 8
    ADD_SKIP = 9
    REMOVE_SKIP = 10


class Child(NamedTuple):
    """A mutated network.

    Attributes:
        dna: of the child.
        origin: int32 ``[layers]``: the layer of the parent that each layer was, -1 for a new one.
        mutation: int32, which `Mutation` it was.
    """

    dna: DNA
    origin: jax.Array
    mutation: jax.Array


Change: TypeAlias = "Callable[[DNA, jax.Array], tuple[DNA, jax.Array]]"


def mutate(bounds: Bounds, dna: DNA, key: jax.Array) -> Child:
    """One mutation of one network, drawn among those that can be done to it.

    Numbers change to any value between half and twice what they were (filter sizes to an odd one, strides to a power of
    two, at least to the next smaller and larger), within the bounds. An inserted convolution has a 3 x 3 window, as
    many channels as come in, stride 1 or 2 and a ReLU or none, each at random.

    References:
        Real et al., 2017: Large-Scale Evolution of Image Classifiers, section 3.2. https://arxiv.org/abs/1703.01041
        There the number of layers is unbounded; vertices also have batch normalization, which is left out here.
    """
    draw, change = jax.random.split(key)
    chosen = _pick(draw, possible(bounds, dna)).astype(jnp.int32)
    return mutate_by(bounds, dna, chosen, change)


def mutate_by(bounds: Bounds, dna: DNA, mutation: jax.Array | int, key: jax.Array) -> Child:
    """A certain mutation, which must be possible."""
    changes = [partial(_CHANGES[kind], bounds) for kind in Mutation]
    changed, origin = lax.switch(jnp.asarray(mutation, jnp.int32), changes, dna, key)
    return Child(without_rest(changed), origin, jnp.asarray(mutation, jnp.int32))


def possible(bounds: Bounds, dna: DNA) -> jax.Array:
    """Which mutations can be done to a network. bool ``[11]``."""
    some = dna.convolution.any()
    yes, room = jnp.asarray(True), dna.count < bounds.layers
    can = {
        Mutation.INSERT_CONVOLUTION: room,
        Mutation.INSERT_ONE_TO_ONE: room,
        Mutation.REMOVE_CONVOLUTION: some,
        Mutation.ALTER_STRIDE: some & (bounds.stride > 0),
        Mutation.ALTER_NUMBER_OF_CHANNELS: some & (bounds.channels > 1),
        Mutation.FILTER_SIZE: some & (bounds.kernel > 1),
        Mutation.ADD_SKIP: _addable(dna).any(),
        Mutation.REMOVE_SKIP: dna.skips.any(),
    }
    return jnp.stack([can.get(kind, yes) for kind in Mutation])


def _alter_learning_rate(bounds: Bounds, dna: DNA, key: jax.Array) -> tuple[DNA, jax.Array]:
    return dna._replace(rate=dna.rate * jax.random.uniform(key, (), minval=0.5, maxval=2.0)), _same(bounds)


def _identity(bounds: Bounds, dna: DNA, key: jax.Array) -> tuple[DNA, jax.Array]:
    """Trains on."""
    del key
    return dna, _same(bounds)


def _reset_weights(bounds: Bounds, dna: DNA, key: jax.Array) -> tuple[DNA, jax.Array]:
    del key
    return dna, jnp.full(bounds.layers, -1, jnp.int32)


def _insert_convolution(bounds: Bounds, dna: DNA, key: jax.Array) -> tuple[DNA, jax.Array]:
    place, stride, relu = jax.random.split(key, 3)
    at = jax.random.randint(place, (), 0, dna.count + 1)
    new, origin = _inserted(bounds, dna, at)
    return new._replace(
        convolution=new.convolution.at[at].set(True),
        channels=new.channels.at[at].set(vertices(bounds, dna).channels[at]),
        window=new.window.at[at].set(min(3, bounds.kernel)),
        stride=new.stride.at[at].set(jax.random.randint(stride, (), 0, min(1, bounds.stride) + 1)),
        relu=new.relu.at[at].set(jax.random.bernoulli(relu)),
    ), origin


def _insert_one_to_one(bounds: Bounds, dna: DNA, key: jax.Array) -> tuple[DNA, jax.Array]:
    return _inserted(bounds, dna, jax.random.randint(key, (), 0, dna.count + 1))


def _remove_convolution(bounds: Bounds, dna: DNA, key: jax.Array) -> tuple[DNA, jax.Array]:
    at = _pick(key, dna.convolution)
    slots, ends = jnp.arange(bounds.layers), jnp.arange(bounds.layers + 1)
    source = jnp.minimum(jnp.where(slots < at, slots, slots + 1), bounds.layers - 1)
    skips = _moved(dna.skips, jnp.where(ends <= at, ends, ends - 1))
    return _rearranged(dna, source)._replace(count=dna.count - 1, skips=skips), source.astype(jnp.int32)


def _alter_stride(bounds: Bounds, dna: DNA, key: jax.Array) -> tuple[DNA, jax.Array]:
    place, value = jax.random.split(key)
    at = _pick(place, dna.convolution)
    stride = jnp.clip(dna.stride[at] + jax.random.randint(value, (), -1, 2), 0, bounds.stride)
    return dna._replace(stride=dna.stride.at[at].set(stride)), _same(bounds)


def _alter_number_of_channels(bounds: Bounds, dna: DNA, key: jax.Array) -> tuple[DNA, jax.Array]:
    place, value = jax.random.split(key)
    at = _pick(place, dna.convolution)
    now = dna.channels[at]
    low, high = (now + 1) // 2, jnp.minimum(2 * now, bounds.channels)
    channels = jax.random.randint(value, (), low, high + 1)
    return dna._replace(channels=dna.channels.at[at].set(channels)), _same(bounds)


def _filter_size(bounds: Bounds, dna: DNA, key: jax.Array) -> tuple[DNA, jax.Array]:
    place, side, value = jax.random.split(key, 3)
    at, axis = _pick(place, dna.convolution), jax.random.randint(side, (), 0, 2)
    now = dna.window[at, axis]
    odd = 2 * jnp.arange(bounds.kernel // 2 + 1) + 1
    low, high = jnp.minimum((now + 1) // 2, now - 2), jnp.maximum(2 * now, now + 2)
    size = odd[_pick(value, (odd >= low) & (odd <= high))]
    return dna._replace(window=dna.window.at[at, axis].set(size)), _same(bounds)


def _add_skip(bounds: Bounds, dna: DNA, key: jax.Array) -> tuple[DNA, jax.Array]:
    at = _pick(key, _addable(dna).ravel())
    return dna._replace(skips=dna.skips.ravel().at[at].set(True).reshape(dna.skips.shape)), _same(bounds)


def _remove_skip(bounds: Bounds, dna: DNA, key: jax.Array) -> tuple[DNA, jax.Array]:
    at = _pick(key, dna.skips.ravel())
    return dna._replace(skips=dna.skips.ravel().at[at].set(False).reshape(dna.skips.shape)), _same(bounds)


_CHANGES = {
    Mutation.ALTER_LEARNING_RATE: _alter_learning_rate,
    Mutation.IDENTITY: _identity,
    Mutation.RESET_WEIGHTS: _reset_weights,
    Mutation.INSERT_CONVOLUTION: _insert_convolution,
    Mutation.REMOVE_CONVOLUTION: _remove_convolution,
    Mutation.ALTER_STRIDE: _alter_stride,
    Mutation.ALTER_NUMBER_OF_CHANNELS: _alter_number_of_channels,
    Mutation.FILTER_SIZE: _filter_size,
    Mutation.INSERT_ONE_TO_ONE: _insert_one_to_one,
    Mutation.ADD_SKIP: _add_skip,
    Mutation.REMOVE_SKIP: _remove_skip,
}


def _inserted(bounds: Bounds, dna: DNA, at: jax.Array) -> tuple[DNA, jax.Array]:
    """A one-to-one layer behind vertex ``at``; skips stay between the vertices they were between."""
    slots, ends = jnp.arange(bounds.layers), jnp.arange(bounds.layers + 1)
    source = jnp.where(slots < at, slots, slots - 1)
    old = _rearranged(dna, jnp.maximum(source, 0))
    new = slots == at
    skips = _moved(dna.skips, jnp.where(ends <= at, ends, ends + 1))
    return old._replace(
        count=dna.count + 1,
        convolution=old.convolution & ~new,
        relu=old.relu & ~new,
        skips=skips,
    ), jnp.where(new, -1, source).astype(jnp.int32)


def _rearranged(dna: DNA, source: jax.Array) -> DNA:
    """Layers taken from other slots."""
    taken = {name: getattr(dna, name)[source] for name in ("convolution", "channels", "window", "stride", "relu")}
    return dna._replace(**taken)


def _moved(skips: jax.Array, to: jax.Array) -> jax.Array:
    """Skips between renumbered vertices; several that become one are one. Vertices beyond the last slot are empty."""
    move = (to[:, None] == jnp.arange(len(to))[None, :]).astype(jnp.float32)  # [old, new]
    return move.T @ skips.astype(jnp.float32) @ move > 0


def _addable(dna: DNA) -> jax.Array:
    """Where there could be a skip and is none."""
    ends = jnp.arange(len(dna.skips))
    return (ends[:, None] < ends[None, :]) & (ends[None, :] <= dna.count) & ~dna.skips


def _pick(key: jax.Array, among: jax.Array) -> jax.Array:
    """The place of a random True, all alike likely."""
    return jnp.argmax(jnp.where(among, jax.random.uniform(key, among.shape, minval=0.5), 0.0))


def _same(bounds: Bounds) -> jax.Array:
    return jnp.arange(bounds.layers, dtype=jnp.int32)
