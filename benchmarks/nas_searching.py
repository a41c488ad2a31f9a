"""A search for a small network: candidates are trained for a while, and judged on images that they have not seen."""

from __future__ import annotations

import collections
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxcompress as jc
from benchmarks.nas_training import CHUNK, CLASSES, Networks
from benchmarks.training import decayed
from jaxcompress.search.population import Training

RECIPE = ("learning_rate", "weight_decay", "label_smoothing")


def search_data(train: Any, held_out: int, key: jax.Array) -> dict[str, Any]:
    """The search split: what candidates train on, and training images that judge them."""
    count = len(train.labels)
    fit, judge = jc.search.split(train._asdict(), (1 - held_out / count, held_out / count), key)
    return {"train": fit, "valid": judge, "moments": fit["images"][:CHUNK]}


def search(space: Any, evaluate: Any, strategy: Any, key: jax.Array, data: Any, evaluations: int) -> Any:
    """The best candidate of a search."""
    run = jc.search.run(
        space,
        evaluate,
        strategy,
        key=key,
        budget=evaluations,
        data=data,
        executor="loop",
        progress=lambda now: print(f"{type(strategy).__name__}: {now}, {now.seconds:.0f} s", flush=True),
    )
    best = run.best()
    print(f"{run}\n{best}", flush=True)
    if isinstance(strategy, jc.search.SuccessiveHalving):
        print(strategy.correlation(run.state), flush=True)
    return best


def evaluation(networks: Networks, steps: int, costs: Callable[[Any], dict[str, Any]] = lambda genome: {}) -> Any:
    """Trains a candidate for a part of ``steps``, and judges it on images that it has not seen.

    The metrics are the error in percent, and ``costs`` of the genome.
    """

    def loss(params: Any, batch: Any, candidate: Any, key: jax.Array) -> jax.Array:
        logits, _ = networks.apply(params, candidate, networks.prepare(batch["images"], key))
        wanted = optax.smooth_labels(jax.nn.one_hot(batch["labels"], CLASSES), candidate["label_smoothing"])
        return optax.softmax_cross_entropy(logits, wanted).mean()

    training = Training(networks.init, loss, optimizer, steps=steps, batch_size=64)

    def evaluate(genome: Any, key: jax.Array, data: Any, fidelity: Any = None) -> dict[str, jax.Array]:
        fitted = training.fit(genome, key, data["train"], fidelity=fidelity)
        _, moments = networks.apply(fitted.params, genome, networks.prepare(data["moments"], None))
        images, labels = (data["valid"][name] for name in ("images", "labels"))

        def wrong(part: tuple[jax.Array, jax.Array]) -> jax.Array:
            logits, _ = networks.apply(fitted.params, genome, networks.prepare(part[0], None), moments)
            return jnp.argmax(logits, -1) != part[1]

        at_once = min(CHUNK, len(images))
        parts = (images.reshape(-1, at_once, *images.shape[1:]), labels.reshape(-1, at_once))
        error = 100 * jax.lax.map(wrong, parts).mean(dtype=jnp.float32)
        return {"error": jnp.where(fitted.finite, error, jnp.nan), **costs(genome)}

    return evaluate


def own_evaluation(networks: Networks, steps: int, *, workers: int, beside: Mapping[str, Any] | None = None) -> Any:
    """As `evaluation`, each network in its own shapes: one program for each, kept for longer trainings of it.

    Args:
        networks: of plain configs.
        steps: of a full training.
        workers: candidates at a time.
        beside: what configs do not say.
    """
    programs: dict[str, Callable[..., Any]] = {}
    locks: dict[str, threading.Lock] = collections.defaultdict(threading.Lock)

    def evaluate(config: Any, key: jax.Array, data: Any, fidelity: float = 1.0) -> dict[str, float]:
        recipe = {name: jnp.float32(config[name]) for name in RECIPE}
        network = {**(beside or {}), **{name: value for name, value in config.items() if name not in RECIPE}}
        name = json.dumps(network, sort_keys=True)
        arguments = recipe, key, data, jnp.float32(fidelity)
        with locks[name]:
            if name not in programs:
                programs[name] = jax.jit(evaluation(networks.only(network), steps)).lower(*arguments).compile()
        found = programs[name](*arguments)
        error = float(found["error"])
        print(f"{error:.2f} % with {fidelity:.2f} of the steps: {config}", flush=True)
        return {"error": error}

    return jc.search.python(evaluate, workers=workers)


def optimizer(candidate: Any, steps: jax.Array) -> optax.GradientTransformation:
    """AdamW; a short warm-up, then one cosine over however many steps this candidate is given."""

    def rate(count: jax.Array) -> jax.Array:
        part = count / steps
        return candidate["learning_rate"] * jnp.minimum(1.0, 10 * part) * (1 + jnp.cos(jnp.pi * part)) / 2

    return optax.chain(
        optax.scale_by_adam(),
        optax.add_decayed_weights(candidate["weight_decay"], mask=decayed),
        optax.scale_by_learning_rate(rate),
    )
