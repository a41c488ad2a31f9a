"""Carries out one training stage: chunks of compiled steps, between any two of which it can stop and go on."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from jaxcompress.core.paths import Where
from jaxcompress.core.sites import Sites
from jaxcompress.core.tree import merge, split_trainable
from jaxcompress.pipeline.batches import Batches, batches_of
from jaxcompress.train.stages import Training

Apply = Callable[..., Any]
Loss = Callable[[Apply, Any, Any, jax.Array], jax.Array]


class TrainState(NamedTuple):
    """What changes while a stage trains: all that a checkpoint needs."""

    trainable: Any
    opt_state: Any


@dataclasses.dataclass(frozen=True)
class Moment:
    """Where a training stage stands.

    Attributes:
        state: parameters and optimizer state after `step` steps.
        step: steps taken.
        loss: mean loss over the last chunk.
        seconds: time spent in this and earlier processes.
    """

    state: TrainState
    step: int
    loss: float
    seconds: float


class Trainer:
    """One training stage over one set of parameters.

    Args:
        stage: the stage.
        params: its input; what its leaves declare trainable (and ``stage.where`` allows) changes.
        apply: the lifted model function, handed to ``loss``.
        loss: ``loss(apply, params, batch, key) -> scalar``.
        data: arrays, or a function of the step; see `batches_of`.
        key: orders the examples and seeds the keys of ``loss``.
        chunk: steps between two moments.
        sites: what `jaxcompress.sites` found, if it was asked.
    """

    def __init__(
        self,
        stage: Training,
        params: Any,
        *,
        apply: Apply,
        loss: Loss,
        data: Any,
        key: jax.Array,
        chunk: int,
        sites: Sites | None = None,
    ) -> None:
        batch_key, self._key = jax.random.split(key)
        self.stage, self.chunk = stage, min(chunk, stage.steps)
        self._batches = batches_of(data, batch_size=stage.batch_size, key=batch_key)
        trainable, self._frozen = split_trainable(params, where=_trains(stage))
        self._sites, self._tx = sites, stage.around(stage.transformation(), sites)
        self.start = TrainState(trainable, self._tx.init(trainable))
        objective = functools.partial(_objective, loss, apply)
        self._step = jax.jit(functools.partial(_step, self._batches, objective, self._tx))

    def run(self, moment: Moment | None = None) -> Iterator[Moment]:
        """Trains from a moment, or from the start, and yields the moment after every chunk.

        Raises:
            FloatingPointError: if a loss is not finite; names the step.
        """
        state, done, spent = (self.start, 0, 0.0) if moment is None else (moment.state, moment.step, moment.seconds)
        began = time.perf_counter()
        while done < self.stage.steps:
            end, losses = min(done + self.chunk, self.stage.steps), []
            for step in range(done, end):  # not waited for: the next step is prepared while this one runs
                picked = self._batches.pick(step)
                state, loss = self._step(state, self._frozen, self._batches.arrays, picked, step, self._key)
                losses.append(loss)
            self._check([float(loss) for loss in losses], done)
            yield Moment(state, end, float(np.mean(losses)), spent + time.perf_counter() - began)
            done = end

    def params(self, state: TrainState) -> Any:
        """The tree of parameters in a state; what became of pruned or low-rank weights only in `finished`."""
        return merge(state.trainable, self._frozen)

    def finished(self, state: TrainState) -> Any:
        """The output of the stage."""
        return self.stage.finished(self.params(state), state.opt_state, self._sites)

    def _check(self, losses: list[float], done: int) -> None:
        bad = [step for step, loss in enumerate(losses) if not math.isfinite(loss)]
        if bad:
            at = f"{done + bad[0] + 1} of {self.stage.steps}"
            raise FloatingPointError(
                f"{type(self.stage).__name__}: the loss is {losses[bad[0]]} at step {at}; "
                f"lower learning_rate ({self.stage.learning_rate}) or add warmup_steps"
            )


def _step(
    batches: Batches,
    objective: Callable[..., jax.Array],
    tx: optax.GradientTransformation,
    state: TrainState,
    frozen: Any,
    arrays: Any,
    pick: Any,
    step: jax.Array,
    key: jax.Array,
) -> tuple[TrainState, jax.Array]:
    """Takes one step; returns the state and the loss before it.

    A step is a call of its own: inside `jax.lax.scan` or a loop, XLA runs the convolutions of a CPU on one thread and
    without its fast kernels (LeNet-5: ten times the time), and a call costs far less than a step.
    """
    batch = batches.take(arrays, pick)
    loss, grads = jax.value_and_grad(objective)(state.trainable, frozen, batch, jax.random.fold_in(key, step))
    updates, opt_state = tx.update(grads, state.opt_state, state.trainable)
    return TrainState(optax.apply_updates(state.trainable, updates), opt_state), loss


def _objective(loss: Loss, apply: Apply, trainable: Any, frozen: Any, batch: Any, key: jax.Array) -> jax.Array:
    return loss(apply, merge(trainable, frozen), batch, key)


def _trains(stage: Training) -> Where:
    return stage.where if stage.where is not None else _not_statistics


def _not_statistics(path: str, leaf: Any) -> bool:
    del leaf
    return "batch_stats" not in path.split("/")
