"""One compiled program that prunes a network in any way and evaluates it: how much each layer keeps is a runtime array.

A policy is a row of counts, one for each layer. Its masks are found and its network is evaluated inside the program,
so that policies differ in numbers alone: nothing is compiled for the second one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress.core.leaf import is_compressed
from jaxcompress.core.lift import lift
from jaxcompress.core.parts import with_parts
from jaxcompress.core.paths import Where, flatten_with_paths, replace_at
from jaxcompress.prune.allocation.layers import Floors, Protect, find_layers
from jaxcompress.prune.layers import over_layers
from jaxcompress.prune.ranking import masked_leaf, ranked
from jaxcompress.solvers.placement import keeping_placement
from jaxcompress.solvers.topk import ordered_keys

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites

Evaluate: TypeAlias = "Callable[[Callable[..., Any], Any], Mapping[str, Any] | Any]"
Better = Literal["lower", "higher"]

_NOT_TRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.UnexpectedTracerError,
)


class Policies:
    """The pruned versions of a network, and what each is worth.

    Args:
        fn: the model; ``evaluate`` is handed ``lift(fn)``.
        params: its parameters.
        evaluate: ``evaluate(apply, params) -> scalar``, or a mapping of named scalars; traced.
        scores: which weights of a layer go first, as in `jaxcompress.prune.weight_scores`.
        floors: as in `jaxcompress.prune.allocation.uniform`.
        protect: as in `jaxcompress.prune.allocation.uniform`.
        where: as in `jaxcompress.prune.magnitude`.
        sites: what `jaxcompress.sites` found.
        method: name for errors.

    Example:
        >>> params = {"w": jnp.array([[4.0, 1.0], [2.0, 3.0]])}
        >>> policies = Policies(lambda p, x: x @ p["w"], params, lambda apply, p: apply(p, jnp.ones((1, 2))).sum())
        >>> policies.evaluate([[4], [2], [1]])["error"].tolist()
        [10.0, 7.0, 4.0]
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        params: Any,
        evaluate: Evaluate,
        *,
        scores: Any = "l1",
        floors: Floors = None,
        protect: Protect = None,
        where: Where = None,
        sites: Sites | None = None,
        method: str = "policies",
    ) -> None:
        self.layers = find_layers(params, where=where, sites=sites, floors=floors, protect=protect, method=method)
        self.scores = ranked(params, [layer.part for layer in self.layers], scores)
        self._ranks = _ranks(self.scores, stacks=tuple(layer.part.stack for layer in self.layers))
        self._params = params
        self._static = _Static(fn, evaluate, tuple(layer.path for layer in self.layers), method)

    def evaluate(self, rows: Sequence[Sequence[int]] | np.ndarray) -> dict[str, np.ndarray]:
        """The metrics of several policies, in one call of one program, which is compiled once for a number of rows.

        Args:
            rows: entries to keep of each layer, ``[policies, layers]``; equal rows are evaluated once.

        Returns:
            Float arrays ``[policies]`` by name.

        Raises:
            TypeError: if ``evaluate`` cannot be traced.
            ValueError: if it returns other than scalars.
        """
        unique, place = np.unique(np.asarray(rows, np.int64), axis=0, return_inverse=True)
        steps = np.array([layer.step for layer in self.layers])
        try:
            found = _evaluated(self._params, self._ranks, jnp.asarray(unique // steps, jnp.int32), static=self._static)
        except _NOT_TRACEABLE as error:
            raise TypeError(
                f"{self._static.method}: evaluate= is compiled once and run for every policy, so it must be "
                "traceable: compute with jax.numpy and return the scalar as it is, without float(), np.asarray or "
                "branches on values"
            ) from error
        return {name: np.asarray(values, np.float64)[np.ravel(place)] for name, values in found.items()}

    def pruned(self, counts: Sequence[int]) -> Any:
        """The tree with `Masked` leaves that keeps so many entries of each layer; protected leaves are as they were."""
        per_layer = [n // layer.step for n, layer in zip(counts, self.layers, strict=True)]
        masks = _masks(self._ranks, jnp.asarray(per_layer, jnp.int32))
        pairs = [pair for pair in zip(self.layers, masks, strict=True) if not pair[0].protected]
        parts = [layer.part for layer, _ in pairs]
        return with_parts(self._params, parts, [masked_leaf(layer.part.array, mask) for layer, mask in pairs])


@dataclasses.dataclass(frozen=True)
class _Static:
    """What a program is compiled for, besides shapes."""

    fn: Callable[..., Any]
    evaluate: Evaluate
    paths: tuple[str, ...]
    method: str


def named(value: Mapping[str, Any] | Any) -> dict[str, Any]:
    """Metrics by name; a single number is called ``error``, as in `jaxcompress.compress`.

    Example:
        >>> named(0.25), named({"loss": 1.0})
        ({'error': 0.25}, {'loss': 1.0})
    """
    return dict(value) if isinstance(value, Mapping) else {"error": value}


def chosen_metric(metrics: Mapping[str, Any], metric: str | None, method: str) -> str:
    """The metric that a drop is measured in: the one named, the only one, or ``error``.

    Raises:
        ValueError: if there are several and none is named; lists them.
    """
    if metric is None:
        metric = next(iter(metrics)) if len(metrics) == 1 else "error"
    if metric not in metrics:
        raise ValueError(f"{method}: metric={metric!r} is none of what evaluate= returns: {sorted(metrics)}")
    return metric


def drop(values: np.ndarray | float, dense: float, better: Better) -> Any:
    """How much worse than the dense network: positive is worse.

    Raises:
        ValueError: if ``better`` is another word.
    """
    if better not in ("lower", "higher"):
        raise ValueError(f"better must be 'lower' or 'higher', got {better!r}")
    return values - dense if better == "lower" else dense - values


@partial(jax.jit, static_argnames="static")
def _evaluated(params: Any, ranks: list[jax.Array], rows: jax.Array, *, static: _Static) -> dict[str, jax.Array]:
    apply = lift(static.fn)
    leaves = dict(zip(*flatten_with_paths(params)[:2], strict=True))

    def one(counts: jax.Array) -> dict[str, jax.Array]:
        masks = _masks(ranks, counts)
        zeroed = {path: masked_leaf(leaves[path], mask) for path, mask in zip(static.paths, masks, strict=True)}
        changes = {path: leaf if is_compressed(leaves[path]) else leaf.values for path, leaf in zeroed.items()}
        return _metrics(static.evaluate(apply, replace_at(params, changes)), static.method)

    return lax.map(one, rows)


def _masks(ranks: list[jax.Array], counts: jax.Array) -> list[jax.Array]:
    return [rank < count for rank, count in zip(ranks, counts, strict=True)]


@partial(jax.jit, static_argnames="stacks")
def _ranks(scores: list[jax.Array], *, stacks: tuple[tuple[int, ...], ...]) -> list[jax.Array]:
    """The place of every entry in its layer, the highest score first, the lower flat index among equals.

    One sort for all policies: a mask is then one comparison, where a search would be run, and compiled, in each.
    """

    def ranks(scores: list[jax.Array]) -> list[jax.Array]:
        return over_layers(_rank, [scores], [], stacks=stacks)

    return keeping_placement(ranks, scores)


def _rank(row: jax.Array) -> jax.Array:
    order = jnp.argsort(~ordered_keys(row), stable=True)
    return jnp.zeros(row.shape, jnp.int32).at[order].set(jnp.arange(row.size, dtype=jnp.int32), unique_indices=True)


def _metrics(value: Mapping[str, Any] | Any, method: str) -> dict[str, jax.Array]:
    found = {}
    for name, number in named(value).items():
        if jnp.shape(number):
            raise ValueError(
                f"{method}: evaluate= must return scalars, got shape {jnp.shape(number)} for {name!r}: take the mean"
            )
        found[name] = jnp.asarray(number).astype(jnp.float32)
    return found
