"""Spaces as JSON: what a run writes beside its results, so that genes can be read years later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxcompress.search.space.conditional import Conditional
from jaxcompress.search.space.repeated import Repeated
from jaxcompress.search.space.variables import Choice, Float, IntRange, LogFloat, plain

FORMAT = "jaxcompress.search.space"
VERSION = 1

Json = dict[str, Any]


def to_dict(variables: Mapping[str, Any]) -> Json:
    """Variables with the name and version of the format. Entries are lists: their order is the order of the genes."""
    return {"format": FORMAT, "version": VERSION, "variables": written(variables, "")}


def from_dict(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The variables that `to_dict` wrote.

    Raises:
        ValueError: if it is something else, or of a newer version.
    """
    if not isinstance(data, Mapping) or data.get("format") != FORMAT:
        raise ValueError(f"Space.from_dict: not a space: 'format' must be {FORMAT!r}")
    if data.get("version") != VERSION:
        raise ValueError(
            f"Space.from_dict: version {data.get('version')!r} is not {VERSION}; use the jaxcompress of it"
        )
    return read(data["variables"])


def written(node: Any, name: str) -> Json:
    """One entry as JSON."""
    if isinstance(node, Mapping):
        return {"kind": "dict", "entries": [[key, written(child, f"{name}/{key}")] for key, child in node.items()]}
    if isinstance(node, Conditional):
        inside = written(node.inside, name)
        return {"kind": "conditional", "on": node.on, "equals": jsonable(node.equals, name), "inside": inside}
    if isinstance(node, Repeated):
        times = node.times if isinstance(node.times, int) else written(node.times, name)
        return {"kind": "repeated", "times": times, "inside": written(node.inside, name)}
    if isinstance(node, Choice):
        return {"kind": "choice", "values": [jsonable(value, name) for value in node.values]}
    if isinstance(node, IntRange):
        return {"kind": "int", "low": node.low, "high": node.high, "step": node.step}
    return {"kind": "float" if isinstance(node, Float) else "log", "low": node.low, "high": node.high}


def read(node: Any) -> Any:
    """One entry from JSON."""
    match node:
        case {"kind": "dict", "entries": entries}:
            return {name: read(entry) for name, entry in entries}
        case {"kind": "conditional", "on": on, "equals": equals, "inside": inside}:
            return Conditional(read(inside), on, plain(equals))
        case {"kind": "repeated", "times": times, "inside": inside}:
            return Repeated(read(inside), times if isinstance(times, int) else read(times))
        case {"kind": "choice", "values": values}:
            return Choice(tuple(values))
        case {"kind": "int", "low": low, "high": high, "step": step}:
            return IntRange(low, high, step)
        case {"kind": "float", "low": low, "high": high}:
            return Float(low, high)
        case {"kind": "log", "low": low, "high": high}:
            return LogFloat(low, high)
    raise ValueError(f"Space.from_dict: {node!r} is no variable")


def jsonable(value: Any, name: str) -> Any:
    """A value of a choice as JSON; tuples become lists (and come back as tuples)."""
    if isinstance(value, tuple):
        return [jsonable(item, name) for item in value]
    if value is None or type(value) in (str, int, float, bool):
        return value
    raise ValueError(
        f"Space.to_dict: {name.lstrip('/')!r} has the value {value!r}; name it by a string to serialize it"
    )
