"""How a network is trained, as a space: learning rate and its schedule, weight decay, label smoothing, augmentation.

What the variables mean is here too, as functions of decoded genomes: one compiled training program serves all of them.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxcompress.search.space import Choice, Conditional, Float, IntRange, LogFloat, Space

SCHEDULES = ("constant", "linear", "cosine", "steps")


def training(
    *,
    rate: tuple[float, float] = (1e-4, 1e-1),
    weight_decay: tuple[float, float] = (1e-6, 1e-2),
    largest_shift: int = 4,
    largest_hole: int = 8,
) -> Space:
    """The space of training strategies for images; drop what does not fit from its ``variables``.

    ``rate``, ``schedule`` (with ``drops`` for ``"steps"``) and ``warmup`` go into `learning_rate`; ``weight_decay`` and
    ``momentum`` into the optimizer; ``label_smoothing`` into `smoothed`; ``augmentation`` into `augmented`.

    Args:
        rate: bounds of the largest learning rate.
        weight_decay: its bounds.
        largest_shift: in pixels.
        largest_hole: height and width of what is cut out, in pixels.
    """
    return Space(
        {
            "rate": LogFloat(*rate),
            "schedule": Choice(SCHEDULES),
            "drops": Conditional(IntRange(1, 4), on="schedule", equals="steps"),
            "warmup": Float(0.0, 0.2),
            "momentum": Float(0.8, 0.99),
            "weight_decay": LogFloat(*weight_decay),
            "label_smoothing": Float(0.0, 0.2),
            "augmentation": {
                "flip": Choice((False, True)),
                "shift": IntRange(0, largest_shift),
                "hole": IntRange(0, largest_hole),
            },
        }
    )


def learning_rate(genome: Any, step: ArrayLike, steps: ArrayLike) -> jax.Array:
    """The learning rate of one step, float32.

    It rises linearly over the first ``warmup`` part of the steps to ``rate``, then follows the schedule: constant;
    linear to zero; half a cosine to zero; or a tenth after each of ``drops`` equal parts but the last.

    Args:
        genome: decoded; its ``rate, schedule, drops, warmup`` are read.
        step: from 0. May be traced, any shape.
        steps: how many there are. May be traced.

    Example:
        >>> genome = {"rate": 0.1, "schedule": 2, "drops": 1, "warmup": 0.2}
        >>> learning_rate(genome, jnp.arange(11), 10).round(3).tolist()
        [0.0..., 0.05..., 0.1..., 0.096..., 0.085..., 0.069..., 0.05..., 0.031..., 0.015..., 0.004..., 0.0]

    References:
        Loshchilov & Hutter, 2017 (cosine), equation 5. https://arxiv.org/abs/1608.03983
    """
    step, steps = jnp.asarray(step).astype(jnp.float32), jnp.asarray(steps).astype(jnp.float32)
    warmup = jnp.asarray(genome["warmup"], jnp.float32) * steps
    done = jnp.clip((step - warmup) / jnp.maximum(steps - warmup, 1.0), 0.0, 1.0)
    parts = jnp.asarray(genome["drops"]).astype(jnp.float32) + 1.0
    factors = jnp.stack(
        [
            jnp.ones_like(done),
            1.0 - done,
            0.5 * (1.0 + jnp.cos(jnp.pi * done)),
            0.1 ** jnp.minimum(jnp.floor(done * parts), parts - 1.0),
        ]
    )
    rising = jnp.where(step < warmup, step / jnp.maximum(warmup, 1e-9), 1.0)
    return jnp.asarray(genome["rate"], jnp.float32) * rising * factors[genome["schedule"]]


def smoothed(genome: Any, labels: jax.Array, classes: int) -> jax.Array:
    """Labels as distributions: all but ``label_smoothing`` on the label, that spread over all classes.

    Args:
        genome: decoded; its ``label_smoothing`` is read.
        labels: int ``[...]``.
        classes: how many there are.

    Returns:
        float32 ``[..., classes]``.

    References:
        Szegedy et al., 2016, section 7. https://arxiv.org/abs/1512.00567
    """
    part = jnp.asarray(genome["label_smoothing"], jnp.float32)
    return jax.nn.one_hot(labels, classes, dtype=jnp.float32) * (1.0 - part) + part / classes


def augmented(genome: Any, key: jax.Array, images: jax.Array) -> jax.Array:
    """Images, each flipped, shifted and with a hole at random, as far as the genome allows.

    Args:
        genome: decoded; its ``augmentation`` is read: ``flip`` (left to right, every second image), ``shift`` (at most
            so many pixels along either axis, zeros come in), ``hole`` (height and width of a square of zeros, its
            centre anywhere in the image, so that it may hang over the edge).
        key: consumed.
        images: ``[batch, height, width, channels]``.

    References:
        DeVries & Taylor, 2017 (the hole), section 3. https://arxiv.org/abs/1708.04552
    """
    of_flip, of_shift, of_hole = jax.random.split(key, 3)
    batch, height, width = images.shape[:3]
    strength = genome["augmentation"]
    flip = jnp.asarray(strength["flip"]) & jax.random.bernoulli(of_flip, 0.5, (batch, 1, 1, 1))
    images = jnp.where(flip, images[:, :, ::-1], images)
    most = jnp.asarray(strength["shift"]).astype(jnp.int32)
    shift = jax.random.randint(of_shift, (batch, 2), -most, most + 1, jnp.int32)
    ends = jnp.broadcast_to(jnp.array([height, width], jnp.int32), (batch, 2))
    hole = jax.random.randint(of_hole, (batch, 2), 0, ends, jnp.int32)
    size = jnp.asarray(strength["hole"]).astype(jnp.int32)
    return jax.vmap(moved, in_axes=(0, 0, 0, None))(images, shift, hole, size)


def moved(image: jax.Array, shift: jax.Array, hole: jax.Array, size: jax.Array) -> jax.Array:
    """One image, shifted (zeros come in), with a square of zeros of the given size around ``hole``."""
    rows, columns = (jnp.arange(n, dtype=jnp.int32) for n in image.shape[:2])
    covered = jnp.ones(image.shape[:2], bool)
    for axis, places in enumerate((rows, columns)):
        source = places - shift[axis]
        source = jnp.where(source < 0, places.size, source)  # a negative index would count from the end
        image = jnp.take(image, source, axis=axis, mode="fill", fill_value=0)
        start = hole[axis] - size // 2
        inside = (places >= start) & (places < start + size)
        covered = covered & jnp.expand_dims(inside, 1 - axis)
    return jnp.where((~covered)[:, :, None], image, jnp.zeros((), image.dtype))
