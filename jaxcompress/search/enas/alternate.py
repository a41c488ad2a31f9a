"""A whole ENAS search: rounds of weights and controller in turn, stage by stage in a growing network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcompress.core.paths import Where
from jaxcompress.search.enas.alternation import Alternation, Apply, Course, Loss, SharingState, course_of, round_rows
from jaxcompress.search.enas.boundary import allowed_values
from jaxcompress.search.genes import Genes
from jaxcompress.search.minibatches import rows_of
from jaxcompress.search.strategies.enas import ENAS

if TYPE_CHECKING:
    from jaxcompress.search.space import Space


@dataclasses.dataclass(frozen=True)
class GrowthStage:
    """A part of the search in which the network has only some of the values of its space.

    Args:
        rounds: how long.
        limits: what there is, by path: `jaxcompress.search.allowed_values`. None: everything.

    Raises:
        ValueError: without a round.
    """

    rounds: int
    limits: Mapping[str, Sequence[Any]] | None = None

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"GrowthStage(rounds={self.rounds}): at least one round is needed")


class Shared(NamedTuple):
    """What an alternation found.

    Attributes:
        alternation: the functions, for going on or evaluating.
        state: weights and controller; give it to `alternate` as ``state=`` to go on.
        course: figures of every round, ``[rounds]`` each.
    """

    alternation: Alternation
    state: SharingState
    course: Course

    @property
    def params(self) -> Any:
        """The shared weights."""
        return self.state.params

    def derive(self, key: jax.Array, validation: tuple[Any, Any], *, samples: int = 32) -> tuple[Genes, jax.Array]:
        """Draws subnets from the policy and sorts them by their error with the shared weights (the paper's 2.3).

        Args:
            key: consumed.
            validation: ``(inputs, targets)``, evaluated as one batch.
            samples: how many are drawn; one more is the policy's likeliest.

        Returns:
            The candidates ``[samples + 1]`` from the best on, and their errors. The paper trains the first one, or a
            few of them, from scratch.
        """
        return jax.jit(_derive, static_argnums=(0, 4))(self.alternation, self.state, validation, key, samples)


def alternate(
    space: Space,
    apply: Apply,
    params: Any,
    *,
    loss: Loss,
    error: Loss,
    train: tuple[Any, Any],
    validation: tuple[Any, Any],
    key: jax.Array,
    rounds: int | Sequence[GrowthStage],
    strategy: ENAS | None = None,
    optimizer: optax.GradientTransformation | None = None,
    samples: int = 1,
    weight_steps: int | None = None,
    controller_steps: int = 30,
    batch_size: int = 64,
    where: Where = None,
    state: SharingState | None = None,
    progress: Callable[[int, Course], None] | None = None,
) -> Shared:
    """Trains shared weights and a controller in turn (ENAS): each round is one call of each of two compiled programs.

    The first half trains the weights on subnets that the policy, held still, draws; the second the controller, with
    the weights held still, on errors of minibatches of the validation split, which the weights never see.

    With stages the network grows: the first ones have few of the values that the space names, later ones more. Weights,
    controller, optimizers and baseline are kept, and so are the two programs: limits are data.

    Args:
        space: of the subnets, discrete.
        apply: ``(params, genome, inputs) -> outputs`` with a decoded genome of runtime arrays: ``supernet.apply``,
            ``CellNetwork.apply`` or any function of the kind. One with batch normalization uses the statistics of its
            batch, as the paper's does: see the example.
        params: the shared weights at the start; with anything else that ``apply`` reads, such as running statistics.
        loss: ``(outputs, targets) -> scalar``: what weights descend.
        error: ``(outputs, targets) -> scalar``: what the controller is to make small.
        train: ``(inputs, targets)``, trees of arrays with one number of rows.
        validation: the same of other rows (`jaxcompress.search.split` cuts them).
        key: of everything that is drawn, consumed.
        rounds: how many, or `GrowthStage`s.
        strategy: the controller; `ENAS` by default.
        optimizer: of the weights; by default the paper's kind: SGD, Nesterov momentum 0.9, weight decay 1e-4, gradients
            clipped to norm 5, one cosine from 0.05 to 0.001 over all steps.
        samples: subnets per weight step (M of eq. 1; the paper uses 1).
        weight_steps: of a round; by default a pass over ``train``.
        controller_steps: of a round, each on ``strategy.batch`` candidates.
        batch_size: rows of a step, of each split.
        where: the leaves that train (a path, a tuple of them, or a function); default all float ones outside of a
            ``batch_stats`` collection. The others stay as they are.
        state: of an earlier call, to go on with; ``params`` is not looked at then. The default of ``optimizer`` is
            planned for the rounds of one call: pass one planned for all of them.
        progress: called after every round with its number and figures.

    Returns:
        Weights, controller, and the course of the search.

    Raises:
        TypeError: for a strategy that is no `ENAS`.
        ValueError: for rounds, steps or batches that cannot be; for a round in which no weight step had a finite
            gradient.

    Example:
        An elastic module whose batch normalizations are in training mode; what they would note is dropped::

            def apply(variables, genome, images):
                return network.apply(variables, genome, images, mutable=["batch_stats"])[0]

    References:
        Pham et al., 2018, sections 2.2 and 2.3. https://arxiv.org/abs/1802.03268
    """
    stages = (GrowthStage(rounds),) if isinstance(rounds, int) else tuple(rounds)
    if not stages or not all(isinstance(stage, GrowthStage) for stage in stages):
        raise ValueError(f"alternate(rounds={rounds!r}): a number of rounds, or some GrowthStages")
    strategy = ENAS() if strategy is None else strategy
    if not isinstance(strategy, ENAS):
        raise TypeError(f"alternate(strategy=) must be an ENAS, whose policy draws the subnets, got {strategy!r}")
    if batch_size < 1:
        raise ValueError(f"alternate(batch_size={batch_size}) must be at least 1")
    tables = [allowed_values(space, stage.limits) for stage in stages]
    plan = [table for stage, table in zip(stages, tables, strict=True) for _ in range(stage.rounds)]
    steps = max(rows_of(train, "train") // batch_size, 1) if weight_steps is None else weight_steps
    for name, value in (("samples", samples), ("weight_steps", steps), ("controller_steps", controller_steps)):
        if value < 1:
            raise ValueError(f"alternate({name}={value}) must be at least 1")
    optimizer = weight_optimizer(steps * len(plan)) if optimizer is None else optimizer
    alternation = Alternation(space, apply, loss, error, strategy, optimizer, samples, batch_size, where)
    weights, controller = jax.jit(alternation.train_weights), jax.jit(alternation.train_controller)
    start, key = jax.random.split(key)
    now = alternation.init(params, start) if state is None else state
    course = []
    for number, (allowed, own) in enumerate(zip(plan, jax.random.split(key, len(plan)), strict=True)):
        first, draws, second = jax.random.split(own, 3)
        now = now._replace(controller=strategy.grow(now.controller, allowed))
        rows = round_rows(first, train, "train", batch_size=batch_size, steps=steps)
        now, mean_loss = weights(now, train, rows, draws)
        if not jnp.isfinite(mean_loss):
            raise ValueError(
                f"alternate: no weight step of round {number} had a finite gradient: check data and weights"
            )
        rows = round_rows(second, validation, "validation", batch_size=batch_size, steps=controller_steps)
        now, errors = controller(now, validation, rows)
        course.append(course_of(mean_loss, errors))
        if progress is not None:
            progress(number, course[-1])
    return Shared(alternation, now, Course(*(jnp.stack(column) for column in zip(*course, strict=True))))


def weight_optimizer(steps: int) -> optax.GradientTransformation:
    """What `alternate` trains weights with unless told otherwise."""
    schedule = optax.cosine_decay_schedule(0.05, max(steps, 1), alpha=0.001 / 0.05)
    return optax.chain(
        optax.clip_by_global_norm(5.0),
        optax.add_decayed_weights(1e-4),
        optax.sgd(schedule, momentum=0.9, nesterov=True),
    )


def _derive(alternation: Alternation, state: SharingState, validation: Any, key: jax.Array, samples: int) -> Any:
    genes, _ = alternation.strategy.draw(alternation.space, state.controller, key, samples)
    likeliest = alternation.strategy.likeliest(alternation.space, state.controller)
    genes = jax.tree.map(lambda rows, one: jnp.concatenate([rows, one[None]]), genes, likeliest)
    errors = alternation.errors(state.params, genes, validation)
    order = jnp.argsort(errors)
    return jax.tree.map(lambda rows: rows[order], genes), errors[order]
