"""Reading a model from a file, or only what the file says of itself."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from jaxcompress.artifact import keeps, leaves, manifest
from jaxcompress.artifact.coded import EntropyReader
from jaxcompress.artifact.container import open_checked
from jaxcompress.artifact.errors import ArtifactError
from jaxcompress.artifact.streams import ByteReader
from jaxcompress.artifact.structure import from_json, restore_like
from jaxcompress.core.lift import lift
from jaxcompress.core.paths import flatten_with_paths
from jaxcompress.core.shrink import bound

HEADER = "(header)"
"""Where `Artifact.sizes` puts the bytes that belong to no array."""
_READERS = {"zstd": ByteReader, "constriction": EntropyReader}
_MALFORMED = (KeyError, IndexError, TypeError, ValueError, OverflowError, RecursionError)


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A loaded file.

    Attributes:
        params: the parameters, compressed leaves and all.
        recipe: what was given to `save`, as JSON gives it back (tuples became lists); None if nothing was.
        meta: likewise.
        versions: of the packages that wrote the file.
        sizes: bytes of the file for each stored array, by path (``params/Dense_0/kernel/values/codes``), and for the
            rest of the file under `HEADER`. They add up to the size of the file; arrays that share a stream share its
            bytes by what each put into it.
        leaf_paths: of `params`, in storage order.
        keep: kept indices of the dense axes by path and axis, if the model was shrunk; then ``bind(fn)`` takes the
            dense ``fn`` and gives the small one.
        shapes: dense shapes of the leaves by path.
    """

    params: Any
    recipe: Any
    meta: Any
    versions: Mapping[str, str]
    sizes: Mapping[str, int] = dataclasses.field(repr=False)
    leaf_paths: tuple[str, ...] = dataclasses.field(repr=False, default=())
    keep: Mapping[tuple[str, int], np.ndarray] = dataclasses.field(repr=False, default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = dataclasses.field(repr=False, default_factory=dict)

    @property
    def file_bytes(self) -> int:
        """Size of the file."""
        return sum(self.sizes.values())

    @property
    def stored(self) -> dict[str, int]:
        """Bytes of the file for each leaf of `params`, by path; the rest of the file under `HEADER`."""
        out = dict.fromkeys((HEADER, *self.leaf_paths), 0)
        for path, size in self.sizes.items():
            while path not in out:
                path = path.rpartition("/")[0]
            out[path] += size
        return out

    def bind(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """``fn`` with these parameters as its first argument: ``bind(model.apply)(x)``.

        Args:
            fn: takes the parameters first; any function that `jaxcompress.core.lift.lift` accepts. For a shrunk model
                it is the dense function.

        Returns:
            A function of the other arguments of ``fn``.
        """
        lifted = lift(bound(fn, self.keep, self.shapes) if self.keep else fn)
        return lambda *args, **kwargs: lifted(self.params, *args, **kwargs)


def load(path: str | os.PathLike[str], *, like: Any = None, max_bytes: int | None = None) -> Artifact:
    """Reads a file written by `save`.

    The file is verified before anything in it is believed, and no memory is allocated by its word beyond ``max_bytes``.
    It holds no code: reading it runs none but the constructors of registered leaf kinds.

    Args:
        path: the file.
        like: a tree into whose structure the leaves are put, by path (for NamedTuples, dataclasses, modules).
        max_bytes: largest size of the arrays in memory; None: the memory of this machine.

    Returns:
        The artifact. Arrays are JAX arrays on the default device; NumPy arrays where JAX would cut them to 32 bits.

    Raises:
        ArtifactError: if the file is no artifact, of another version, damaged, malformed, too large, or does not fit
            ``like``; or if it holds a leaf kind that is not registered (import the module that defines it).
        FileNotFoundError: if there is no such file.
        ImportError: if the coder's package is missing; names the extra.
    """
    with open_checked(path) as (stored, file, offset, total):
        described = manifest.decode(stored)
        limit = _memory() if max_bytes is None else max_bytes
        try:
            return _load(described, lambda at, n: _pread(file, offset + at, n), total - offset, total, like, limit)
        except ArtifactError:
            raise
        except _MALFORMED as error:
            raise ArtifactError(f"load: {os.fspath(path)!r} is malformed ({type(error).__name__}: {error})") from error


def inspect(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a file says of itself, read without decoding any array. The checksum is verified.

    Returns:
        ``file_bytes``, ``header_bytes``, ``coder``, ``versions``, ``recipe``, ``meta``, ``arrays``: path, kind of the
        leaf, dtype and shape of each stored array; and ``shrunk``: whether the file holds what was kept of dense axes.

    Raises:
        ArtifactError: as `load`.
        FileNotFoundError: if there is no such file.
    """
    with open_checked(path) as (stored, _, offset, total):
        described = manifest.decode(stored)
    try:
        return {
            "file_bytes": total,
            "header_bytes": offset,
            "coder": described.get("c"),
            "versions": dict(zip(manifest.PACKAGES, described["v"], strict=True)),
            "recipe": described.get("r"),
            "meta": described.get("m"),
            "arrays": list(_arrays(described)),
            "shrunk": bool(described.get("w")),
        }
    except ArtifactError:
        raise
    except _MALFORMED as error:
        raise ArtifactError(f"inspect: {os.fspath(path)!r} is malformed ({type(error).__name__}: {error})") from error


def _arrays(described: dict[str, Any]) -> Iterable[dict[str, Any]]:
    shapes, templates = manifest.ShapeReader(described.get("s", "")), described.get("k", [])
    found: list[dict[str, Any]] = []

    def leaf_of(path: str, number: int) -> None:
        template = templates[number]
        shapes.begin_leaf()
        kind = template[0].removesuffix("*") if isinstance(template, list) else ""
        for inner, dtype, shape in leaves.stored_arrays(leaves.parse(template, shapes.next)):
            found.append({"path": _join(path, inner), "kind": kind, "dtype": dtype.name, "shape": shape})

    from_json(described["t"], leaf_of)
    return found


def _load(
    described: dict[str, Any], read: Callable[[int, int], bytes], length: int, total: int, like: Any, limit: int
) -> Artifact:
    coder = described.get("c")
    if coder not in _READERS:
        raise ArtifactError(f"load: unknown coder {coder!r:.40}; install the release that wrote the file")
    budget = _Budget(limit)
    reader = _READERS[coder](described.get("p", []), read, length, budget.check)
    shapes, templates = manifest.ShapeReader(described.get("s", "")), described.get("k", [])
    weights: dict[str, float] = {}
    paths: list[str] = []

    def leaf_of(path: str, number: int) -> Any:
        def next_array(inner: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
            array = reader.get(shape, dtype)
            weights[_join(path, inner)] = reader.last_bytes
            return array

        shapes.begin_leaf()
        paths.append(path)
        node = leaves.parse(templates[number], shapes.next)
        budget.add(sum(math.prod(shape) * dtype.itemsize for _, dtype, shape in leaves.stored_arrays(node)))
        return leaves.read(node, next_array)

    params = from_json(described["t"], leaf_of)
    reader.finish()
    keep, shapes = _kept(described.get("w", []), paths, params, budget)
    return Artifact(
        params=params if like is None else restore_like(params, like),
        recipe=described.get("r"),
        meta=described.get("m"),
        versions=dict(zip(manifest.PACKAGES, described["v"], strict=True)),
        sizes=_apportion(weights, length, total),
        leaf_paths=tuple(paths),
        keep=keep,
        shapes=shapes,
    )


def _kept(rows: Any, paths: list[str], params: Any, budget: _Budget) -> tuple[Any, Any]:
    """What a shrunk model kept; its dense leaves must fit in memory as its own do."""
    if rows == []:
        return {}, {}
    found = dict(zip(*flatten_with_paths(params)[:2], strict=True))
    small = [tuple(found[path].shape) for path in paths]
    return keeps.from_rows(rows, paths, small, budget.check)


class _Budget:
    """Refuses what would not fit in memory, before it is allocated."""

    def __init__(self, limit: int):
        self._limit, self._spent = limit, 0

    def add(self, size: int) -> None:
        """Counts bytes that stay."""
        self.check(size)
        self._spent += size

    def check(self, size: int) -> None:
        """Refuses bytes, kept or passing, for which there is no room."""
        if self._spent + size > self._limit:
            raise ArtifactError(
                f"load: the file declares arrays of more than {self._limit} bytes; if you trust it, raise max_bytes="
            )


def _apportion(weights: dict[str, float], length: int, total: int) -> dict[str, int]:
    """Whole bytes in proportion to the weights, adding up to ``length``, and the rest of ``total`` under `HEADER`."""
    scale = length / (sum(weights.values()) or 1.0)
    exact = {path: weight * scale for path, weight in weights.items()}
    sizes = {path: int(size) for path, size in exact.items()}
    for path in sorted(exact, key=lambda path: sizes[path] - exact[path])[: length - sum(sizes.values())]:
        sizes[path] += 1
    return {HEADER: total - sum(sizes.values()), **sizes}


def _memory() -> int:
    pages = os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names else -1
    return pages * os.sysconf("SC_PAGE_SIZE") if pages > 0 else 1 << 36


def _pread(file: Any, offset: int, length: int) -> bytes:
    file.seek(offset)
    return file.read(length)


def _join(path: str, inner: str) -> str:
    return f"{path}/{inner}".strip("/") if inner else path
