"""Recipes: the stages of a compression as data that survives in a file."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from jaxcompress.train.iterative import Rewind

FORMAT = "jaxcompress.recipe"
VERSION = 1

_ROOMS = ("prune", "factorize", "quantize", "cluster", "train")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A sequence of stages, carried out in order by `jaxcompress.compress`.

    A stage is a frozen dataclass with a class attribute ``version``, whose fields JSON can hold, or are such
    dataclasses again (`jaxcompress.factorize.energy`): one of the package (`jaxcompress.prune.Magnitude`,
    `jaxcompress.cluster.KMeans`, ...; `jaxcompress.train.Finetune` and ``GradualPruning`` train), or your own with
    ``__call__(params, *, sites=None) -> params``.

    Attributes:
        stages: the stages, a tuple.

    Raises:
        ValueError: if there is no stage, or a `jaxcompress.train.Rewind` goes back to a later one.
        TypeError: if a stage is not such a dataclass; says which and why.

    Example:
        >>> recipe = Recipe([jc.prune.Magnitude(sparsity=0.9), jc.train.Finetune(steps=500)])
        >>> recipe.names
        ('prune.Magnitude', 'train.Finetune')
        >>> Recipe.from_json(recipe.to_json()) == recipe
        True
    """

    stages: tuple[Any, ...]

    def __init__(self, stages: Sequence[Any]) -> None:
        """Checks the stages."""
        if not stages:
            raise ValueError("a Recipe needs at least one stage")
        for position, stage in enumerate(stages):
            _check(position, stage)
        object.__setattr__(self, "stages", tuple(stages))

    @property
    def names(self) -> tuple[str, ...]:
        """The names under which the stages are written, ``room.Class``."""
        return tuple(stage_name(type(stage)) for stage in self.stages)

    def __len__(self) -> int:
        return len(self.stages)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.stages)

    def to_json(self) -> str:
        """The recipe as JSON: a format name, a version, and for each stage its name, its version and all its fields.

        Raises:
            TypeError: if a field holds what JSON cannot (a predicate as ``where``, say); names it.
        """
        stages = [_entry(stage) for stage in self.stages]
        return json.dumps({"format": FORMAT, "version": VERSION, "stages": stages})

    @classmethod
    def from_json(cls, text: str | Mapping[str, Any], *, stages: Sequence[type] = ()) -> Self:
        """The inverse of `to_json`. Nothing outside the package is ever imported.

        Args:
            text: what `to_json` returned, or the object that this text means (the ``recipe`` of a loaded artifact).
            stages: stage classes of your own that the recipe may name.

        Raises:
            ValueError: if the text is no recipe, of a newer version, or names a stage or field that there is not.
        """
        try:
            raw = json.loads(text) if isinstance(text, str) else text
        except json.JSONDecodeError as error:
            raise ValueError(f"this is no recipe: not JSON ({error})") from error
        if not isinstance(raw, Mapping) or raw.get("format") != FORMAT or not isinstance(raw.get("stages"), list):
            raise ValueError(f"this is no recipe: a JSON object with format {FORMAT!r} and a list of stages expected")
        if raw.get("version") != VERSION:
            raise ValueError(f"a recipe of version {raw.get('version')!r}; this jaxcompress reads version {VERSION}")
        own = {stage_name(stage): stage for stage in stages}
        return cls([_stage(entry, own) for entry in raw["stages"]])


def stage_name(cls: type) -> str:
    """The name of a stage class in a recipe: ``room.Class`` in the package, ``module.Class`` elsewhere.

    Example:
        >>> stage_name(jc.prune.Magnitude)
        'prune.Magnitude'
    """
    parts = cls.__module__.split(".")
    room = parts[1] if parts[0] == "jaxcompress" and len(parts) > 1 else cls.__module__
    return f"{room}.{cls.__qualname__}"


def _check(position: int, stage: Any) -> None:
    where = f"stage {position + 1} of the recipe"
    if not dataclasses.is_dataclass(stage) or isinstance(stage, type):
        raise TypeError(f"{where} must be an instance of a dataclass with a version, got {stage!r}")
    if isinstance(stage, Rewind) and stage.to > position:
        raise ValueError(f"{where} goes back to the result of stage {stage.to}, which there is not yet")
    if not isinstance(getattr(type(stage), "version", None), int):
        raise TypeError(f"{where}: {type(stage).__qualname__} needs an integer class attribute `version`")


def _entry(stage: Any) -> dict[str, Any]:
    return {"stage": stage_name(type(stage)), "version": type(stage).version, "fields": _fields(stage)}


def _fields(stage: Any) -> dict[str, Any]:
    fields = {}
    for field in dataclasses.fields(stage):
        value = getattr(stage, field.name)
        try:
            fields[field.name] = json.loads(json.dumps(_plain(value)))
        except TypeError as error:
            raise TypeError(
                f"{type(stage).__qualname__}.{field.name} = {value!r} cannot be written as JSON: "
                "use numbers, strings, and lists or dicts of them (globs, not predicates)"
            ) from error
    return fields


def _plain(value: Any) -> Any:
    if _is_stage(value):  # a field that is a setting of its own, such as jc.factorize.energy(0.95)
        return _entry(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return {"tuple": [_plain(item) for item in value]} if isinstance(value, tuple) else [_plain(v) for v in value]
    return value


def _unplain(value: Any, own: Mapping[str, type]) -> Any:
    if isinstance(value, dict):
        if set(value) == {"tuple"}:
            return tuple(_unplain(item, own) for item in value["tuple"])
        if set(value) == {"stage", "version", "fields"}:
            return _stage(value, own)
        return {key: _unplain(item, own) for key, item in value.items()}
    return [_unplain(item, own) for item in value] if isinstance(value, list) else value


def _is_stage(value: Any) -> bool:
    dataclass = dataclasses.is_dataclass(value) and not isinstance(value, type)
    return dataclass and isinstance(getattr(type(value), "version", None), int)


def _stage(entry: Any, own: Mapping[str, type]) -> Any:
    if (
        not isinstance(entry, dict)
        or not isinstance(entry.get("stage"), str)
        or not isinstance(entry.get("fields"), dict)
    ):
        raise ValueError(f"this is no recipe: a stage must have a name and fields, got {entry!r}")
    name = entry["stage"]
    cls = own.get(name) or _packaged(name)
    if entry.get("version") != cls.version:
        raise ValueError(f"the recipe has {name} of version {entry.get('version')!r}; here it is version {cls.version}")
    known = {field.name for field in dataclasses.fields(cls) if field.init}
    unknown = sorted(set(entry["fields"]) - known)
    if unknown:
        raise ValueError(f"{name} has no field {unknown[0]!r}; it has {', '.join(sorted(known))}")
    try:
        return cls(**{key: _unplain(value, own) for key, value in entry["fields"].items()})
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from error


def _packaged(name: str) -> Any:
    room, _, rest = name.partition(".")
    cls = getattr(importlib.import_module(f"jaxcompress.{room}"), rest, None) if room in _ROOMS else None
    if not inspect.isclass(cls) or not dataclasses.is_dataclass(cls) or not hasattr(cls, "version"):
        raise ValueError(f"the recipe names the stage {name!r}, which is not here; pass your own classes as stages=")
    return cls
