"""The digits of scikit-learn and a Flax network that learns them: the problem on which quantizers are timed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

TRAINING = 1297


@dataclasses.dataclass(frozen=True)
class Digits:
    """1,797 images of 8 x 8 pixels, shuffled: 1,297 to learn from, the first 256 of them to calibrate, 500 to test."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray

    @property
    def calibration(self) -> jax.Array:
        return jnp.asarray(self.train_images[:256])


class MLP(nn.Module):
    """Dense layers with ReLUs between them."""

    widths: Sequence[int]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for width in self.widths[:-1]:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.widths[-1])(x)


def load(pixels: int = 64) -> Digits:
    """The digits, of each image the first ``pixels``."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = (images / 16 - 0.3).astype(np.float32)[:, :pixels]
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order], labels[order]
    return Digits(images[:TRAINING], labels[:TRAINING], images[TRAINING:], labels[TRAINING:])


def trained(model: MLP, digits: Digits, steps: int = 150) -> Any:
    """Variables after some steps of Adam."""
    params = model.init(jax.random.key(0), digits.train_images[:1])
    tx = optax.adam(1e-3)
    state, rng = tx.init(params), np.random.default_rng(1)

    @jax.jit
    def step(params: Any, state: Any, x: jax.Array, y: jax.Array) -> tuple[Any, Any]:
        def loss(params: Any) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(model.apply(params, x), y).mean()

        updates, state = tx.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        batch = rng.integers(0, TRAINING, 128)
        params, state = step(params, state, digits.train_images[batch], digits.train_labels[batch])
    return params


def store(path: str, variables: Any) -> None:
    """Writes variables for another process."""
    np.savez(path, **flatten_dict(jax.tree.map(np.asarray, variables), sep="/"))


def restored(path: str) -> Any:
    """What `store` wrote."""
    with np.load(path) as held:
        return unflatten_dict({name: jnp.asarray(held[name]) for name in held.files}, sep="/")


def quality(logits: jax.Array, exact: jax.Array, labels: np.ndarray) -> dict[str, float]:
    """Accuracy in percent, and the error of the logits relative to their norm."""
    error = jnp.linalg.norm(logits - exact) / jnp.linalg.norm(exact)
    return {"accuracy": 100 * float((np.asarray(logits).argmax(-1) == labels).mean()), "error": float(error)}
