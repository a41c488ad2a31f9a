"""The training loop for networks with batch norm: one compiled step, batches from the host.

A step at a time and not a scan: inside `jax.lax.scan` the convolutions of XLA on a CPU are several times slower.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import cifar
from benchmarks.baselines import cache_folder, stored
from benchmarks.cifar import Pictures

Predict = Callable[[Any, jax.Array], jax.Array]
Train = Callable[[Any, jax.Array], tuple[jax.Array, Any]]
Prepare = Callable[[jax.Array, jax.Array | None], jax.Array]


@dataclasses.dataclass(frozen=True)
class Network:
    """A network as two functions of ``{"params", "batch_stats"}`` and images.

    Attributes:
        predict: gives logits; batch norm uses its running averages.
        train: gives logits and ``{"batch_stats"}`` after this batch, whose statistics batch norm uses.
        prepare: makes the input from stored images; with a key, a varied one to train on.
    """

    predict: Predict
    train: Train
    prepare: Prepare = cifar.prepared

    @classmethod
    def of(cls, model: nn.Module, prepare: Prepare = cifar.prepared) -> Network:
        apply: Any = model.apply  # Flax has one type for whatever it returns
        return cls(
            lambda variables, images: apply(variables, images),
            lambda variables, images: apply(variables, images, True, mutable=["batch_stats"]),
            prepare,
        )


@dataclasses.dataclass(frozen=True)
class Budget:
    """How long and how fast a network trains: SGD with Nesterov momentum 0.9, linear warm-up, one cosine to zero."""

    epochs: int
    learning_rate: float = 0.1
    warmup: float = 0.1  # share of the steps
    weight_decay: float = 5e-4
    batch_size: int = 64

    def steps(self, data: Pictures) -> int:
        return self.epochs * (len(data.labels) // self.batch_size)

    def rate(self, data: Pictures) -> optax.Schedule:
        steps = self.steps(data)
        warmup = max(1, round(self.warmup * steps))
        return optax.warmup_cosine_decay_schedule(0.1 * self.learning_rate, self.learning_rate, warmup, steps)

    def optimizer(self, data: Pictures) -> optax.GradientTransformation:
        decay = optax.add_decayed_weights(
            self.weight_decay, mask=lambda tree: jax.tree.map(lambda leaf: leaf.ndim > 1, tree)
        )
        return optax.chain(decay, optax.sgd(self.rate(data), momentum=0.9, nesterov=True))


def fit(
    network: Network,
    variables: Any,
    tx: optax.GradientTransformation,
    data: Pictures,
    budget: Budget,
    *,
    key: jax.Array,
    log: str = "",
    teacher: tuple[Predict, Any] | None = None,
    trust: float = 0.7,
    temperature: float = 2.0,
) -> tuple[Any, Any]:
    """Trains ``variables["params"]`` on the cross-entropy of images that are varied anew in every epoch.

    With a teacher (a function and its variables) the part ``trust`` of the loss is the cross-entropy with the teacher's
    softened predictions on the same images (Hinton et al. 2015).

    Returns:
        ``(variables, opt_state)``.
    """

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(
        variables: Any, opt_state: Any, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> tuple[Any, Any, jax.Array]:
        images = network.prepare(images, key)
        wanted = None if teacher is None else jax.nn.softmax(teacher[0](teacher[1], images) / temperature)

        def loss(params: Any) -> tuple[jax.Array, Any]:
            logits, state = network.train(variables | {"params": params}, images)
            hard = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            if wanted is None:
                return hard, state
            soft = optax.softmax_cross_entropy(logits / temperature, wanted).mean() * temperature**2
            return (1 - trust) * hard + trust * soft, state

        (value, state), grads = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        updates, opt_state = tx.update(grads, opt_state, variables["params"])
        params = optax.apply_updates(variables["params"], updates)
        return {**variables, **state, "params": params}, opt_state, value

    variables = jax.tree.map(jnp.array, dict(variables))  # a copy: the step reuses its arguments' memory
    opt_state = tx.init(variables["params"])
    order = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    start = time.perf_counter()
    per_epoch, done = len(data.labels) // budget.batch_size, 0
    for epoch in range(budget.epochs):
        rows, losses = order.permutation(len(data.labels)), []
        for batch in rows[: per_epoch * budget.batch_size].reshape(per_epoch, budget.batch_size):
            done += 1
            variables, opt_state, value = step(
                variables, opt_state, data.images[batch], data.labels[batch], jax.random.fold_in(key, done)
            )
            losses.append(value)
        if log:
            mean = float(np.mean([float(value) for value in losses]))
            print(
                f"{log}: epoch {epoch + 1}/{budget.epochs}, loss {mean:.3f}, {time.perf_counter() - start:.0f} s",
                flush=True,
            )
    return variables, opt_state


def accuracy_percent(network: Network, variables: Any, data: Pictures, *, batch_size: int = 500) -> float:
    """Share of right predictions, in percent."""
    predict = jax.jit(
        lambda variables, images: jnp.argmax(network.predict(variables, network.prepare(images, None)), -1)
    )
    starts = range(0, len(data.labels), batch_size)
    right = sum(
        int((np.asarray(predict(variables, data.images[s : s + batch_size])) == data.labels[s : s + batch_size]).sum())
        for s in starts
    )
    return 100 * right / len(data.labels)


def dense(
    model: nn.Module, data: Pictures, budget: Budget, *, seed: int, log: str = "", prepare: Prepare = cifar.prepared
) -> Any:
    """Variables of a trained dense network, kept in the cache folder."""
    told = f"{model!r} {budget} {data.images.shape} {seed}"
    told += "" if prepare is cifar.prepared else f" {prepare.__module__}.{prepare.__qualname__}"
    path = cache_folder() / f"{type(model).__name__.lower()}-{hashlib.sha256(told.encode()).hexdigest()[:16]}.npz"

    def make() -> Any:
        key = jax.random.key(seed)
        variables = model.init(key, jnp.zeros((1, *data.images.shape[1:])))
        train_key = jax.random.fold_in(key, 1)
        tx = budget.optimizer(data)
        return fit(Network.of(model, prepare), variables, tx, data, budget, key=train_key, log=log)[0]

    return stored(path, make)
