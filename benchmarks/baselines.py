"""Dense networks to compress, trained once and kept in the user's cache folder."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from benchmarks.mnist import Images
from benchmarks.training import decayed, fit, steps_per_epoch


@dataclasses.dataclass(frozen=True)
class Baseline:
    """How a dense network is trained: AdamW, one cosine, images moved by up to ``shift`` pixels."""

    model: nn.Module
    epochs: int
    shift: int = 0
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.02
    batch_size: int = 128


def train_baseline(baseline: Baseline, data: Images, *, seed: int) -> Any:
    """Variables of a dense network; from the cache if the same one was trained before."""
    key = jax.random.key(seed)
    path = cache_folder() / f"{_digest(baseline, data, seed)}.npz"
    return stored(path, lambda: _trained(baseline, data, key))


def stored(path: Path, make: Callable[[], Any]) -> Any:
    """The tree of arrays in a file; made and written there if there is none."""
    if path.is_file():
        with np.load(path) as file:
            return unflatten_dict({tuple(name.split("/")): jnp.asarray(file[name]) for name in file.files})
    tree = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{"/".join(names): np.asarray(leaf) for names, leaf in flatten_dict(tree).items()})
    return tree


def cache_folder() -> Path:
    """Where the benchmarks keep what takes minutes to make again."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jaxcompress" / "benchmarks"


def _trained(baseline: Baseline, data: Images, key: jax.Array) -> Any:
    variables = baseline.model.init(key, data.images[:1])
    steps = baseline.epochs * steps_per_epoch(data, baseline.batch_size)
    rate = optax.warmup_cosine_decay_schedule(0.0, baseline.learning_rate, min(200, steps // 10), steps)
    tx = optax.adamw(rate, weight_decay=baseline.weight_decay, mask=decayed)
    variables, _ = fit(
        baseline.model.apply,
        variables,
        tx,
        data,
        key=jax.random.fold_in(key, 1),
        epochs=baseline.epochs,
        batch_size=baseline.batch_size,
        shift=baseline.shift,
    )
    return variables


def _digest(baseline: Baseline, data: Images, seed: int) -> str:
    told = f"{type(baseline.model).__name__} {baseline} {data.images.shape} {seed}"
    return f"{type(baseline.model).__name__.lower()}-{hashlib.sha256(told.encode()).hexdigest()[:16]}"
