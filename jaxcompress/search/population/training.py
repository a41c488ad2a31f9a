"""Trains one candidate as a pure function of runtime arrays, so that one compiled program trains every candidate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxcompress.search.minibatches import minibatch_rows, rows_of, take_rows

Init: TypeAlias = "Callable[[Any, jax.Array], Any]"
Loss: TypeAlias = "Callable[[Any, Any, Any, jax.Array], jax.Array]"
Optimizer: TypeAlias = "Callable[[Any, jax.Array], optax.GradientTransformation]"


class Trained(NamedTuple):
    """What training made of a candidate.

    Attributes:
        params: its parameters, padded to the shapes that all candidates of the program have.
        steps: int32, gradient steps taken.
        loss: float32, mean loss over the last epoch, or over all steps where they are fewer.
        finite: bool, whether the losses of the last epoch and every parameter in the end are finite.
    """

    params: Any
    steps: jax.Array
    loss: jax.Array
    finite: jax.Array


@dataclasses.dataclass(frozen=True)
class Training:
    """How a candidate is trained. What differs between candidates is in arrays: nothing is compiled for the second one.

    A candidate is any pytree of arrays (a decoded genome): how wide, how deep, which learning rate. Its functions must
    not let padded entries of the parameters meet the data, as those of `MaskedMLP` and `MaskedCNN` do; then a candidate
    is trained as if it were alone in the world: the same numbers as those of the smaller network, in any population.

    The exception are optimizers that look at whole arrays of parameters and count their entries (``optax.adafactor``
    takes means): they see the padding. Elementwise ones, and norms, do not: padded entries are zero and stay so.

    Attributes:
        init: ``init(candidate, key) -> params``.
        loss: ``loss(params, batch, candidate, key) -> scalar``, minimised; the key is another one at every step.
        optimizer: ``optimizer(candidate, steps) -> optax.GradientTransformation``, where ``steps`` is the number that
            this candidate will be trained for (an int32 array, for schedules); `from_candidate` makes one of any
            factory of optax.
        steps: gradient steps of full fidelity.
        batch_size: rows of a batch. Each candidate goes through the data in an order of its own, every row once before
            any row again.

    Example:
        >>> training = Training(
        ...     init=lambda candidate, key: jnp.zeros(2),
        ...     loss=lambda params, batch, candidate, key: jnp.mean((batch["x"] @ params - batch["y"]) ** 2),
        ...     optimizer=from_candidate(optax.sgd, learning_rate="rate"),
        ...     steps=100,
        ...     batch_size=4,
        ... )
        >>> x = jax.random.normal(jax.random.key(0), (8, 2))
        >>> data = {"x": x, "y": x @ jnp.array([1.0, -1.0])}
        >>> training.fit({"rate": jnp.array(0.1)}, jax.random.key(1), data).params.round(2).tolist()
        [1.0, -1.0]
    """

    init: Init
    loss: Loss
    optimizer: Optimizer
    steps: int
    batch_size: int

    def __post_init__(self) -> None:
        """Raises ValueError or TypeError for a setting that cannot be carried out."""
        for name in ("init", "loss", "optimizer"):
            if not callable(value := getattr(self, name)):
                way = ": optimizer(candidate, steps) makes one for each candidate, see from_candidate"
                raise TypeError(f"Training: {name} must be a function, got {value!r}{way * (name == 'optimizer')}")
        for name in ("steps", "batch_size"):
            if not isinstance(value := getattr(self, name), int) or value < 1:
                raise ValueError(f"Training: {name} must be an integer of 1 or more, got {value!r}")

    def fit(self, candidate: Any, key: jax.Array, data: Any, *, fidelity: Any = None, params: Any = None) -> Trained:
        """Trains one candidate; `jit`, `vmap` and every executor accept it.

        Args:
            candidate: pytree of arrays.
            key: of the initial weights, the order of the data and the keys of ``loss``; consumed.
            data: pytree of arrays whose first axis are the rows.
            fidelity: the part of ``steps`` to take, in ``(0, 1]``, at least one step; may be traced. None takes all,
                and compiles to a loop of known length.
            params: where to begin (inherited weights), instead of ``init``.

        Returns:
            The trained candidate.

        Raises:
            ValueError: if the data holds fewer rows than a batch.
        """
        init_key, order_key, loss_key = jax.random.split(key, 3)
        params = self.init(candidate, init_key) if params is None else params
        order = minibatch_rows(order_key, rows_of(data), batch_size=self.batch_size, steps=self.steps)
        steps = self.steps if fidelity is None else steps_of(fidelity, self.steps)
        optimizer = self.optimizer(candidate, jnp.asarray(steps, jnp.int32))
        window = min(self.steps, max(1, rows_of(data) // self.batch_size))

        def step(i: jax.Array, state: tuple[Any, Any, jax.Array]) -> tuple[Any, Any, jax.Array]:
            params, opt_state, losses = state
            batch = take_rows(data, order[i])
            loss, grads = jax.value_and_grad(self.loss)(params, batch, candidate, jax.random.fold_in(loss_key, i))
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), opt_state, losses.at[i % window].set(loss.astype(jnp.float32))

        start = params, optimizer.init(params), jnp.full(window, jnp.nan, jnp.float32)
        params, _, losses = lax.fori_loop(0, steps, step, start)
        taken = jnp.asarray(steps, jnp.int32)
        seen = jnp.arange(window) < taken
        loss = jnp.mean(losses, where=seen)
        finite = jnp.isfinite(loss) & jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]).all()
        return Trained(params, taken, loss, finite)


def steps_of(fidelity: Any, steps: int) -> jax.Array:
    """How many of ``steps`` a fidelity means: rounded, from 1 to all of them. int32.

    Example:
        >>> [int(steps_of(fidelity, 90)) for fidelity in (0.0, 1 / 9, 1 / 3, 1.0)]
        [1, 10, 30, 90]
    """
    wanted = jnp.round(jnp.asarray(fidelity, jnp.float32) * steps).astype(jnp.int32)
    return jnp.clip(wanted, 1, steps)


def from_candidate(factory: Callable[..., optax.GradientTransformation], **where: str) -> Optimizer:
    """An optimizer whose hyperparameters are arrays of the candidate.

    Args:
        factory: of optax, or one of your own: ``factory(**hyperparameters)``; fix others with `functools.partial`.
        **where: for each hyperparameter where it stands in the candidate: ``learning_rate="training/rate"``.

    Returns:
        What `Training` takes as ``optimizer``; equal ones compare equal, so a program is found again.

    Example:
        >>> optimizer = from_candidate(optax.adamw, learning_rate="rate", weight_decay="decay")
        >>> optimizer == from_candidate(optax.adamw, learning_rate="rate", weight_decay="decay")
        True
        >>> _ = optimizer({"rate": jnp.array(1e-3), "decay": jnp.array(1e-4)}, 10)
    """
    return FromCandidate(factory, tuple(sorted(where.items())))


@dataclasses.dataclass(frozen=True)
class FromCandidate:
    """See `from_candidate`.

    Attributes:
        factory: makes the optimizer.
        where: pairs of a hyperparameter's name and its path in the candidate.
    """

    factory: Callable[..., optax.GradientTransformation]
    where: tuple[tuple[str, str], ...]

    def __call__(self, candidate: Any, steps: Any) -> optax.GradientTransformation:
        """The optimizer of one candidate."""
        del steps
        return self.factory(**{name: _at(candidate, path) for name, path in self.where})


def _at(candidate: Any, path: str) -> Any:
    value = candidate
    for name in path.split("/"):
        if not isinstance(value, Mapping) or name not in value:
            there = sorted(value) if isinstance(value, Mapping) else type(value).__name__
            raise KeyError(f"the candidate has no {path!r}: at {name!r} there is {there}")
        value = value[name]
    return value
