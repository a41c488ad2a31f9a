"""A whole search by gradient: epochs over two disjoint splits, each epoch one call of one compiled program."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcompress.search.darts.bilevel import (
    Apply,
    Bilevel,
    DARTSState,
    Loss,
    Losses,
    architecture_optimizer,
    weight_optimizer,
)
from jaxcompress.search.darts.relaxation import doubt, relax
from jaxcompress.search.minibatches import minibatch_rows, rows_of, take_rows


class Relaxed(NamedTuple):
    """What a search found.

    Attributes:
        params: the shared weights.
        alphas: the architecture parameters; `strongest_operations` or `strongest_edges` make them a cell.
        state: all that `search` needs to go on.
        losses: float32 ``[epochs]`` each: means over the steps of an epoch.
        doubt: float32 ``[epochs]``: how undecided the mixtures are (`jaxcompress.search.darts.doubt`).
    """

    params: Any
    alphas: Any
    state: DARTSState
    losses: Losses
    doubt: jax.Array

    @property
    def mixture(self) -> Any:
        """The softmax of the architecture parameters."""
        return relax(self.alphas)


def search(
    apply: Apply,
    params: Any,
    alphas: Any,
    *,
    loss: Loss,
    train: tuple[Any, Any],
    validation: tuple[Any, Any],
    key: jax.Array,
    epochs: int,
    batch_size: int = 64,
    weights: optax.GradientTransformation | None = None,
    architecture: optax.GradientTransformation | None = None,
    decisiveness: float = 0.0,
    state: DARTSState | None = None,
    progress: Callable[[int, Losses], None] | None = None,
) -> Relaxed:
    """Searches an architecture by gradient descent on its continuous relaxation (DARTS, first order).

    Args:
        apply: ``(params, mixture, inputs) -> outputs``; ``mixture`` is the tree ``alphas`` after a softmax over its
            last axes. Any function of the kind in plain JAX; `jaxcompress.search.cells.CellNetwork` is one.
        params: the shared weights at the start, float arrays.
        alphas: the architecture parameters at the start, as `start_alphas` makes them.
        loss: ``(outputs, targets) -> scalar``.
        train: ``(inputs, targets)``, trees of arrays with one number of rows: what weights learn from.
        validation: the same of *other* rows: what the architecture learns from (`jaxcompress.search.split` cuts them).
        key: the order of the rows.
        epochs: passes over ``train``.
        batch_size: rows of a step, of each split.
        weights: the optimizer of the weights, by default `weight_optimizer` over all steps.
        architecture: the optimizer of the architecture, by default `architecture_optimizer`.
        decisiveness: see `Bilevel`; 0 is the paper.
        state: of an earlier call, to go on with; ``params`` and ``alphas`` are not looked at then. The default of
            ``weights`` is planned for the epochs of one call: pass an optimizer planned for all of them.
        progress: called after every epoch with its number and mean losses.

    Returns:
        Weights, architecture parameters and the course of the search.

    Raises:
        ValueError: for settings that cannot be; for batches larger than a split; for an epoch whose losses are no
            numbers.

    References:
        Liu et al., 2019, algorithm 1 with xi = 0. https://arxiv.org/abs/1806.09055
    """
    if epochs < 1:
        raise ValueError(f"darts.search(epochs={epochs}): at least one epoch is needed")
    if batch_size < 1:
        raise ValueError(f"darts.search(batch_size={batch_size}): at least one row is needed")
    if decisiveness < 0:
        raise ValueError(f"darts.search(decisiveness={decisiveness}) must be 0 or more; below, it would reward doubt")
    rows, others = rows_of(train, "train"), rows_of(validation, "validation")
    steps = max(rows // batch_size, 1)
    bilevel = Bilevel(
        apply,
        loss,
        weight_optimizer(steps * epochs) if weights is None else weights,
        architecture_optimizer() if architecture is None else architecture,
        decisiveness,
    )
    now = bilevel.init(params, alphas) if state is None else state
    epoch = jax.jit(functools.partial(_epoch, bilevel))
    losses, doubts = [], []
    for number, epoch_key in enumerate(jax.random.split(key, epochs)):
        own, other = jax.random.split(epoch_key)
        tables = (
            minibatch_rows(own, rows, batch_size=batch_size, steps=steps),
            minibatch_rows(other, others, batch_size=batch_size, steps=steps),
        )
        now, mean, undecided = epoch(now, train, validation, *tables)
        if not all(jnp.isfinite(value) for value in mean):
            raise ValueError(
                f"darts.search: the losses of epoch {number} are {mean}; lower the learning rate or check the data"
            )
        losses.append(mean)
        doubts.append(undecided)
        if progress is not None:
            progress(number, mean)
    stacked = Losses(*(jnp.stack(column) for column in zip(*losses, strict=True)))
    return Relaxed(now.params, now.alphas, now, stacked, jnp.stack(doubts))


def _epoch(bilevel: Bilevel, state, train, validation, rows, others):
    """All steps of an epoch, the mean losses, and how undecided the mixtures are at its end."""

    def step(state, tables):
        own, other = tables
        return bilevel.step(state, take_rows(train, own), take_rows(validation, other))

    state, losses = jax.lax.scan(step, state, (rows, others))
    return state, Losses(*(jnp.mean(column) for column in losses)), doubt(state.alphas)
