"""The best clips of a range: tried one after the other on all groups at once, each group keeping its own best."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Loss = Callable[[jax.Array, jax.Array], jax.Array]


class Clips(NamedTuple):
    """Per group the least loss met, and the fractions of the lower and the upper end that gave it; all ``[groups]``."""

    loss: jax.Array
    low: jax.Array
    high: jax.Array


def best_clips(
    loss: Loss,
    groups: int,
    dtype: np.dtype,
    *,
    steps: int,
    symmetric: bool,
    stages: int = 2,
) -> Clips:
    """Searches fractions of the two ends of a range for the least loss.

    The first stage tries the fractions ``1, (steps - 1) / steps, ..., 1 / steps``; every later one tries ``steps - 1``
    fractions between the neighbours of the best. Symmetric: both ends take the same fraction, so that a stage has
    ``steps`` trials. Else each end takes its own, and a stage has ``steps ** 2``. Of equal losses the wider range
    stays. Memory: what one trial takes.

    Args:
        loss: ``(low, high) -> loss``, all ``[groups]``; the arguments are fractions.
        groups: how many.
        dtype: of the fractions and losses.
        steps: static.
        symmetric: static.
        stages: static.

    Example:
        >>> best = best_clips(lambda low, high: jnp.abs(high - 0.3125), 1, jnp.float32, steps=8, symmetric=True)
        >>> best.low.tolist(), best.high.tolist()
        ([0.3125], [0.3125])
    """
    one = jnp.ones((groups,), dtype)
    best = Clips(jnp.full((groups,), jnp.inf, dtype), one, one)
    spacing = 1.0
    for stage in range(stages):
        grid = np.linspace(1, 0, steps, endpoint=False) if stage == 0 else np.linspace(1, -1, steps + 1)[1:-1] * spacing
        pairs = [(f, f) for f in grid] if symmetric else list(itertools.product(grid, grid))
        spacing = 1 / steps if stage == 0 else spacing * 2 / steps
        best = _trials(loss, best, jnp.asarray(pairs, dtype), least=spacing, relative=stage > 0)
    return best


def _trials(loss: Loss, best: Clips, pairs: jax.Array, *, least: float, relative: bool) -> Clips:
    """The best of what is known and of trials, which are offsets from the best so far if ``relative``."""
    centre = best if relative else Clips(best.loss, jnp.zeros_like(best.low), jnp.zeros_like(best.high))

    def trial(best: Clips, pair: jax.Array) -> tuple[Clips, None]:
        low, high = (jnp.clip(c + f, least, 1) for c, f in ((centre.low, pair[0]), (centre.high, pair[1])))
        found = Clips(loss(low, high), low, high)
        better = found.loss < best.loss
        return jax.tree.map(lambda new, old: jnp.where(better, new, old), found, best), None

    return lax.scan(trial, best, pairs)[0]
