"""Files of more than one stream, and the speed and memory of large ones."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.artifact import ArtifactError, coded, load, save, streams
from jaxcompress.prune.masked import Masked

CODERS = ["zstd", "constriction"]


def layers(count, shape, rng):
    mask = [rng.random(shape) < 0.1 for _ in range(count)]
    return [Masked.create(jnp.asarray(rng.standard_normal(shape), jnp.float32), jnp.asarray(keep)) for keep in mask]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.parametrize("coder", CODERS)
def test_a_file_of_many_streams(coder, tmp_path, monkeypatch):
    tree = layers(7, (30, 40), np.random.default_rng(0))
    together = save(tmp_path / "a", tree, coder=coder)
    monkeypatch.setattr(streams, "_FRAME_BYTES", 300)
    monkeypatch.setattr(coded, "_STREAM_SYMBOLS", 2500)
    apart = save(tmp_path / "b", tree, coder=coder)
    monkeypatch.undo()  # a reader does not know where the writer ended its streams
    assert same(load(tmp_path / "b").params, tree)
    assert apart > together
    assert load(tmp_path / "b").file_bytes == apart


@pytest.mark.slow
@pytest.mark.parametrize("coder", CODERS)
def test_twenty_five_million_weights_take_seconds(coder, tmp_path):
    """A minute is allowed on a busy machine; 10 % kept float32 are 10 MB and a mask of at most 0.47 bit each."""
    tree = layers(11, (1536, 1536), np.random.default_rng(1))
    start = time.perf_counter()
    size = save(tmp_path / "a", tree, coder=coder)
    loaded = load(tmp_path / "a").params
    assert time.perf_counter() - start < 60
    assert size < 11 * 1536**2 * (0.1 * 32 + 0.5) / 8
    assert same(loaded, tree)


@pytest.mark.parametrize("coder", CODERS)
def test_memory_is_refused_as_a_whole(coder, tmp_path):
    """Many arrays, each small enough, that are too large together."""
    save(tmp_path / "a", [jnp.zeros(1000) for _ in range(20)], coder=coder)
    with pytest.raises(ArtifactError, match="raise max_bytes="):
        load(tmp_path / "a", max_bytes=50_000)
    assert len(load(tmp_path / "a", max_bytes=200_000).params) == 20
