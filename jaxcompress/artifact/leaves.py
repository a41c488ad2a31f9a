"""A leaf as a template, shapes and arrays. Knows the leaf protocol and no kind.

A template says what a leaf is but for its numbers and shapes; leaves that differ in nothing else share one:

    "float32"                                   an array
    "uint8*"                                    an array stored only at the True entries of its owner's support
    {"key": "threefry2x32"}                     PRNG keys
    ["masked", [template, ...], [static, ...]]  a leaf kind: data fields in order; static fields if there are any

The owner of a starred array is the innermost leaf around it whose kind ends in ``*``. A leaf may own an array if that
has an element for each element of the dense array and if `support` does not depend on it; entries outside the support
come back as zeros, which is what `CompressedArray.support` promises to be without effect.

Shapes are listed in the order of the fields. Arrays are stored in the same order, except that starred ones follow
behind the others of their owner, so that the support is known when they are read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxcompress.artifact import bits
from jaxcompress.artifact.errors import ArtifactError
from jaxcompress.core.fields import data_fields, decode_static, encode_static, static_fields
from jaxcompress.core.leaf import CompressedArray, is_compressed, kind_class

_Path = tuple[str, ...]
NextShape = Callable[[], tuple[int, ...]]
NextArray = Callable[[str, tuple[int, ...], np.dtype], np.ndarray]


@dataclasses.dataclass
class Described:
    """What `describe` found.

    Attributes:
        template: see the module's docstring.
        shapes: of all arrays, in the order of the fields.
        arrays: in storage order; those with a support already cut down to it.
    """

    template: Any
    shapes: list[tuple[int, ...]] = dataclasses.field(default_factory=list)
    arrays: list[np.ndarray] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(eq=False)
class _Array:
    path: _Path
    dtype: np.dtype
    shape: tuple[int, ...]
    starred: bool = False
    key: str | None = None


@dataclasses.dataclass(eq=False)
class _Kind:
    path: _Path
    cls: type[CompressedArray]
    owner: bool
    fields: dict[str, _Array | _Kind | None]
    statics: dict[str, Any]


def describe(leaf: Any, path: str) -> Described:
    """Takes a leaf apart.

    Args:
        leaf: a concrete array, or a leaf of any kind.
        path: where it is, for errors.

    Raises:
        TypeError: if it cannot be stored.
    """
    found = Described(None)
    found.template = _describe(leaf, path, found)
    return found


def rebuild(template: Any, next_shape: NextShape, next_array: NextArray) -> Any:
    """The inverse of `describe`.

    Args:
        template: of the leaf.
        next_shape: gives the shapes one by one.
        next_array: ``next_array(path in the leaf, shape, dtype)`` gives the arrays one by one, in storage order.

    Raises:
        ArtifactError: if the template is malformed or names an unknown kind or dtype.
    """
    return read(parse(template, next_shape), next_array)


def parse(template: Any, next_shape: NextShape, path: _Path = ()) -> _Array | _Kind:
    """Checks a template and gives each array its shape; allocates nothing.

    Raises:
        ArtifactError: as `rebuild`.
    """
    if isinstance(template, str):
        return _Array(path, _dtype(template.removesuffix("*")), next_shape(), template.endswith("*"))
    if isinstance(template, dict) and isinstance(template.get("key"), str):
        return _Array(path, _dtype("uint32"), next_shape(), key=template["key"])
    if not isinstance(template, list) or len(template) not in (2, 3) or not isinstance(template[0], str):
        raise ArtifactError(f"load: malformed leaf {template!r:.80}; the file was not written by save()")
    cls = _class(template[0].removesuffix("*"))
    names, constants, statics = data_fields(cls), static_fields(cls), (template[2:] or [[]])[0]
    if len(names) != len(template[1]) or len(constants) != len(statics):
        raise ArtifactError(
            f"load: the file's {cls.kind!r} leaves have {len(template[1])} data and {len(statics)} static fields, this "
            f"release's have {list(names)} and {list(constants)}; install the release that wrote the file"
        )
    fields = {
        name: None if inner is None else parse(inner, next_shape, (*path, name))  # a kind may leave a field absent
        for name, inner in zip(names, template[1], strict=True)
    }
    values = dict(zip(constants, map(decode_static, statics), strict=True))
    return _Kind(path, cls, template[0].endswith("*"), fields, values)


def stored_arrays(node: _Array | _Kind) -> Iterator[tuple[str, np.dtype, tuple[int, ...]]]:
    """``(path in the leaf, dtype, full shape)`` of every array of a parsed template, in the order of the fields."""
    if isinstance(node, _Array):
        yield "/".join(node.path), node.dtype, node.shape
    else:
        for inner in node.fields.values():
            yield from () if inner is None else stored_arrays(inner)


def _describe(leaf: Any, path: str, found: Described) -> Any:
    if not is_compressed(leaf):
        key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        array = _to_numpy(jax.random.key_data(leaf) if key else leaf, path)
        found.shapes.append(array.shape)
        found.arrays.append(array)
        return {"key": str(jax.random.key_impl(leaf))} if key else array.dtype.name
    support = leaf.support()
    mask = None if support is None else _to_numpy(support, path)
    owned = set() if mask is None else _owned(leaf, mask)
    deferred: list[np.ndarray] = []

    def kind(node: CompressedArray, at: _Path) -> list[Any]:
        node = node.for_file()
        held = [(name, getattr(node, name)) for name in data_fields(type(node))]
        templates = [None if value is None else field(value, (*at, name)) for name, value in held]
        statics = [encode_static(getattr(node, name)) for name in static_fields(type(node))]
        return [node.kind + ("*" if owned and not at else ""), templates, *([statics] if statics else [])]

    def field(value: Any, here: _Path) -> Any:
        name = "/".join((path, *here))
        if here in owned:
            array = _to_numpy(value, name)
            found.shapes.append(array.shape)
            deferred.append(array[mask])
            return f"{array.dtype.name}*"
        if is_compressed(value) and any(other[: len(here)] == here for other in owned):
            return kind(value, here)
        return _describe(value, name, found)

    template = kind(leaf, ())
    found.arrays += deferred
    return template


def _owned(leaf: CompressedArray, support: np.ndarray) -> set[_Path]:
    """The elementwise arrays without which `support` stays the same."""
    owned: set[_Path] = set()
    for path in list(_elementwise(leaf, ())):
        zeroed = _map_at(leaf, path, lambda array: _zeros(array.shape, array.dtype))
        found = zeroed.support()
        if found is not None and np.array_equal(np.asarray(found), support):
            owned.add(path)
            leaf = zeroed
    return owned


def _elementwise(leaf: CompressedArray, at: _Path) -> Iterator[_Path]:
    """Arrays inside a leaf that have one element for each element of the dense array."""
    for name, axes in leaf.alignment().items():
        value = getattr(leaf, name)
        if tuple(axes) != tuple(range(leaf.ndim)) or tuple(value.shape) != leaf.shape:
            continue
        if is_compressed(value):
            yield from _elementwise(value, (*at, name))
        elif not jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            yield (*at, name)


def _map_at(leaf: CompressedArray, path: _Path, fn: Callable[[Any], Any]) -> CompressedArray:
    value = getattr(leaf, path[0])
    return leaf.replace(**{path[0]: _map_at(value, path[1:], fn) if len(path) > 1 else fn(value)})


def _to_numpy(leaf: Any, path: str) -> np.ndarray:
    if isinstance(leaf, Tracer):
        raise TypeError(f"save: the leaf {path!r} is traced; call save outside jit, vmap and grad")
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        raise TypeError(
            f"save: parts of {path!r} live in other processes; gather the parameters first "
            "(jax.experimental.multihost_utils.process_allgather) and save in one process"
        )
    if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
        raise TypeError(
            f"save: {path!r} holds a {type(leaf).__name__}; leaves are arrays, compressed leaves or scalars"
        )
    array = np.asarray(leaf)
    if array.dtype.name not in bits.DTYPES:
        raise TypeError(f"save: {path!r} has dtype {array.dtype}; a file holds {', '.join(bits.DTYPES)}")
    return array


def read(node: _Array | _Kind, next_array: NextArray) -> Any:
    """Reads a leaf; ``node`` is the root of it, or an owner inside it."""
    deferred: list[_Array] = []

    def value(inner: _Array | _Kind | None) -> Any:
        if inner is None:
            return None
        if isinstance(inner, _Kind):
            if inner.owner and inner is not node:
                return read(inner, next_array)
            held = inner.cls(**{name: value(field) for name, field in inner.fields.items()}, **inner.statics)
            return held.from_file()
        if inner.starred:
            deferred.append(inner)
            return _zeros(inner.shape, inner.dtype)
        array = next_array("/".join(inner.path), inner.shape, inner.dtype)
        return _to_jax(array) if inner.key is None else jax.random.wrap_key_data(jnp.asarray(array), impl=inner.key)

    leaf = value(node)
    if not deferred:
        return leaf
    support = np.asarray(leaf.support()) if isinstance(node, _Kind) else None
    for array in deferred:
        if support is None or support.shape != array.shape or support.dtype != np.bool_:
            raise ArtifactError(
                "load: an array is stored on a support that does not fit; the file was not written by save()"
            )
        full = np.zeros(array.shape, array.dtype)
        full[support] = next_array("/".join(array.path), (int(support.sum()),), array.dtype)
        leaf = _map_at(leaf, array.path[len(node.path) :], lambda _, full=full: _to_jax(full))
    return leaf


def _zeros(shape: tuple[int, ...], dtype: np.dtype) -> jax.Array:
    return jnp.asarray(np.zeros(shape, dtype))  # jnp.zeros would compile once for every shape


def _to_jax(array: np.ndarray) -> Any:
    """A JAX array; a NumPy one where JAX would cut it to 32 bits (``jax_enable_x64`` off)."""
    return jnp.asarray(array) if jax.dtypes.canonicalize_dtype(array.dtype) == array.dtype else array


def _class(name: str) -> type[CompressedArray]:
    try:
        return kind_class(name)
    except KeyError as error:
        raise ArtifactError(
            f"load: unknown leaf kind {name!r:.80} in the file; import the module that defines it, then load"
        ) from error


def _dtype(name: str) -> np.dtype:
    if name not in bits.DTYPES:
        raise ArtifactError(f"load: unknown dtype {name!r:.40}; install the release that wrote the file")
    return bits.DTYPES[name]
