"""Files written by the first release of the format stay readable, bit for bit."""

import os
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.artifact import inspect, load, save
from jaxcompress.artifact.manifest import _DICTIONARY
from jaxcompress.cluster.codebook import Codebook
from jaxcompress.prune.masked import Masked
from jaxcompress.quantize.affine import Quantized

FOLDER = Path(__file__).parent / "files"
CODERS = ["zstd", "constriction"]


def model():
    """Numbers made by integer arithmetic, which no release of anything changes."""
    hashed = np.arange(2400, dtype=np.uint32) * np.uint32(2654435761) >> np.uint32(8)
    rows, columns = np.divmod(np.arange(2400), 40)
    keep = ((hashed % 97 < 30) & (rows % 7 < 3) & (columns % 5 != 1)).reshape(60, 40)
    codes = np.where(keep, (hashed // 97 % 11).reshape(60, 40), 0).astype(np.uint8)
    floats = (hashed[:300].astype(np.int64) - (1 << 23)).astype(np.float32) / np.float32(1 << 20)
    sparse = np.where(np.arange(300) % 6 == 0, floats, 0)
    return {
        "shared": Masked(Codebook(codes, floats[:11], jnp.dtype("float32")), keep),
        "packed": Quantized(
            (hashed[:600] % 15).astype(np.int8).reshape(20, 30) - 7, floats[:30], jnp.dtype("bfloat16")
        ),
        "biases": [sparse.astype(np.float32), sparse.astype(jnp.bfloat16), np.arange(300, dtype=np.int32) * 1000 - 7],
        "empty": (np.zeros((0, 3), np.float16), None, {}),
        "steps": 7,
        "key": jax.random.key(3),
    }


@pytest.mark.parametrize("coder", CODERS)
def test_version_1_is_read(coder):
    """If this fails with a new constriction or zstandard, files of users have become unreadable with it."""
    artifact, expected = load(FOLDER / f"version-1-{coder}.jxc"), model()
    assert jax.tree.structure(artifact.params) == jax.tree.structure(expected)
    for got, wanted in zip(jax.tree.leaves(artifact.params), jax.tree.leaves(expected), strict=True):
        if isinstance(wanted, np.ndarray):
            assert got.dtype == wanted.dtype
            assert np.asarray(got).tobytes() == wanted.tobytes()
        else:
            assert got == wanted
    assert artifact.recipe == {"stages": []}
    assert artifact.versions == {"jaxcompress": "0.1.0", "jax": "0.10.2", "numpy": "2.4.6"}


@pytest.mark.parametrize("coder", CODERS)
def test_version_1_is_still_written_as_small(coder, tmp_path):
    size = save(tmp_path / "a", model(), coder=coder, recipe={"stages": []})
    # Other releases of zlib and zstd may find other encodings, by a few bytes.
    assert size <= os.path.getsize(FOLDER / f"version-1-{coder}.jxc") + 16
    assert inspect(tmp_path / "a")["arrays"] == inspect(FOLDER / f"version-1-{coder}.jxc")["arrays"]


def test_the_dictionary_is_frozen():
    """Part of format version 1: a change would make every older file unreadable."""
    assert zlib.crc32(_DICTIONARY) == 3863209473
