"""What the demo minimizes and measures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.cli.digits import Digits

Apply = Callable[..., jax.Array]
PORTION = 1_000
SHIFT = 1


def cross_entropy(apply: Apply, params: Any, batch: tuple[jax.Array, jax.Array], key: jax.Array) -> jax.Array:
    """Mean cross entropy of a batch of images and labels, each image shifted by up to `SHIFT` pixels either way."""
    images, labels = batch
    scores = jax.nn.log_softmax(apply(params, shifted(images, key)))
    return -jnp.take_along_axis(scores, labels[:, None], axis=1).mean()


def shifted(images: jax.Array, key: jax.Array) -> jax.Array:
    """Every image ``(n, 28, 28)`` moved by a random number of pixels, `SHIFT` at most along each axis; zeros enter.

    Example:
        >>> shifted(jnp.ones((2, 28, 28)), jax.random.key(0)).shape
        (2, 28, 28)
    """
    offsets = jax.random.randint(key, (len(images), 2), 0, 2 * SHIFT + 1)
    wide = jnp.pad(images, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT)))
    return jax.vmap(lambda image, offset: jax.lax.dynamic_slice(image, offset, (28, 28)))(wide, offsets)


def logits(apply: Apply, params: Any, images: np.ndarray) -> np.ndarray:
    """The network's outputs, ``(n, 10)``, computed in portions of one size."""
    portions = [images[i : i + PORTION] for i in range(0, len(images), PORTION)]
    return np.concatenate([np.asarray(apply(params, portion)) for portion in portions])


def held_out_error(digits: Digits) -> Callable[[Apply, Any], float]:
    """``evaluate(apply, params)``: the fraction of the held-out images that are classified wrongly."""

    def evaluate(apply: Apply, params: Any) -> float:
        return float(np.mean(logits(apply, params, digits.test_images).argmax(1) != digits.test_labels))

    return evaluate
