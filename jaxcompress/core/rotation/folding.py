"""Which gains go into what consumes them: then data before and after a gain are turned by the same matrix.

Data ``x`` times a gain ``g``, entry by entry, is turned like ``x`` only if all entries of ``g`` are equal. They may be
made so: if all that ever becomes of ``x * g`` is a contraction with parameters ``w``, these take the gain, ``(x * g) @
w == x @ (g * w)``; a bias that is added on the way, ``(x * g + b) @ w``, is divided by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from jaxcompress.core.rotation.result import Fold
from jaxcompress.core.rotation.values import Classes, Edge, Link, Slice, Step


def settled(classes: Classes, leaves: Mapping[str, Any]) -> dict[int, list[Fold]]:
    """Joins what a gain stands between where it can be folded or is constant, and fixes it where not.

    Args:
        classes: what the walk found; joins and reasons are added.
        leaves: the parameters by path, concrete or abstract.

    Returns:
        What has to be folded, by the node behind the gain.
    """
    members = classes.members()
    fellows = {link.after: members[classes.root(link.after)] for link in classes.links}  # before anything is joined
    refused: dict[str, str] = {}
    for link in classes.links:
        why = _obstacle(classes, link, fellows[link.after], leaves)
        if why is not None:
            refused.setdefault(link.gain.slice.path, why)
    folds: dict[int, list[Fold]] = {}
    for link in classes.links:
        path = link.gain.slice.path
        if _constant(link.gain.slice, leaves):
            folds[link.after] = []
        elif path in refused:
            reason = classes.told(f"the gain {path!r} cannot be folded ({refused[path]})", link.source)
            classes.fix_as(link.before, reason)
            classes.fix_as(link.after, reason)
            continue
        else:
            folds[link.after] = _folds(classes, link, fellows[link.after])
        classes.join(link.before, link.after, "gain")
    return folds


def _obstacle(classes: Classes, link: Link, members: Sequence[int], leaves: Mapping[str, Any]) -> str | None:
    """Why the consumers of what a gain gave cannot take it, or None."""
    path = link.gain.slice.path
    if _constant(link.gain.slice, leaves):
        return None
    if classes.root(link.before) == classes.root(link.after):
        return "what it gives meets what it multiplies: a tied head?"
    reason = classes.fixed(link.after) or classes.ones(link.after)
    if reason is not None:
        return reason
    for node in members:
        kind = classes.nodes[node].kind
        if kind == "data" or node in classes.gains or node in classes.spoiled:
            return classes.spoiled.get(node) or "what it gives is more than an operand of products with parameters"
    by_after = {other.after: other for other in classes.links}
    if any(other.before in members for other in classes.links):
        return "it is multiplied by another gain"
    own = {node for node in classes.gains if classes.nodes[node].path == path}
    if any(classes.fixed(node) or node in classes.spoiled for node in own) or any(
        own & {*edge.nodes} for edge in classes.edges
    ):
        return "it is used as more than a gain"
    taken: dict[Slice, Slice] = {}
    layouts: dict[str, frozenset[Any]] = {}
    for edge in _edges(classes, members):
        found = _consumer(edge, set(by_after))
        if found is None:
            return "what it gives meets something else than a parameter"
        gain, consumer = by_after[found[0]].gain.slice, found[1]
        if not {pick for _, pick in gain.picks if isinstance(pick, Step)} <= {pick for _, pick in consumer.picks}:
            return f"{consumer.path!r} meets the gains of several layers"
        if taken.setdefault(consumer, gain) != gain:
            return f"{consumer.path!r} meets several gains"
        layout = frozenset((axis, pick if isinstance(pick, Step) else None) for axis, pick in consumer.picks)
        if layouts.setdefault(consumer.path, layout) != layout:
            return f"{consumer.path!r} is used in layers and as a whole, or by several scans"
    return None


_PASSING = ("contraction", "add", "add_any", "sub")


def _edges(classes: Classes, members: Sequence[int]) -> list[Edge]:
    inside = set(members)
    return [edge for edge in classes.edges if edge.nodes[0] in inside]


def _consumer(edge: Edge, after: set[int]) -> tuple[int, Slice] | None:
    """The gained node of an edge and the slice of a parameter that it meets in a way that a factor passes."""
    sides = [side for side in (0, 1) if edge.nodes[side] in after]
    met = edge.slices[1 - sides[0]] if len(sides) == 1 and edge.how in _PASSING else None
    return None if met is None else (edge.nodes[sides[0]], met)


def _folds(classes: Classes, link: Link, members: Sequence[int]) -> list[Fold]:
    """What takes one gain."""
    after = {other.after for other in classes.links}
    folds = dict[Slice, Fold]()
    for edge in _edges(classes, members):
        found = _consumer(edge, after)
        if found is not None and found[0] == link.after:
            folds[found[1]] = Fold(link.gain, found[1], 1 if edge.how == "contraction" else -1)
    return list(folds.values())


def _constant(gain: Slice, leaves: Mapping[str, Any]) -> bool:
    """True if the entries that multiply data are seen to be equal."""
    leaf = leaves[gain.path]
    if isinstance(leaf, jax.ShapeDtypeStruct | Tracer):
        return False
    rows = np.moveaxis(np.asarray(leaf), gain.axis, -1)
    picks = dict(gain.picks)
    index = tuple(
        pick if isinstance(pick := picks.get(axis), int) else slice(None)
        for axis in range(rows.ndim)
        if axis != gain.axis
    )
    chosen = rows[index]
    return bool((chosen == chosen[..., :1]).all())
