"""What is searched for: a space, the evaluation of one candidate, what is minimised and what is limited."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxcompress.search.genes import Genes
from jaxcompress.search.strategy import Fitness, Strategy

if TYPE_CHECKING:
    from jaxcompress.search.space import Space


class Item(NamedTuple):
    """A candidate as executors see it: arrays of JAX inside of programs, of NumPy outside; any leading axes.

    Attributes:
        genes: canonical.
        fidelity: float32, the part of the full effort to spend.
        number: int32, the running number of the candidate; its key is folded from it.
    """

    genes: Genes
    fidelity: Any
    number: Any


class Shared(NamedTuple):
    """What all candidates share.

    Attributes:
        key_data: of the evaluation key, raw.
        data: the argument ``data=`` of the search, or None.
    """

    key_data: jax.Array
    data: Any


class Judged(NamedTuple):
    """What an evaluation says; arrays of JAX or NumPy.

    Attributes:
        metrics: scalars by name.
        violation: float32: by how much constraints and limits are broken in all.
    """

    metrics: dict[str, Any]
    violation: Any


@dataclasses.dataclass(frozen=True)
class Problem:
    """The static part of a search; see `jaxcompress.search.run` for the meaning of the fields."""

    space: Space
    evaluate: Callable[..., Any]
    objectives: tuple[str, ...]
    limits: tuple[tuple[str, float], ...]
    key_impl: str
    has_data: bool
    multi_fidelity: bool

    def one(self, item: Item, shared: Shared) -> Judged:
        """Evaluates one candidate; pure. Its key depends on its number alone."""
        genome = self.space.decode(item.genes)
        key = jax.random.fold_in(jax.random.wrap_key_data(shared.key_data, impl=self.key_impl), item.number)
        metrics = self.metrics(self.called(genome, key, shared.data, item.fidelity))
        return Judged(metrics, self.space.violation(genome) + self.beyond_limits(metrics))

    def called(self, genome: Any, key: jax.Array, data: Any, fidelity: Any) -> Any:
        """What ``evaluate`` returns."""
        given = (genome, key, data) if self.has_data else (genome, key)
        return self.evaluate(*given, fidelity=fidelity) if self.multi_fidelity else self.evaluate(*given)

    def metrics(self, returned: Any) -> dict[str, jax.Array]:
        """What ``evaluate`` returned as arrays, checked by `named`."""
        return {name: jnp.asarray(value) for name, value in self.named(returned).items()}

    def named(self, returned: Any) -> dict[str, Any]:
        """Scalars by name, sorted; a single number is called ``error``.

        Raises:
            ValueError: if one is no real number or no scalar, or an objective or a limited metric is missing.
        """
        named = dict(returned) if isinstance(returned, Mapping) else {"error": returned}
        for name, value in named.items():
            if not isinstance(name, str) or not _is_real(value):
                raise ValueError(
                    f"evaluate= must return real numbers by name, {{'error': ...}}, or just one; {name!r} is {value!r}"
                )
            if jnp.shape(value):
                raise ValueError(f"evaluate= must return scalars, {name!r} has shape {jnp.shape(value)}: take the mean")
        for argument, names in (("objectives", self.objectives), ("limits", [name for name, _ in self.limits])):
            if missing := [name for name in names if name not in named]:
                raise ValueError(f"{argument}={missing[0]!r} is none of what evaluate= returns: {sorted(named)}")
        return {name: named[name] for name in sorted(named)}

    def beyond_limits(self, metrics: Mapping[str, jax.Array]) -> jax.Array:
        """By how much the metrics exceed their limits, relative to these."""
        over = [jnp.maximum(_float(metrics[name]) - at, 0.0) / (abs(at) or 1.0) for name, at in self.limits]
        return sum(over, jnp.zeros((), jnp.float32))

    def fitness(self, judged: Judged) -> Fitness:
        """What a strategy is told of ``[n]`` candidates: infinite in everything where the evaluation failed."""
        failed = self.failed(judged.metrics)
        objectives = jnp.stack([_float(judged.metrics[name]) for name in self.objectives], axis=-1)
        return Fitness(
            jnp.where(failed[:, None], jnp.inf, objectives), jnp.where(failed, jnp.inf, _float(judged.violation))
        )

    def failed(self, metrics: Mapping[str, Any]) -> jax.Array:
        """Whether an objective or a limited metric is NaN or infinite."""
        watched = [*self.objectives, *(name for name, _ in self.limits)]
        return ~jnp.all(jnp.stack([jnp.isfinite(_float(metrics[name])) for name in watched]), axis=0)


def problem_of(
    space: Space,
    evaluate: Callable[..., Any],
    *,
    key: jax.Array,
    objectives: str | Sequence[str],
    limits: Mapping[str, float] | None,
    data: Any,
    multi_fidelity: bool,
) -> Problem:
    """Checks the arguments of a search and brings them into one form.

    Raises:
        TypeError: if ``space`` is no `Space`, ``evaluate`` no function, ``key`` no typed key, ``objectives`` no names,
            or ``limits`` no dict of numbers.
        ValueError: on objectives or limits that cannot be.
    """
    if not hasattr(space, "decode"):
        raise TypeError(f"space= must be a Space({{name: variable}}), got {space!r}")
    if not callable(evaluate):
        raise TypeError(f"evaluate= must be a function of (genome, key), got {evaluate!r}")
    _check_call(evaluate, has_data=data is not None, multi_fidelity=multi_fidelity)
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and not key.shape):
        raise TypeError(f"key= must be one typed key, jax.random.key(seed), got {key!r}")
    names = (objectives,) if isinstance(objectives, str) else objectives
    if not isinstance(names, Sequence):
        raise TypeError(f"objectives= must be names of metrics, got {objectives!r}")
    names = tuple(names)
    if not names or len(set(names)) != len(names):
        raise ValueError(f"objectives= must be names of metrics, each once, got {objectives!r}")
    if limits is not None and not isinstance(limits, Mapping):
        raise TypeError(f"limits= must be a dict of metrics and the most they may be, got {limits!r}")
    for name, at in (limits or {}).items():
        if not _is_real(at):
            raise TypeError(f"limits={name!r} must be a number, got {at!r}")
    bounds = tuple(sorted((name, float(at)) for name, at in (limits or {}).items()))
    if endless := [name for name, at in bounds if not jnp.isfinite(at)]:
        raise ValueError(f"limits={endless[0]!r} must be finite; leave it out where there is none")
    impl = str(jax.random.key_impl(key))
    return Problem(space, evaluate, names, bounds, impl, data is not None, multi_fidelity)


def check_strategy(strategy: Any) -> None:
    """Refuses what is no strategy: a name, or a class that nobody called.

    Raises:
        TypeError: says what to write.
    """
    if isinstance(strategy, type) or not isinstance(strategy, Strategy):
        raise TypeError(f"strategy= must be a strategy, as jaxcompress.search.RandomSearch(batch=8), got {strategy!r}")


def _check_call(evaluate: Callable[..., Any], *, has_data: bool, multi_fidelity: bool) -> None:
    """Whether a function can be called as a search will call it, and be a static argument."""
    if type(evaluate).__hash__ is None:
        raise TypeError(f"evaluate= of type {type(evaluate).__name__} cannot be hashed: make it a frozen dataclass")
    try:
        signature = inspect.signature(evaluate)
    except ValueError:  # of functions written in C
        return
    names = ["genome", "key", *(["data"] if has_data else [])]
    options = {"fidelity": 1.0} if multi_fidelity else {}
    try:
        signature.bind(*names, **options)
    except TypeError as error:
        call = ", ".join(names + [f"{name}=..." for name in options])
        raise TypeError(
            f"evaluate= is called as evaluate({call}) in this search, which its parameters {signature} do not take: "
            f"{error}. It is given data where data= is, and fidelity where the strategy is one of several fidelities"
        ) from None


def seeds_of(space: Space, seeds: Any) -> Genes | None:
    """The first candidates, canonical ``[n]``: from one config, a list of configs, or `Genes`.

    Raises:
        TypeError: if they are neither.
        ValueError: if they are not in the space.
    """
    if seeds is None:
        return None
    if not isinstance(seeds, Genes):
        configs = [seeds] if isinstance(seeds, Mapping) else seeds
        if not isinstance(configs, list | tuple) or not all(isinstance(config, Mapping) for config in configs):
            raise TypeError(f"seeds= must be configs (dicts, as Candidate.config) or Genes, got {seeds!r}")
        return space.encode(configs)
    genes = Genes(*(jnp.atleast_2d(jnp.asarray(row)) for row in seeds))
    if (genes.codes.shape[1], genes.values.shape[1]) != (space.discrete, space.continuous):
        shapes = (genes.codes.shape, genes.values.shape)
        raise ValueError(
            f"seeds= are of another space: shapes {shapes}, not [n, {space.discrete}], [n, {space.continuous}]"
        )
    beyond = (genes.codes < 0) | (genes.codes >= jnp.array(space.cardinalities, jnp.int32)[None, :])
    if not isinstance(beyond, Tracer) and bool(beyond.any()):
        raise ValueError(f"seeds= hold codes outside of [0, cardinality), in rows {jnp.flatnonzero(beyond.any(1))[:5]}")
    inside = (genes.values >= 0) & (genes.values <= 1)
    if not isinstance(inside, Tracer) and not bool(inside.all()):
        raise ValueError(f"seeds= hold values outside of [0, 1], or NaN, in rows {jnp.flatnonzero(~inside.all(1))[:5]}")
    return space.canonical(genes)


def _is_real(value: Any) -> bool:
    """Whether it is a number, a boolean or an array of these."""
    if isinstance(value, bool | int | float):
        return True
    dtype = getattr(value, "dtype", None)
    return dtype is not None and any(jnp.issubdtype(dtype, kind) for kind in (jnp.bool_, jnp.integer, jnp.floating))


def _float(value: Any) -> jax.Array:
    return jnp.asarray(value).astype(jnp.float32)
