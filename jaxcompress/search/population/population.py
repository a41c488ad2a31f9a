"""Many candidates trained by one compiled program."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxcompress.core.paths import flatten_with_paths
from jaxcompress.search.executors import Executor, population_evaluator
from jaxcompress.search.population.training import Trained, Training

Measure = Callable[[Any, Any, Any], Mapping[str, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Trains a candidate and measures it: what `jaxcompress.search.run` takes as ``evaluate``.

    Its ``data`` is ``{"train": ..., "valid": ...}``. A candidate whose training is not finite measures NaN in every
    metric: a failed candidate.

    Attributes:
        training: how candidates are trained.
        measure: ``measure(params, candidate, data["valid"]) -> {"error": scalar, ...}``.
    """

    training: Training
    measure: Measure

    def __call__(self, genome: Any, key: jax.Array, data: Any, *, fidelity: Any = None) -> dict[str, jax.Array]:
        """The metrics of one candidate, trained for the part ``fidelity`` of the steps."""
        trained = self.training.fit(genome, key, data["train"], fidelity=fidelity)
        metrics = self.measure(trained.params, genome, data["valid"])
        return {
            name: jnp.where(trained.finite, jnp.asarray(value, jnp.float32), jnp.nan) for name, value in metrics.items()
        }


def train_population(
    training: Training,
    candidates: Any,
    keys: jax.Array,
    data: Any,
    *,
    fidelity: Any = None,
    params: Any = None,
    executor: str | Executor = "map",
) -> Trained:
    """Trains many candidates in one program, each with its hyperparameters, its order of the data, its steps.

    Each result is that of ``training.fit`` on the candidate alone: to the bit under ``"map"``, ``"loop"`` and
    ``"sharded"``, up to rounding under ``"vmap"`` and ``"chunked"``. On a CPU the loop is the faster one; ``"sharded"``
    gives every core a loop where JAX has been given as many devices (``jax.config.update("jax_num_cpu_devices", n)``).

    Args:
        training: how.
        candidates: pytree of arrays that lead with ``n``.
        keys: ``[n]``.
        data: pytree of arrays whose first axis are the rows.
        fidelity: ``[n]`` in ``(0, 1]``, or None: every candidate takes all steps.
        params: initial parameters that lead with ``n``, instead of ``training.init``.
        executor: as in `jaxcompress.search.population_evaluator`.

    Returns:
        The trained candidates; every array leads with ``n``.

    Raises:
        ValueError: on NaN or infinite data or initial parameters (names the path), fewer rows than a batch, a fidelity
            outside ``(0, 1]``.
    """
    check_finite(data, "data")
    check_finite(params, "params")
    if fidelity is not None and not isinstance(fidelity, Tracer):
        values = np.asarray(fidelity)
        if not ((values > 0) & (values <= 1)).all():
            raise ValueError(f"fidelity is the part of the steps to take, in (0, 1], got {values}")
    return _many(training, executor)((candidates, fidelity, params), keys, data)


@functools.lru_cache(maxsize=64)
def _many(training: Training, executor: str | Executor) -> Callable[..., Any]:
    """The program of a training; kept, so that the next population of the size finds it compiled."""

    def one(item: tuple[Any, Any, Any], key: jax.Array, data: Any) -> Trained:
        candidate, fidelity, params = item
        return training.fit(candidate, key, data, fidelity=fidelity, params=params)

    return population_evaluator(one, executor)


def check_finite(tree: Any, argument: str) -> None:
    """Refuses NaN and infinity in the float arrays of a tree; traced arrays pass.

    Raises:
        ValueError: names the argument and the path.

    Example:
        >>> check_finite({"x": np.array([1.0, np.nan])}, "data")
        Traceback (most recent call last):
        ...
        ValueError: data holds 1 values that are NaN or infinite at 'x': remove or replace them
    """
    paths, leaves = flatten_with_paths(tree)[:2]
    for path, leaf in zip(paths, leaves, strict=True):
        if isinstance(leaf, Tracer) or not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            continue
        if bad := int(np.sum(~np.isfinite(np.asarray(leaf, np.float64)))):
            raise ValueError(
                f"{argument} holds {bad} values that are NaN or infinite at {path!r}: remove or replace them"
            )
