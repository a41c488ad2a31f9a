"""One score per weight: what every method that ranks weights takes as ``scores=``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxcompress.core.leaf import dense
from jaxcompress.core.parts import Part, find_parts
from jaxcompress.core.paths import Where, flatten_with_paths
from jaxcompress.prune.masked import takes_mask
from jaxcompress.prune.scores.lamp import LAMP
from jaxcompress.prune.scores.lp import Lp

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites


@runtime_checkable
class WeightScore(Protocol):
    """What ranks the weights of a tree; higher keeps.

    `Lp`, `LAMP`, `Random`, `Taylor`, `Fisher` and `Wanda` are such; a class of your own needs this one method.
    """

    def of_parts(self, params: Any, parts: Sequence[Part]) -> list[jax.Array]:
        """Scores of some arrays of ``params``, each of the shape of ``part.array``."""
        ...


NAMED: dict[str, WeightScore] = {"l1": Lp(1), "l2": Lp(2), "lamp": LAMP()}


def weight_scores(
    params: Any, scores: Any = "l1", *, where: Where = None, sites: Sites | None = None
) -> dict[str, jax.Array]:
    """Scores of the chosen weights, by path; higher keeps.

    Args:
        params: tree of float arrays or leaves. Leaves with one element per weight are scored by their dense values,
            factors of low-rank leaves one by one (under ``path/field``).
        scores: ``"l1"``, ``"l2"``, ``"lamp"``; a `WeightScore`; or numbers: a tree like ``params`` or a dict from paths
            to arrays, of which only the chosen ones are read.
        where: which leaves; by default those that ``sites`` show as weights, or the float leaves of two axes or more.
        sites: what `jaxcompress.sites` found; scores that depend on layers, inputs or outputs read the axes there.

    Returns:
        Float arrays of the shapes of the weights.

    Raises:
        ValueError: if ``scores`` is an unknown name, lacks a chosen leaf or has another shape there, or if scores or
            weights are not finite (seen only outside ``jit``); names the path.
        TypeError: if ``scores`` are not floats.

    Example:
        >>> weight_scores({"w": jnp.array([[3.0, -4.0]])}, "l2")["w"].tolist()
        [[9.0, 16.0]]
    """
    parts = find_parts(params, where=where, sites=sites, method="weight_scores", whole=takes_mask)
    found = part_scores(params, parts, scores)
    verdicts = _finite([(part.array, score) for part, score in zip(parts, found, strict=True)])
    for part, finite in zip(parts, verdicts, strict=True):
        require(finite, part.name)
    return {part.name: score for part, score in zip(parts, found, strict=True)}


def part_scores(params: Any, parts: Sequence[Part], scores: Any) -> list[jax.Array]:
    """Scores of parts that a method has found already; ``scores`` as in `weight_scores`. Finiteness is not checked.

    Raises:
        ValueError: if ``scores`` is an unknown name, lacks a part or has another shape there.
        TypeError: if ``scores`` are not floats.
    """
    if isinstance(scores, str):
        if scores not in NAMED:
            raise ValueError(f"scores={scores!r} is no name of scores; there are {sorted(NAMED)}, or pass an object")
        scores = NAMED[scores]
    if isinstance(scores, type):
        raise ValueError(f"scores={scores.__name__} is a class: pass an instance, {scores.__name__}(...)")
    if isinstance(scores, WeightScore):
        return scores.of_parts(params, parts)
    paths, leaves, _ = flatten_with_paths(scores)
    given = dict(zip(paths, leaves, strict=True))
    return [_given(given, part) for part in parts]


def require(finite: jax.Array, name: str) -> None:
    """Raises ValueError if a concrete verdict on the finiteness of a weight or its scores is False."""
    if not isinstance(finite, Tracer) and not finite:
        raise ValueError(f"{name!r} holds NaN or infinity, or its scores do: there is no order among them")


def _given(given: dict[str, Any], part: Part) -> jax.Array:
    if part.name not in given:
        raise ValueError(f"scores= holds nothing for {part.name!r}; it has scores for {sorted(given)}")
    score = jnp.asarray(dense(given[part.name]))
    if score.shape != part.array.shape:
        raise ValueError(f"scores of {part.name!r} have shape {score.shape}, the weights {part.array.shape}")
    if not jnp.issubdtype(score.dtype, jnp.floating):
        raise TypeError(f"scores of {part.name!r} are {score.dtype}, not float")
    return score


@jax.jit
def _finite(pairs: list[tuple[Any, jax.Array]]) -> list[jax.Array]:
    return [jnp.isfinite(dense(weight)).all() & jnp.isfinite(score).all() for weight, score in pairs]
