"""Carries out one training stage: compiled chunks of steps that can stop and go on between any two."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcompress.core.paths import Where
from jaxcompress.core.sites import Sites
from jaxcompress.core.tree import merge, split_trainable
from jaxcompress.pipeline.batches import Batches, batches_of
from jaxcompress.prune.finish import finish
from jaxcompress.train.gradual import gradual_pruning
from jaxcompress.train.stages import GradualPruning, Training

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
        chunk: steps in one compiled call.
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
        batch_key, self._loss_key = jax.random.split(key)
        self.stage, self.chunk = stage, min(chunk, stage.steps)
        self._batches = batches_of(data, batch_size=stage.batch_size, key=batch_key)
        trainable, self._frozen = split_trainable(params, where=_trains(stage))
        self._tx = _transformation(stage, sites)
        self.start = TrainState(trainable, self._tx.init(trainable))
        objective = functools.partial(_objective, loss, apply)
        self._run = jax.jit(functools.partial(_run_chunk, self._batches, objective, self._tx))

    def run(self, moment: Moment | None = None) -> Iterator[Moment]:
        """Trains from a moment, or from the start, and yields the moment after every chunk.

        Raises:
            FloatingPointError: if a loss is not finite; names the step.
        """
        state, done, spent = (self.start, 0, 0.0) if moment is None else (moment.state, moment.step, moment.seconds)
        began = time.perf_counter()
        while done < self.stage.steps:
            steps = min(self.chunk, self.stage.steps - done)
            state, losses = self._run(
                state, self._frozen, self._batches.arrays, self._picks(done, steps), *self._at(done, steps)
            )
            losses = np.asarray(losses)[:steps]
            if not np.isfinite(losses).all():
                raise self._diverged(losses, done)
            done += steps
            yield Moment(state, done, float(losses.mean()), spent + time.perf_counter() - began)

    def params(self, state: TrainState) -> Any:
        """The tree of parameters in a state; dropped entries become masked leaves only in `finished`."""
        return merge(state.trainable, self._frozen)

    def finished(self, state: TrainState) -> Any:
        """The output of the stage."""
        params = self.params(state)
        return finish(params, state.opt_state) if isinstance(self.stage, GradualPruning) else params

    def _diverged(self, losses: np.ndarray, done: int) -> FloatingPointError:
        bad = int(np.argmin(np.isfinite(losses)))
        return FloatingPointError(
            f"{type(self.stage).__name__}: the loss is {losses[bad]} at step {done + bad + 1} of {self.stage.steps}; "
            f"lower learning_rate ({self.stage.learning_rate}) or add warmup_steps"
        )

    def _picks(self, first: int, steps: int) -> Any:
        """What the batches of one chunk need, padded to the one length that is compiled."""
        padding = self.chunk - steps
        picks = self._batches.picks(first, steps)
        return jax.tree.map(lambda p: np.concatenate([p, np.repeat(p[-1:], padding, axis=0)]), picks)

    def _at(self, first: int, steps: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        return jnp.asarray(first, jnp.int32), jnp.asarray(steps, jnp.int32), self._loss_key


def _run_chunk(
    batches: Batches,
    objective: Callable[..., jax.Array],
    tx: optax.GradientTransformation,
    state: TrainState,
    frozen: Any,
    arrays: Any,
    picks: Any,
    first: jax.Array,
    steps: jax.Array,
    key: jax.Array,
) -> tuple[TrainState, jax.Array]:
    """Takes ``steps`` steps; returns the state and their losses, zero beyond."""
    length = jax.tree.leaves(picks)[0].shape[0]

    def body(i: jax.Array, carry: tuple[TrainState, jax.Array]) -> tuple[TrainState, jax.Array]:
        state, losses = carry
        batch = batches.pick(arrays, jax.tree.map(lambda p: p[i], picks))
        loss, grads = jax.value_and_grad(objective)(state.trainable, frozen, batch, jax.random.fold_in(key, first + i))
        updates, opt_state = tx.update(grads, state.opt_state, state.trainable)
        return TrainState(optax.apply_updates(state.trainable, updates), opt_state), losses.at[i].set(
            loss.astype(jnp.float32)
        )

    return jax.lax.fori_loop(0, steps, body, (state, jnp.zeros(length, jnp.float32)))


def _objective(loss: Loss, apply: Apply, trainable: Any, frozen: Any, batch: Any, key: jax.Array) -> jax.Array:
    return loss(apply, merge(trainable, frozen), batch, key)


def _transformation(stage: Training, sites: Sites | None) -> optax.GradientTransformation:
    tx = stage.transformation()
    if not isinstance(stage, GradualPruning):
        return tx
    last = stage.steps - 1
    return gradual_pruning(
        tx,
        sparsity=stage.sparsity,
        begin_step=min(round(stage.begin * stage.steps), last),
        end_step=min(round(stage.end * stage.steps), last),
        every=stage.every,
        scope=stage.scope,
        where=stage.prune_where,
        sites=sites,
    )


def _trains(stage: Training) -> Where:
    return stage.where if stage.where is not None else _not_statistics


def _not_statistics(path: str, leaf: Any) -> bool:
    del leaf
    return "batch_stats" not in path.split("/")
