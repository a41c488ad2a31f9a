"""Which leaf kind meets which model, and the call of a model with its weights compressed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.fields import bit_width
from jaxcompress.core.paths import flatten_with_paths, replace_at
from tests.laws.compressors import KINDS, RELATED
from tests.zoo import ENTRIES, ZooModel


def compress(model: ZooModel, kind: str) -> Any:
    """The parameters with every float array of two axes or more compressed (every float array, if there is none).

    More than the weights that `sites` would choose: the law holds for any leaf, also one that has to be materialized.
    """
    paths, leaves, _ = flatten_with_paths(model.params)
    floats = {p: leaf for p, leaf in zip(paths, leaves, strict=True) if jnp.issubdtype(leaf.dtype, jnp.floating)}
    chosen = {path: leaf for path, leaf in floats.items() if leaf.ndim >= 2} or floats
    made = {path: (KINDS | RELATED)[kind](leaf, stacked_axes(model, path)) for path, leaf in chosen.items()}
    return replace_at(model.params, {path: leaf for path, leaf in made.items() if leaf is not None})


def stacked_axes(model: ZooModel, path: str) -> int:
    """How many leading axes of a weight hold separate layers, as its product reads it."""
    reading = model.weights.get(path, "").rpartition("/")[-1]
    return len(reading) - len(reading.lstrip("s"))


def call(model: ZooModel, transform: Callable[..., Any] = lambda fn: fn) -> Callable[..., tuple[jax.Array, ...]]:
    """``(params, inputs) -> arrays`` that the model returns, in order, with its keyword arguments bound."""
    fn = transform(model.fn)

    def run(params: Any, inputs: tuple[Any, ...]) -> tuple[jax.Array, ...]:
        return tuple(jax.tree.leaves(fn(params, *inputs, **model.kwargs)))

    return run


def loss_of(run: Callable[..., tuple[jax.Array, ...]]) -> Callable[..., jax.Array]:
    """A scalar in which every output element has its own weight, in float32 or wider."""

    def loss(params: Any, inputs: tuple[Any, ...]) -> jax.Array:
        total = jnp.zeros((), jnp.result_type(float))
        for out in run(params, inputs):
            if jnp.issubdtype(out.dtype, jnp.floating):
                weights = jnp.asarray(np.cos(np.arange(out.size)).reshape(out.shape), total.dtype)
                total += jnp.sum(out.astype(total.dtype) * weights)
        return total

    return loss


def tolerance(arrays: Any) -> float:
    """Allowed difference relative to the largest entry: rounding of the coarsest dtype in sight.

    A leaf's own product may associate differently ((x u) v for x (u v), a scale after the sum), so errors are some
    units in the last place times the square root of the length of a sum, for each layer: 64 units cover 5 layers of
    width 64, and 8 the two layers that are computed in bfloat16.
    """
    floats = [a.dtype for a in arrays if jnp.issubdtype(a.dtype, jnp.floating)]
    eps = max((float(jnp.finfo(dtype).eps) for dtype in floats if bit_width(dtype) >= 16), default=0.0)
    return (8 if eps > 1e-4 else 64) * eps


def assert_close(ours: Any, theirs: Any, *, tol: float, what: str) -> None:
    """Same structure, dtypes and shapes; differences within ``tol`` times the largest entry of each array.

    An array may be all rounding (the gradient of a key's bias before a softmax is zero): entries below a hundredth of
    the largest one anywhere are measured against that hundredth.
    """
    ours, theirs = jax.tree.leaves(ours), jax.tree.leaves(theirs)
    assert len(ours) == len(theirs), what
    floats = [np.asarray(b, np.float64) for b in theirs if jnp.issubdtype(b.dtype, jnp.floating)]
    top = max((np.max(np.abs(b), initial=0.0) for b in floats), default=0.0)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), what
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        scale = np.max(np.abs(b), initial=max(1e-3, top / 100))
        worst = np.max(np.abs(a - b), initial=0.0) / scale
        assert worst <= tol, f"{what}: relative difference {worst:.2e}, allowed {tol:.2e}"


@functools.cache
def pairs() -> tuple[tuple[str, str], ...]:
    """(model, kind) for the normal run: every model meets a kind, and every kind meets every second family."""
    chosen = []
    kinds = list(KINDS)
    for place, family in enumerate(dict.fromkeys(entry.family for entry in ENTRIES)):
        names = [entry.name for entry in ENTRIES if entry.family == family]
        half = kinds[place % 2 :: 2]
        for turn in range(max(len(names), len(half))):
            chosen.append((names[turn % len(names)], half[turn % len(half)]))
    return tuple(dict.fromkeys(chosen))


def product() -> tuple[tuple[str, str], ...]:
    """The pairs that the normal run leaves out."""
    taken = set(pairs())
    return tuple(
        (entry.name, kind) for entry in ENTRIES for kind in (*KINDS, *RELATED) if (entry.name, kind) not in taken
    )
