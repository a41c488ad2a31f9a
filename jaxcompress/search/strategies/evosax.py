"""Strategies of evosax: genes as floats, choices as the largest of a logit for each value."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.search.checks import whole
from jaxcompress.search.genes import Genes
from jaxcompress.search.strategies.floats import genes_of, vectors_of, width_of
from jaxcompress.search.strategies.judgement import FAILED, Judged, best_first, judged, nobody
from jaxcompress.search.strategies.seeding import checked_seeds
from jaxcompress.search.strategy import Candidates, Fitness

if TYPE_CHECKING:
    from jaxcompress.search.space import Space


class EvosaxState(NamedTuple):
    """The state of an `Evosax` search.

    Attributes:
        key: what is drawn next comes from it.
        step: int32, how often fitness was told.
        start: ``[n, width]``: the vectors of the candidates to begin with; none, where a distribution begins alone.
        judged: the fitness of these as far as it is known.
        range: float32 ``[2]``: the least and the largest objective of feasible candidates so far.
        vectors: ``[batch, width]``: what was asked for last.
        inner: evosax's own state.
    """

    key: jax.Array
    step: jax.Array
    start: jax.Array
    judged: Judged
    range: jax.Array
    vectors: jax.Array
    inner: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evosax:
    """Any strategy of evosax, whether it holds a population or a distribution.

    A discrete variable is a logit for each of its values, the largest is chosen; a continuous one is a float whose
    normal distribution function is the place between the bounds, so that a standard normal vector is a uniform sample.
    Candidates that fail or break constraints are told as worse than any feasible one so far, by up to the range of
    the objective. Candidates may come again: the vectors behind them differ. One objective, the first.

    Args:
        algorithm: a name in ``evosax.algorithms`` (``"SNES"``, ``"CMA_ES"``, ``"DifferentialEvolution"``), or a class
            of the same kind.
        population: its ``population_size``.
        options: other arguments of its constructor (an optimizer, ``num_populations``), hashable values.
        params: what to change in its ``default_params`` (``{"std_init": 0.5}``).

    Raises:
        ImportError: without evosax; names the extra.
        ValueError: for a name evosax has not, or a parameter that the algorithm has not.

    Example:
        >>> Evosax(algorithm="SNES", population=20).batch
        20

    References:
        Lange, 2022: evosax. https://arxiv.org/abs/2212.04180
    """

    algorithm: Any = "SNES"
    population: int = 20
    options: Any = ()
    params: Any = ()

    def __post_init__(self) -> None:
        whole(self, population=self.population)
        for name in ("options", "params"):
            given = dict(getattr(self, name))
            object.__setattr__(self, name, tuple((key, given[key]) for key in sorted(given)))
        _algorithm_class(self.algorithm)

    @property
    def batch(self) -> int:
        """The size of all populations together."""
        return self.population * dict(self.options).get("num_populations", 1)

    @property
    def multi_fidelity(self) -> bool:
        """Every candidate gets the full effort."""
        return False

    def init(self, space: Space, key: jax.Array, *, objectives: int = 1, seeds: Genes | None = None) -> EvosaxState:
        """The state before the first question.

        A population begins with the seeds and samples; a distribution at 0, or, where there are seeds, these are asked
        for first, filled up with samples, and it begins around the best of them.
        """
        whole(self, objectives=objectives)
        key, of_samples, of_inner = jax.random.split(key, 3)
        seeds = None if seeds is None else checked_seeds(space, seeds)
        given = 0 if seeds is None else len(seeds.codes)
        size = -(-max(given, self.batch if self._holds_population else 0) // self.batch) * self.batch
        start = jax.random.normal(of_samples, (size - given, width_of(space)), jnp.float32)
        if seeds is not None:
            start = jnp.concatenate([vectors_of(space, seeds), start])
        vectors = jnp.zeros((self.batch, width_of(space)), jnp.float32)
        inner = self._begin(space, of_inner, vectors, jnp.zeros(self.batch, jnp.float32))
        extremes = jnp.array([jnp.inf, -jnp.inf], jnp.float32)
        return EvosaxState(key, jnp.int32(0), start, nobody(size, objectives), extremes, vectors, inner)

    def ask(self, space: Space, state: EvosaxState) -> tuple[Candidates, EvosaxState]:
        """The next candidates, those to begin with first."""
        key, now = jax.random.split(state.key)

        def begin() -> tuple[jax.Array, Any]:
            return _slice(state.start, state.step, self.batch), state.inner

        def proceed() -> tuple[jax.Array, Any]:
            algorithm, params = _built(self, space)
            with _lenient():
                vectors, inner = algorithm.ask(now, state.inner, params)
            return vectors.astype(jnp.float32), _like(inner, state.inner)

        opening = len(state.start) // self.batch
        vectors, inner = lax.cond(state.step < opening, begin, proceed) if opening else proceed()
        genes = genes_of(space, vectors)
        return Candidates(genes, jnp.ones(self.batch, jnp.float32)), state._replace(
            key=key, vectors=vectors, inner=inner
        )

    def tell(self, space: Space, state: EvosaxState, candidates: Candidates, fitness: Fitness) -> EvosaxState:
        """The state that knows the fitness of what was asked for last."""
        key, now = jax.random.split(state.key)
        told = judged(fitness)
        extremes = _extremes(state.range, told)

        def open_() -> tuple[Judged, Any]:
            known = jax.tree.map(lambda a, b: _put(a, b, state.step, self.batch), state.judged, told)
            best = best_first(known)[: self.batch]
            scores = _scores(jax.tree.map(lambda row: row[best], known), extremes)
            return known, self._begin(space, now, state.start[best], scores)

        def proceed() -> tuple[Judged, Any]:
            algorithm, params = _built(self, space)
            with _lenient():
                inner, _ = algorithm.tell(now, state.vectors, _scores(told, extremes), state.inner, params)
            return state.judged, _like(inner, state.inner)

        opening = len(state.start) // self.batch
        known, inner = lax.cond(state.step < opening, open_, proceed) if opening else proceed()
        return state._replace(key=key, step=state.step + 1, judged=known, range=extremes, inner=inner)

    @property
    def _holds_population(self) -> bool:
        from evosax.algorithms.population_based.base import PopulationBasedAlgorithm

        return issubclass(_algorithm_class(self.algorithm), PopulationBasedAlgorithm)

    def _begin(self, space: Space, key: jax.Array, vectors: jax.Array, scores: jax.Array) -> Any:
        """Evosax's state around the first of ``vectors``, or with all of them as the population."""
        algorithm, params = _built(self, space)
        with _lenient():
            if self._holds_population:
                inner = algorithm.init(key, vectors, scores, params)
            elif hasattr(algorithm, "num_populations"):
                means = jnp.broadcast_to(vectors[:1], (algorithm.num_populations, vectors.shape[1]))
                inner = algorithm.init(key, means, params)
            else:
                inner = algorithm.init(key, vectors[0], params)
        return _like(inner, inner)


@functools.lru_cache(maxsize=256)
def _built(strategy: Evosax, space: Space) -> tuple[Any, Any]:
    """The evosax object and its parameters: one for each strategy and space, since it is a static argument there."""
    with jax.ensure_compile_time_eval(), _lenient():
        algorithm = _algorithm_class(strategy.algorithm)(
            population_size=strategy.population,
            solution=jnp.zeros(width_of(space), jnp.float32),
            **dict(strategy.options),
        )
        params = algorithm.default_params
        names = {field.name for field in dataclasses.fields(params)}
        for name, _ in strategy.params:
            if name not in names:
                raise ValueError(f"Evosax(params=): {strategy.algorithm} has no {name!r}, it has {sorted(names)}")
        return algorithm, dataclasses.replace(params, **dict(strategy.params))


def _algorithm_class(algorithm: Any) -> Any:
    try:
        from evosax.algorithms import algorithms
    except ImportError as error:
        raise ImportError("Evosax needs evosax: pip install 'jaxcompress[evosax]'") from error
    if not isinstance(algorithm, str):
        return algorithm
    if algorithm not in algorithms:
        raise ValueError(f"Evosax(algorithm={algorithm!r}): evosax has {', '.join(sorted(algorithms))}")
    return algorithms[algorithm]


@contextlib.contextmanager
def _lenient() -> Iterator[None]:
    """Evosax relies on promotion of dtypes and ranks, which callers may have forbidden."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def _like(new: Any, old: Any) -> Any:
    """Every array in the dtype of the old one, and no longer weakly typed: a `scan` carries it."""

    def cast(value: Any, like: Any) -> jax.Array:
        dtype = jnp.asarray(like).dtype
        if jnp.issubdtype(dtype, jax.dtypes.prng_key):
            return value
        return lax.convert_element_type(value, dtype)

    return jax.tree.map(cast, new, old)


def _extremes(known: jax.Array, told: Judged) -> jax.Array:
    objective, feasible = told.objectives[:, 0], told.violation == 0
    least = jnp.where(feasible, objective, jnp.inf).min()
    most = jnp.where(feasible, objective, -jnp.inf).max()
    return jnp.stack([jnp.minimum(known[0], least), jnp.maximum(known[1], most)])


def _scores(told: Judged, extremes: jax.Array) -> jax.Array:
    """One finite number each: the objective, or behind the worst feasible one by up to the range of the objective."""
    base = jnp.where(jnp.isfinite(extremes[1]), extremes[1], 0)
    extent = jnp.where(extremes[1] > extremes[0], extremes[1] - extremes[0], 1)
    behind = jnp.where(told.violation < FAILED, told.violation / (1 + told.violation), 1)
    return jnp.where(told.violation == 0, told.objectives[:, 0], base + extent * behind)


def _slice(rows: jax.Array, step: jax.Array, batch: int) -> jax.Array:
    return lax.dynamic_slice_in_dim(rows, step * batch, batch)


def _put(rows: jax.Array, new: jax.Array, step: jax.Array, batch: int) -> jax.Array:
    return lax.dynamic_update_slice_in_dim(rows, new, step * batch, 0)
