"""The full training of a network that was found: one compiled program per epoch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks import mnist, mnist_networks
from benchmarks.mnist import Images
from benchmarks.mnist_networks import Moments
from benchmarks.training import steps_per_epoch

_BATCH = 128
_CHUNK = 500


@dataclasses.dataclass(frozen=True)
class Recipe:
    """As `benchmarks.baselines` trains: AdamW, one cosine after a warm-up of 200 steps, images moved by up to a pixel.

    The learning rate, weight decay and label smoothing are those that were found with the network.
    """

    learning_rate: float
    weight_decay: float
    label_smoothing: float
    epochs: int


def trained(config: Any, recipe: Recipe, data: Images, *, seeds: Sequence[int]) -> list[tuple[Any, list[Moments]]]:
    """For every seed: parameters of a candidate on its own, and moments of its normalizations on training images."""
    steps = recipe.epochs * steps_per_epoch(data, _BATCH)
    rate = optax.warmup_cosine_decay_schedule(0.0, recipe.learning_rate, min(200, steps // 10), steps)
    kernels = lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree)  # noqa: E731
    tx = optax.adamw(rate, weight_decay=recipe.weight_decay, mask=kernels)

    def loss(params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        logits, _ = mnist_networks.own_apply(params, config, images)
        wanted = optax.smooth_labels(jax.nn.one_hot(labels, mnist.CLASSES), recipe.label_smoothing)
        return optax.softmax_cross_entropy(logits, wanted).mean()

    @jax.jit
    def epoch(params: Any, opt_state: Any, key: jax.Array, data: Images) -> tuple[Any, Any, jax.Array]:
        order_key, shift_key = jax.random.split(key)
        order = jax.random.permutation(order_key, len(data.labels))

        def step(carry: tuple[Any, Any], index: jax.Array) -> tuple[tuple[Any, Any], jax.Array]:
            params, opt_state = carry
            rows = jax.lax.dynamic_slice_in_dim(order, index * _BATCH, _BATCH)
            images = mnist.shifted(data.images[rows], jax.random.fold_in(shift_key, index), 1)
            value, grads = jax.value_and_grad(loss)(params, images, data.labels[rows])
            updates, opt_state = tx.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), value

        (params, opt_state), losses = jax.lax.scan(step, (params, opt_state), jnp.arange(steps_per_epoch(data, _BATCH)))
        return params, opt_state, losses.mean()

    def once(seed: int) -> tuple[Any, list[Moments]]:
        init_key, key, moments_key = jax.random.split(jax.random.key(seed), 3)
        params = mnist_networks.own_init(config, init_key)
        opt_state = tx.init(params)
        for number, epoch_key in enumerate(jax.random.split(key, recipe.epochs)):
            params, opt_state, mean = epoch(params, opt_state, epoch_key, data)
            print(f"seed {seed}, epoch {number + 1} of {recipe.epochs}: loss {float(mean):.4f}", flush=True)
        return params, moments_of(params, config, data, moments_key)

    return [once(seed) for seed in seeds]


def moments_of(params: Any, config: Any, data: Images, key: jax.Array, *, chunks: int = 20) -> list[Moments]:
    """Means and variances of all layers over some thousand training images, chunk by chunk as in training."""

    @jax.jit
    def seen(params: Any, images: jax.Array, key: jax.Array) -> list[Moments]:
        return mnist_networks.own_apply(params, config, mnist.shifted(images, key, 1))[1]

    found = [
        seen(params, data.images[i * _CHUNK : (i + 1) * _CHUNK], jax.random.fold_in(key, i))
        for i in range(min(chunks, len(data.images) // _CHUNK))
    ]
    means, variances = (
        [jnp.stack([getattr(layer, name) for layer in layers]) for layers in zip(*found, strict=True)]
        for name in Moments._fields
    )
    return [Moments(m.mean(0), v.mean(0) + m.var(0)) for m, v in zip(means, variances, strict=True)]


def error_of(params: Any, config: Any, moments: list[Moments], data: Images) -> float:
    """Share of wrong predictions, in percent."""

    @jax.jit
    def wrong(params: Any, moments: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        return (jnp.argmax(mnist_networks.own_apply(params, config, images, moments)[0], -1) != labels).sum()

    starts = range(0, len(data.labels), _CHUNK)
    parts = [(data.images[s : s + _CHUNK], data.labels[s : s + _CHUNK]) for s in starts]
    return 100 * sum(int(wrong(params, moments, *part)) for part in parts) / len(data.labels)
