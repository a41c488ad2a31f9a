"""ENAS's alternation: shared weights learn on sampled subnets, the controller learns on them; two compiled programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcompress.core.paths import Where
from jaxcompress.core.tree import merge
from jaxcompress.search.minibatches import minibatch_rows, rows_of, take_rows
from jaxcompress.search.shared_weights import split_shared
from jaxcompress.search.strategies.enas import ENAS, ENASState
from jaxcompress.search.strategy import Fitness

if TYPE_CHECKING:
    from jaxcompress.search.space import Space

Apply = Callable[..., Any]
Loss = Callable[[Any, Any], jax.Array]


class SharingState(NamedTuple):
    """Where the alternation stands: a pytree of arrays.

    Attributes:
        params: the shared weights, and whatever else ``apply`` reads.
        optimizer: the state of the optimizer, for the leaves that train.
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
        where: the leaves that train; default all float ones outside of a ``batch_stats`` collection.
    """

    space: Space
    apply: Apply
    loss: Loss
    error: Loss
    strategy: ENAS
    optimizer: optax.GradientTransformation
    samples: int = 1
    batch_size: int = 64
    where: Where = None

    def init(self, params: Any, key: jax.Array) -> SharingState:
        """The state before the first round."""
        return SharingState(
            params, self.optimizer.init(split_shared(params, self.where)[0]), self.strategy.init(self.space, key)
        )

    def train_weights(self, state: SharingState, data: tuple[Any, Any], rows: jax.Array, key: jax.Array) -> Any:
        """Weight steps on minibatches ``rows`` ``[steps, batch]``, each for ``samples`` subnets drawn from the policy.

        A subnet whose loss or gradient is not finite does not count: one must not ruin the weights of all. Where none
        counts the step is left out.

        Returns:
            The state, and the mean loss of the steps that were taken (NaN without any).
        """
        params, frozen = split_shared(state.params, self.where)

        def step(carry, now):
            params, optimizer = carry
            own, key = now
            inputs, targets = take_rows(data, own)
            genes, _ = self.strategy.draw(self.space, state.controller, key, self.samples)

            def one(total, genes):
                genome = self.space.decode(genes)
                own = jax.value_and_grad(lambda p: self.loss(self.apply(merge(p, frozen), genome, inputs), targets))(
                    params
                )
                finite = jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(own)]))
                own = (*own, jnp.float32(1.0))
                return jax.tree.map(lambda a, b: jnp.where(finite, a + b, a), total, own), None

            nothing = (jnp.float32(0.0), jax.tree.map(jnp.zeros_like, params), jnp.float32(0.0))
            (loss, slope, count), _ = jax.lax.scan(one, nothing, genes)
            slope = jax.tree.map(lambda leaf: leaf / jnp.maximum(count, 1.0).astype(leaf.dtype), slope)
            updates, new = self.optimizer.update(slope, optimizer, params)
            after = (optax.apply_updates(params, updates), new)
            carry = jax.tree.map(lambda a, b: jnp.where(count > 0, a, b), after, carry)
            return carry, loss / jnp.where(count > 0, count, jnp.nan)

        keys = jax.random.split(key, len(rows))
        (params, optimizer), losses = jax.lax.scan(step, (params, state.optimizer), (rows, keys))
        return state._replace(params=merge(params, frozen), optimizer=optimizer), jnp.nanmean(losses)

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
        """The error of each subnet ``[n]`` on one batch, with the shared weights.

        Infinite where it or an output is no finite number: the argmax of NaN is a class like any other.
        """
        inputs, targets = batch

        def one(genes):
            outputs = self.apply(params, self.space.decode(genes), inputs)
            error = self.error(outputs, targets).astype(jnp.float32)
            finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in (error, *jax.tree.leaves(outputs))])
            return jnp.where(finite.all(), error, jnp.inf)

        return jax.lax.map(one, genes)

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
