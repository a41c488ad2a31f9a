"""From fitness to advantages: what a candidate did better than the moving average of those before it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


class Baseline(NamedTuple):
    """Moving averages over what was told; before anything was, zeros.

    Attributes:
        told: int32, how often.
        objective: of the objective.
        square: of its squared deviation from the average.
        bonus: of all else that counts: entropy and penalties.
        worst: the highest objective so far of a candidate that did not fail; what a failed one is taken to have.
    """

    told: jax.Array
    objective: jax.Array
    square: jax.Array
    bonus: jax.Array
    worst: jax.Array

    @classmethod
    def create(cls) -> Baseline:
        """Before anything was told."""
        zero = jnp.float32(0.0)
        return cls(jnp.int32(0), zero, zero, zero, jnp.float32(-jnp.inf))


def advantages(
    baseline: Baseline, objectives: jax.Array, bonus: jax.Array, *, decay: ArrayLike, scaled: bool
) -> tuple[jax.Array, Baseline]:
    """How much better than before each candidate is, and the averages that know of them.

    ``(average objective - objective) / deviation + bonus - average bonus``. The averages are those *before* these
    candidates, so that the gradient is unbiased; of the very first ones it is their own mean.

    Args:
        baseline: the averages so far.
        objectives: float32 ``[n]``, minimised; what is not finite has failed: it counts as the worst seen, and one
            deviation more.
        bonus: float32 ``[n]``, finite: what is to be maximised beside it.
        decay: of the averages; the first ones count equally until then.
        scaled: whether objectives are measured in their own moving standard deviation (1 otherwise).
    """
    failed = ~jnp.isfinite(objectives)
    worst = jnp.maximum(baseline.worst, jnp.max(jnp.where(failed, -jnp.inf, objectives)))
    known = jnp.isfinite(worst)
    objectives = jnp.where(failed, jnp.where(known, worst, 0.0), objectives)
    told = baseline.told + known.astype(jnp.int32)
    first = baseline.told == 0
    step = jnp.where(known, jnp.maximum(1.0 - decay, 1.0 / jnp.maximum(told, 1).astype(jnp.float32)), 0.0)

    def moved(old, new):
        return old + step * (jnp.mean(new) - old)

    center = jnp.where(first, jnp.mean(objectives), baseline.objective)
    square = moved(baseline.square, jnp.square(objectives - center))
    deviation = jnp.sqrt(jnp.where(first, square, baseline.square))
    deviation = jnp.where(scaled & (deviation > 0), deviation, 1.0)
    usual = jnp.where(first, jnp.mean(bonus), baseline.bonus)
    gain = (center - objectives - jnp.where(failed, deviation, 0.0)) / deviation + bonus - usual
    after = Baseline(told, moved(baseline.objective, objectives), square, moved(baseline.bonus, bonus), worst)
    return jnp.where(known, gain, 0.0), after
