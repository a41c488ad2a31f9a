"""The full training of a network that was found: one compiled program per epoch."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from benchmarks.mnist import CLASSES
from benchmarks.training import decayed, steps_per_epoch

CHUNK = 500  # images at a time where nothing is learned


class Moments(NamedTuple):
    """Mean and variance of every channel of a layer, with which it is normalized."""

    mean: jax.Array
    variance: jax.Array


@dataclasses.dataclass(frozen=True)
class Networks:
    """The functions of a family of networks. A candidate is a decoded genome (masked networks) or a plain config.

    Attributes:
        init: ``(candidate, key) -> params``.
        apply: ``(params, candidate, prepared images, moments or None) -> (logits, moments seen)``.
        prepare: ``(stored images, key or None) -> images``; with a key varied ones, to train on.
    """

    init: Callable[[Any, jax.Array], Any]
    apply: Callable[..., tuple[jax.Array, Any]]
    prepare: Callable[[jax.Array, jax.Array | None], jax.Array]

    def only(self, config: Any) -> Networks:
        """One network, whatever the candidate says."""
        return Networks(
            lambda candidate, key: self.init(config, key),
            lambda params, candidate, *rest: self.apply(params, config, *rest),
            self.prepare,
        )


@dataclasses.dataclass(frozen=True)
class Recipe:
    """As `benchmarks.baselines` trains: AdamW, one cosine after a warm-up of 200 steps (or a tenth of all).

    Attributes:
        learning_rate: as found with the network.
        weight_decay: as found with the network; of the kernels.
        label_smoothing: as found with the network.
        epochs: how many.
        batch_size: images of a step.
    """

    learning_rate: float
    weight_decay: float
    label_smoothing: float
    epochs: int
    batch_size: int = 128

    @classmethod
    def of(cls, config: Any, epochs: int) -> Recipe:
        """With what was found."""
        return cls(config["learning_rate"], config["weight_decay"], config["label_smoothing"], epochs)


def final(
    networks: Networks, config: Any, epochs: int, data: Any, seeds: Sequence[int], *, workers: int = 1
) -> list[tuple[Any, Any]]:
    """A winner on its own, trained in full: for every seed its parameters, and the moments of its normalizations.

    With ``workers`` so many seeds at a time, in threads: small networks leave cores idle.
    """
    start = time.perf_counter()
    found = trained(networks, config, Recipe.of(config, epochs), data, seeds=seeds, workers=workers)
    print(f"final training of {config}: {time.perf_counter() - start:.0f} s", flush=True)
    return found


def trained(
    networks: Networks, config: Any, recipe: Recipe, data: Any, *, seeds: Sequence[int], workers: int = 1
) -> list[tuple[Any, Any]]:
    """For every seed: parameters of a candidate on its own, and moments of its normalizations on training images."""
    batch_size = recipe.batch_size
    steps = recipe.epochs * steps_per_epoch(data, batch_size)
    rate = optax.warmup_cosine_decay_schedule(0.0, recipe.learning_rate, min(200, steps // 10), steps)
    tx = optax.adamw(rate, weight_decay=recipe.weight_decay, mask=decayed)

    def loss(params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        logits, _ = networks.apply(params, config, images)
        wanted = optax.smooth_labels(jax.nn.one_hot(labels, CLASSES), recipe.label_smoothing)
        return optax.softmax_cross_entropy(logits, wanted).mean()

    @jax.jit
    def epoch(params: Any, opt_state: Any, key: jax.Array, data: Any) -> tuple[Any, Any, jax.Array]:
        order_key, vary_key = jax.random.split(key)
        order = jax.random.permutation(order_key, len(data.labels))

        def step(carry: tuple[Any, Any], index: jax.Array) -> tuple[tuple[Any, Any], jax.Array]:
            params, opt_state = carry
            rows = jax.lax.dynamic_slice_in_dim(order, index * batch_size, batch_size)
            images = networks.prepare(data.images[rows], jax.random.fold_in(vary_key, index))
            value, grads = jax.value_and_grad(loss)(params, images, data.labels[rows])
            updates, opt_state = tx.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), value

        numbers = jnp.arange(steps_per_epoch(data, batch_size))
        (params, opt_state), losses = jax.lax.scan(step, (params, opt_state), numbers)
        return params, opt_state, losses.mean()

    def once(seed: int) -> tuple[Any, Any]:
        init_key, key, moments_key = jax.random.split(jax.random.key(seed), 3)
        params = networks.init(config, init_key)
        opt_state = tx.init(params)
        for number, epoch_key in enumerate(jax.random.split(key, recipe.epochs)):
            params, opt_state, mean = epoch(params, opt_state, epoch_key, data)
            print(f"seed {seed}, epoch {number + 1} of {recipe.epochs}: loss {float(mean):.4f}", flush=True)
        return params, moments_of(networks, params, config, data, moments_key)

    if workers == 1:
        return [once(seed) for seed in seeds]
    with ThreadPoolExecutor(workers) as threads:
        return list(threads.map(once, seeds))


def moments_of(networks: Networks, params: Any, config: Any, data: Any, key: jax.Array, *, chunks: int = 20) -> Any:
    """Means and variances of all layers over some thousand training images, chunk by chunk as in training."""

    @jax.jit
    def seen(params: Any, images: jax.Array, key: jax.Array) -> Any:
        return networks.apply(params, config, networks.prepare(images, key))[1]

    found = [
        seen(params, data.images[i * CHUNK : (i + 1) * CHUNK], jax.random.fold_in(key, i))
        for i in range(min(chunks, len(data.images) // CHUNK))
    ]

    def over_all(*parts: Moments) -> Moments:
        means, variances = (jnp.stack([getattr(part, name) for part in parts]) for name in Moments._fields)
        return Moments(means.mean(0), variances.mean(0) + means.var(0))

    return jax.tree.map(over_all, *found, is_leaf=lambda x: isinstance(x, Moments))


def error_of(networks: Networks, params: Any, config: Any, moments: Any, data: Any) -> float:
    """Share of wrong predictions, in percent."""

    @jax.jit
    def wrong(params: Any, moments: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        logits, _ = networks.apply(params, config, networks.prepare(images, None), moments)
        return (jnp.argmax(logits, -1) != labels).sum()

    starts = range(0, len(data.labels), CHUNK)
    parts = [(data.images[s : s + CHUNK], data.labels[s : s + CHUNK]) for s in starts]
    return 100 * sum(int(wrong(params, moments, *part)) for part in parts) / len(data.labels)
