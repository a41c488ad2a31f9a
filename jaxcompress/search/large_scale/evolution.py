"""Large-scale evolution: from trivial networks by structural mutations, children go on from their parents' weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.core import Tracer

from jaxcompress.search.checks import at_most, between, positive, whole
from jaxcompress.search.executors import Executor, population_evaluator
from jaxcompress.search.large_scale.dna import DNA, Bounds, parameters, trivial
from jaxcompress.search.large_scale.inheritance import inherited
from jaxcompress.search.large_scale.mutations import Child, Mutation, mutate
from jaxcompress.search.large_scale.network import Weights, apply, drawn_weights
from jaxcompress.search.population import Training
from jaxcompress.search.population.population import check_finite


class Individuals(NamedTuple):
    """Trained networks; every array leads with their number.

    Attributes:
        dna: the networks.
        weights: their trained weights.
        error: float32, the part of the valid data that they get wrong; infinite where training failed.
        mutation: int32, the `Mutation` that made each, -1 for those of the beginning.
        generation: int32, in which each was born.
    """

    dna: DNA
    weights: Weights
    error: jax.Array
    mutation: jax.Array
    generation: jax.Array


class EvolutionState(NamedTuple):
    """All that a checkpoint needs.

    Attributes:
        key: what comes next is drawn with.
        generation: int32.
        population: the living.
    """

    key: jax.Array
    generation: jax.Array
    population: Individuals


class Generation(NamedTuple):
    """What happened in one generation.

    Attributes:
        best: float32, the least error of the living.
        mean: float32, their mean error; failed ones are left out.
        failed: int32, how many of the living have failed.
        layers: float32, their mean number of layers.
        parameters: int32, of the best one.
        mutation: int32 ``[pairs]``, what was done to the winners.
        parent_error: float32 ``[pairs]``, of the winners.
        child_error: float32 ``[pairs]``, of their children.
    """

    best: jax.Array
    mean: jax.Array
    failed: jax.Array
    layers: jax.Array
    parameters: jax.Array
    mutation: jax.Array
    parent_error: jax.Array
    child_error: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class LargeScaleEvolution:
    """Evolution of Real et al.: of two random individuals the worse one dies, the better one has a child.

    The child is a mutated copy that begins with its parent's weights where they fit, is trained for some steps, and
    takes the dead one's place. Everybody begins as a network without any layer. In the paper workers do this one by
    one, each at its own pace; here ``pairs`` disjoint pairs meet at a time and their children are trained by one
    program.

    The functions are pure, and `jit` and `vmap` accept them; a generation compiles nothing that the last one did not.

    Attributes:
        bounds: how far networks may grow.
        population: how many individuals live.
        pairs: how many children each generation has, at most half of the population.
        steps: gradient steps of each child (SGD with momentum 0.9, the paper's).
        batch_size: rows of a batch.
        rate: learning rate of the first individuals, 0.1 in the paper.
        weight_decay: 1e-4 in the paper.
        executor: as in `jaxcompress.search.population_evaluator`.

    Example:
        >>> bounds = Bounds(image=(4, 4, 1), outputs=2, layers=2, channels=2, kernel=3)
        >>> evolution = LargeScaleEvolution(bounds=bounds, population=4, pairs=2, steps=5, batch_size=4)
        >>> x, y = jnp.ones((8, 4, 4, 1)), jnp.zeros(8, jnp.int32)
        >>> data = {"train": {"x": x, "y": y}, "valid": {"x": x, "y": y}}
        >>> state = evolution.init(jax.random.key(0), data)
        >>> state, history = evolution.run(state, data, generations=2)
        >>> history.child_error.shape
        (2, 2)

    References:
        Real et al., 2017: Large-Scale Evolution of Image Classifiers. https://arxiv.org/abs/1703.01041
    """

    bounds: Bounds
    population: int = 16
    pairs: int = 4
    steps: int = 200
    batch_size: int = 50
    rate: float = 0.1
    weight_decay: float = 1e-4
    executor: str | Executor = "map"

    def __post_init__(self) -> None:
        whole(self, least=2, population=self.population)
        whole(self, pairs=self.pairs, steps=self.steps, batch_size=self.batch_size)
        at_most(self, "pairs", self.pairs, "half of the population", self.population // 2)
        positive(self, rate=self.rate)
        between(self, 0, 1, weight_decay=self.weight_decay)

    def init(self, key: jax.Array, data: Any) -> EvolutionState:
        """Trivial networks, trained.

        Args:
            key: a typed PRNG key; all that is drawn later comes from it.
            data: ``{"train": {"x": images, "y": labels}, "valid": ...}``; images float32 ``[rows, height, width,
                channels]``, labels int32 ``[rows]``.

        Raises:
            ValueError: on NaN or infinite images, images of another shape or labels beyond the outputs of the bounds.
        """
        check_finite(data, "data")
        for part in ("train", "valid"):
            if (shape := data[part]["x"].shape[1:]) != self.bounds.image:
                raise ValueError(
                    f"the images of data[{part!r}] have shape {shape}, the bounds say {self.bounds.image}: "
                    "pass Bounds(image=...) as they are"
                )
            labels = data[part]["y"]
            if not isinstance(labels, Tracer) and not ((labels >= 0) & (labels < self.bounds.outputs)).all():
                raise ValueError(f"the labels of data[{part!r}] must be in [0, {self.bounds.outputs}), the outputs")
        return _init(self, key, data)

    def generation(self, state: EvolutionState, data: Any) -> tuple[EvolutionState, Generation]:
        """Tournaments, mutations, training: one generation."""
        return _generation(self, state, data)

    def run(self, state: EvolutionState, data: Any, *, generations: int) -> tuple[EvolutionState, Generation]:
        """Several generations as one program.

        Returns:
            The last state, and what happened: every array leads with ``generations``.
        """
        return _run(self, state, data, generations)

    def best(self, state: EvolutionState) -> tuple[DNA, Weights]:
        """The living network of the least error on the valid data."""
        at = jnp.argmin(state.population.error)
        return jax.tree.map(lambda x: x[at], (state.population.dna, state.population.weights))

    def logits(self, weights: Weights, dna: DNA, images: jax.Array) -> jax.Array:
        """What a network says of images; see `jaxcompress.search.large_scale.apply`."""
        return apply(self.bounds, weights, dna, images)

    def trained(self, dna: DNA, weights: Weights, keys: jax.Array, data: Any) -> tuple[Weights, jax.Array]:
        """Networks ``[n]`` after training, and their errors on the valid data."""
        training = Training(
            init=_no_init,
            loss=partial(_loss, self.bounds),
            optimizer=partial(_optimizer, self.weight_decay),
            steps=self.steps,
            batch_size=self.batch_size,
        )

        def one(individual: tuple[DNA, Weights], key: jax.Array, data: Any) -> tuple[Weights, jax.Array]:
            dna, weights = individual
            found = training.fit(dna, key, data["train"], params=weights)
            logits = apply(self.bounds, found.params, dna, data["valid"]["x"])
            error = (logits.argmax(-1) != data["valid"]["y"]).mean(dtype=jnp.float32)
            return found.params, jnp.where(found.finite & jnp.isfinite(logits).all(), error, jnp.inf)

        many: Callable[..., Any] = population_evaluator(one, self.executor)
        return many((dna, weights), keys, data)


@partial(jax.jit, static_argnums=0)
def _init(evolution: LargeScaleEvolution, key: jax.Array, data: Any) -> EvolutionState:
    n = evolution.population
    key, draw, train = jax.random.split(key, 3)
    start = trivial(evolution.bounds, rate=evolution.rate)
    dna = jax.tree.map(lambda x: jnp.broadcast_to(x, (n, *x.shape)), start)
    weights = jax.vmap(lambda key: drawn_weights(evolution.bounds, start, key))(jax.random.split(draw, n))
    weights, error = evolution.trained(dna, weights, jax.random.split(train, n), data)
    nobody, zero = jnp.full(n, -1, jnp.int32), jnp.zeros(n, jnp.int32)
    return EvolutionState(key, jnp.int32(0), Individuals(dna, weights, error, nobody, zero))


@partial(jax.jit, static_argnums=0)
def _generation(evolution: LargeScaleEvolution, state: EvolutionState, data: Any) -> tuple[EvolutionState, Generation]:
    key, draw, change, fresh, train = jax.random.split(state.key, 5)
    living, pairs = state.population, evolution.pairs
    drawn = jax.random.permutation(draw, evolution.population)[: 2 * pairs].reshape(pairs, 2)
    first_wins = living.error[drawn[:, 0]] <= living.error[drawn[:, 1]]
    winners, losers = jnp.where(first_wins, drawn.T, drawn.T[::-1])
    parents = jax.tree.map(lambda x: x[winners], living)
    children = jax.vmap(partial(mutate, evolution.bounds))(parents.dna, jax.random.split(change, pairs))
    children = _healed(children, parents.error)
    heirs = jax.vmap(partial(inherited, evolution.bounds))
    weights = heirs(parents.dna, parents.weights, children, jax.random.split(fresh, pairs))
    weights, error = evolution.trained(children.dna, weights, jax.random.split(train, pairs), data)
    born = jnp.full(pairs, state.generation + 1)
    new = Individuals(children.dna, weights, error, children.mutation, born)
    living = jax.tree.map(lambda old, now: old.at[losers].set(now), living, new)
    told = _told(evolution.bounds, living, children.mutation, parents.error, error)
    return EvolutionState(key, state.generation + 1, living), told


@partial(jax.jit, static_argnums=(0, 3))
def _run(evolution: LargeScaleEvolution, state: EvolutionState, data: Any, generations: int) -> Any:
    return lax.scan(lambda state, _: _generation(evolution, state, data), state, length=generations)


def _healed(children: Child, parent_error: jax.Array) -> Child:
    """Children of parents whose training failed begin with fresh weights: there is nothing to inherit."""
    failed = ~jnp.isfinite(parent_error)
    return children._replace(
        origin=jnp.where(failed[:, None], -1, children.origin),
        mutation=jnp.where(failed, jnp.int32(Mutation.RESET_WEIGHTS), children.mutation),
    )


def _told(
    bounds: Bounds, living: Individuals, mutation: jax.Array, parent_error: jax.Array, child_error: jax.Array
) -> Generation:
    fine = jnp.isfinite(living.error)
    best = jnp.argmin(living.error)
    return Generation(
        living.error[best],
        jnp.mean(living.error, where=fine),
        (~fine).sum(dtype=jnp.int32),
        living.dna.count.mean(dtype=jnp.float32),
        parameters(bounds, jax.tree.map(lambda x: x[best], living.dna)),
        mutation,
        parent_error,
        child_error,
    )


def _no_init(dna: DNA, key: jax.Array) -> Weights:
    raise AssertionError("individuals bring their weights")


def _loss(bounds: Bounds, weights: Weights, batch: Any, dna: DNA, key: jax.Array) -> jax.Array:
    del key
    logits = apply(bounds, weights, dna, batch["x"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()


def _optimizer(decay: float, dna: DNA, steps: jax.Array) -> optax.GradientTransformation:
    del steps
    return optax.chain(optax.add_decayed_weights(decay), optax.sgd(dna.rate, momentum=0.9))
