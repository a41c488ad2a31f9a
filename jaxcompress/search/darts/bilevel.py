"""First-order DARTS: weights and architecture descend in turn, each on its own split, as one compiled step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from jaxcompress.search.darts.relaxation import doubt, relax

Apply = Callable[..., Any]
Loss = Callable[[Any, Any], jax.Array]


def weight_optimizer(steps: int, *, learning_rate: float = 0.025, last: float = 0.001) -> optax.GradientTransformation:
    """The optimizer that the paper trains weights with: SGD with momentum 0.9, weight decay 3e-4, cosine, clipped to 5.

    References:
        Liu et al., 2019, appendix A.1.1 (the learning rate falls to 0; the authors' code stops at 0.001).
    """
    schedule = optax.cosine_decay_schedule(learning_rate, max(steps, 1), alpha=last / learning_rate)
    return optax.chain(
        optax.clip_by_global_norm(5.0),
        optax.add_decayed_weights(3e-4),
        optax.sgd(schedule, momentum=0.9),
    )


def architecture_optimizer(*, learning_rate: float = 3e-4) -> optax.GradientTransformation:
    """The optimizer that the paper trains architectures with: Adam, beta (0.5, 0.999), L2 weight decay 1e-3."""
    return optax.chain(optax.add_decayed_weights(1e-3), optax.adam(learning_rate, b1=0.5, b2=0.999))


class DARTSState(NamedTuple):
    """Where a search stands: a pytree of arrays.

    Attributes:
        params: the shared weights.
        alphas: the architecture parameters, any tree of ``[..., operations]``.
        weights: state of the weights' optimizer.
        architecture: state of the architecture's optimizer.
    """

    params: Any
    alphas: Any
    weights: Any
    architecture: Any


class Losses(NamedTuple):
    """What a step saw: scalars, on the weights' batch and on the architecture's batch, each before its update."""

    train: jax.Array
    validation: jax.Array


@dataclasses.dataclass(frozen=True)
class Bilevel:
    """The step of algorithm 1 with xi = 0: the architecture descends first, then the weights with the new architecture.

    Args:
        apply: ``(params, mixture, inputs) -> outputs``, where ``mixture`` is the tree of the architecture parameters
            after the softmax: any function that weighs what operations give by it.
        loss: ``(outputs, targets) -> scalar``.
        weights: the optimizer of the weights.
        architecture: the optimizer of the architecture.
        decisiveness: what `doubt` weighs in the architecture's loss (0: the paper). Mixtures that are sure of
            themselves lose less when they become one operation (`discretization_gap`).

    References:
        Liu et al., 2019. https://arxiv.org/abs/1806.09055
    """

    apply: Apply
    loss: Loss
    weights: optax.GradientTransformation
    architecture: optax.GradientTransformation
    decisiveness: float = 0.0

    def init(self, params: Any, alphas: Any) -> DARTSState:
        """The state before the first step."""
        return DARTSState(params, alphas, self.weights.init(params), self.architecture.init(alphas))

    def objective(self, params: Any, alphas: Any, batch: tuple[Any, Any]) -> jax.Array:
        """The loss of the mixture on one batch ``(inputs, targets)``."""
        inputs, targets = batch
        return self.loss(self.apply(params, relax(alphas), inputs), targets)

    def step(self, state: DARTSState, train: tuple[Any, Any], validation: tuple[Any, Any]) -> tuple[DARTSState, Losses]:
        """One update of each; pure, for `jit` and `lax.scan`.

        Args:
            state: where the search stands.
            train: a batch ``(inputs, targets)`` of the split that weights learn from.
            validation: a batch of the other split, which weights never see.
        """

        def to_lower(alphas: Any) -> tuple[jax.Array, jax.Array]:
            loss = self.objective(state.params, alphas, validation)
            return loss + self.decisiveness * doubt(alphas) if self.decisiveness else loss, loss

        slope, validation_loss = jax.grad(to_lower, has_aux=True)(state.alphas)
        updates, architecture = self.architecture.update(slope, state.architecture, state.alphas)
        alphas = optax.apply_updates(state.alphas, updates)
        train_loss, slope = jax.value_and_grad(self.objective)(state.params, alphas, train)
        updates, weights = self.weights.update(slope, state.weights, state.params)
        params = optax.apply_updates(state.params, updates)
        return DARTSState(params, alphas, weights, architecture), Losses(train_loss, validation_loss)
