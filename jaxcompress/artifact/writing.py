"""Writing a model to a file."""

from __future__ import annotations

import importlib.metadata
import json
import os
from typing import Any, Literal

from jaxcompress.artifact import keeps, leaves, manifest
from jaxcompress.artifact.coded import EntropyWriter
from jaxcompress.artifact.container import seal, write_atomically
from jaxcompress.artifact.streams import ByteWriter
from jaxcompress.artifact.structure import to_json

CODERS = ("constriction", "zstd")


def save(
    path: str | os.PathLike[str],
    params: Any,
    *,
    recipe: Any = None,
    meta: Any = None,
    coder: Literal["zstd", "constriction"] = "zstd",
    level: int | None = None,
) -> int:
    """Writes a model to one file, all or nothing: a crash leaves the old file or the new one.

    Every array comes back bit for bit (NaN payloads and signed zeros too), with one exception that a leaf kind opts
    into: where a leaf has a `support`, entries outside of it come back as zeros. Same input, same bytes.

    Args:
        path: the file. The folder must exist.
        params: any pytree of arrays, compressed leaves, Python scalars and text; or an object with ``params`` and
            ``recipe`` (the result of a pipeline) or ``keep`` (a shrunk model, an `Artifact`): what it kept is stored
            too, so that ``load(path).bind(fn)`` is the small function of the dense ``fn``. Dicts, lists, tuples and
            None come back as they are, other mappings as dicts, other nodes as dicts of their fields, or in full
            through ``load(path, like=...)``.
        recipe: what made the model: JSON-able, or with a ``to_json()`` that gives JSON or its text.
        meta: anything JSON-able.
        coder: ``"zstd"``, fast and without further packages, or ``"constriction"``, the smallest (extra ``entropy``).
        level: of zstd, 1 to 22; None chooses by size.

    Returns:
        The bytes written, equal to ``os.path.getsize(path)``.

    Raises:
        TypeError: if something in ``params``, ``recipe`` or ``meta`` cannot be stored; names it.
        ValueError: if ``coder`` or ``level`` is unknown, or a shrunk model's parameters are not those it kept.
        ImportError: if the coder's package is missing; names the extra.
        OSError: if the file cannot be written.

    Example:
        >>> import os, tempfile
        >>> from jaxcompress.artifact import load
        >>> path = os.path.join(tempfile.mkdtemp(), "model.jxc")
        >>> save(path, {"w": jnp.arange(3.0)}, meta={"error": 0.9}) == os.path.getsize(path)
        True
        >>> load(path).params["w"].tolist(), load(path).meta
        ([0.0, 1.0, 2.0], {'error': 0.9})
    """
    if coder not in CODERS:
        raise ValueError(f"save: coder={coder!r} is unknown; choose one of {CODERS}")
    if level is not None and coder != "zstd":
        raise ValueError(f"save: level={level!r} belongs to coder='zstd'; leave it out with coder={coder!r}")
    kept, dense = _kept(params)
    if hasattr(params, "params") and (hasattr(params, "recipe") or hasattr(params, "keep")):
        recipe = getattr(params, "recipe", None) if recipe is None else recipe
        params = params.params
    writer = ByteWriter(level) if coder == "zstd" else EntropyWriter()
    templates: dict[str, int] = {}
    shapes: list[list[tuple[int, ...]]] = []
    stored: dict[str, tuple[int, ...]] = {}

    def template_of(path: str, leaf: Any) -> int:
        found = leaves.describe(leaf, path)
        stored[path] = tuple(leaf.shape) if kept else ()
        shapes.append(found.shapes)
        for array in found.arrays:
            writer.put(array)
        return templates.setdefault(json.dumps(found.template), len(templates))

    tree = to_json(params, template_of)
    streams, plan = writer.finish()
    described = {
        "t": tree,
        "k": [json.loads(template) for template in templates],
        "s": manifest.join_shapes(shapes),
        "r": _as_json("recipe", recipe),
        "m": _as_json("meta", meta),
        "w": keeps.to_rows(kept, dense, stored),
        "c": coder,
        "p": plan,
        "v": [_version(name) for name in manifest.PACKAGES],
    }
    kept = {key: value for key, value in described.items() if key == "t" or value not in (None, "", [])}
    return write_atomically(path, seal(manifest.encode(kept), streams))


def _kept(model: Any) -> tuple[keeps.Keep, keeps.Shapes]:
    """What a shrunk model kept of its dense axes, and its dense shapes."""
    start = getattr(model, "from_start", None)  # a model that was shrunk twice: what is left of the first one
    if start is not None:
        return start
    return (model.keep, model.shapes) if hasattr(model, "keep") and hasattr(model, "shapes") else ({}, {})


def _as_json(name: str, value: Any) -> Any:
    if hasattr(value, "to_json"):
        value = value.to_json()
        value = json.loads(value) if isinstance(value, str) else value
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"save: {name}= must be JSON-able or have a to_json(); {error}") from error


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        return ""
