"""ENAS's alternation: shared weights learn on sampled subnets, the controller learns on them; two compiled programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcompress.search.minibatches import minibatch_rows, rows_of, take_rows
from jaxcompress.search.strategies.enas import ENAS, ENASState
from jaxcompress.search.strategy import Fitness

if TYPE_CHECKING:
    from jaxcompress.search.space import Space

Apply = Callable[..., Any]
Loss = Callable[[Any, Any], jax.Array]


class SharingState(NamedTuple):
    """Where the alternation stands: a pytree of arrays.

    Attributes:
        params: the shared weights.
        optimizer: the state of their optimizer.
        controller: the state of the strategy.
    """

    params: Any
    optimizer: Any
    controller: ENASState


class Course(NamedTuple):
    """What a round saw, scalars.

    Attributes:
        loss: mean training loss of the sampled subnets.
        error: mean validation error of the subnets that the controller tried.
        best: the lowest of them.
        failed: how many gave no number.
    """

    loss: jax.Array
    error: jax.Array
    best: jax.Array
    failed: jax.Array


@dataclasses.dataclass(frozen=True)
class Alternation:
    """The two halves of a round, pure functions for `jit`.

    Args:
        space: of the subnets, discrete.
        apply: ``(params, genome, inputs) -> outputs`` with a decoded genome of runtime arrays: a supernet's ``apply``
            or any function.
        loss: ``(outputs, targets) -> scalar``: what weights descend.
        error: ``(outputs, targets) -> scalar``: what the controller is to make small.
        strategy: the controller.
        optimizer: of the weights.
        samples: how many subnets each weight step takes the mean gradient of (M of the paper's eq. 1; it uses 1).
        batch_size: rows of a step.
    """

    space: Space
    apply: Apply
    loss: Loss
    error: Loss
    strategy: ENAS
    optimizer: optax.GradientTransformation
    samples: int = 1
    batch_size: int = 64

    def init(self, params: Any, key: jax.Array) -> SharingState:
        """The state before the first round."""
        return SharingState(params, self.optimizer.init(params), self.strategy.init(self.space, key))

    def train_weights(self, state: SharingState, data: tuple[Any, Any], rows: jax.Array, key: jax.Array) -> Any:
        """Weight steps on minibatches ``rows`` ``[steps, batch]``, each for ``samples`` subnets drawn from the policy.

        A step whose gradient is not finite in all its numbers is left out: one subnet must not ruin the weights of
        all. Returns the state, and the mean loss of the steps taken (NaN if none).
        """

        def step(carry, now):
            params, optimizer = carry
            own, key = now
            inputs, targets = take_rows(data, own)
            genes, _ = self.strategy.draw(self.space, state.controller, key, self.samples)

            def one(total, genes):
                genome = self.space.decode(genes)
                result = jax.value_and_grad(lambda p: self.loss(self.apply(p, genome, inputs), targets))(params)
                return jax.tree.map(lambda a, b: a + b / self.samples, total, result), None

            nothing = (jnp.float32(0.0), jax.tree.map(jnp.zeros_like, params))
            (loss, slope), _ = jax.lax.scan(one, nothing, genes)
            finite = jnp.isfinite(optax.global_norm(slope)) & jnp.isfinite(loss)
            updates, new = self.optimizer.update(slope, optimizer, params)
            after = (optax.apply_updates(params, updates), new)
            carry = jax.tree.map(lambda a, b: jnp.where(finite, a, b), after, carry)
            return carry, jnp.where(finite, loss, jnp.nan)

        keys = jax.random.split(key, len(rows))
        (params, optimizer), losses = jax.lax.scan(step, (state.params, state.optimizer), (rows, keys))
        return state._replace(params=params, optimizer=optimizer), jnp.nanmean(losses)

    def train_controller(self, state: SharingState, data: tuple[Any, Any], rows: jax.Array) -> Any:
        """Controller steps: each asks for candidates and tells their errors on one minibatch of ``rows``.

        Returns the state, and the errors ``[steps, strategy.batch]``.
        """

        def step(controller, own):
            candidates, controller = self.strategy.ask(self.space, controller)
            errors = self.errors(state.params, candidates.genes, take_rows(data, own))
            fitness = Fitness(errors[:, None], jax.lax.map(self._violation, candidates.genes))
            return self.strategy.tell(self.space, controller, candidates, fitness), errors

        controller, errors = jax.lax.scan(step, state.controller, rows)
        return state._replace(controller=controller), errors

    def errors(self, params: Any, genes: Any, batch: tuple[Any, Any]) -> jax.Array:
        """The error of each subnet ``[n]`` on one batch, with the shared weights; infinite where it is no number."""
        inputs, targets = batch

        def one(genes):
            return self.error(self.apply(params, self.space.decode(genes), inputs), targets).astype(jnp.float32)

        errors = jax.lax.map(one, genes)
        return jnp.where(jnp.isfinite(errors), errors, jnp.inf)

    def _violation(self, genes: Any) -> jax.Array:
        return self.space.violation(self.space.decode(genes))


def course_of(loss: jax.Array, errors: jax.Array) -> Course:
    """The figures of a round."""
    finite = jnp.isfinite(errors)
    mean = jnp.sum(jnp.where(finite, errors, 0.0)) / jnp.maximum(jnp.sum(finite), 1)
    return Course(loss, jnp.where(finite.any(), mean, jnp.inf), jnp.min(errors), jnp.sum(~finite, dtype=jnp.int32))


def round_rows(key: jax.Array, data: Any, name: str, *, batch_size: int, steps: int) -> jax.Array:
    """Minibatches of one half of a round, int32 ``[steps, batch_size]``."""
    return minibatch_rows(key, rows_of(data, name), batch_size=batch_size, steps=steps)
