"""The tree around the leaves, as JSON.

| Python | JSON |
| ------ | ---- |
| None | ``null`` |
| dict, or any other mapping (restored as a dict) | an object; ``["d", [key, value], ...]`` when keys are integers |
| list, tuple | ``["l", ...]``, ``["t", ...]`` |
| Python scalar or text | ``["s", value]``, ``["c", real, imaginary]`` for complex |
| array or compressed leaf | an integer: the number of its template |

Any other pytree node (NamedTuple, dataclass, module) becomes the dict of its children by the names that JAX gives them;
`restore_like` puts the leaves back into such a structure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxcompress.artifact.errors import ArtifactError
from jaxcompress.core.leaf import is_compressed
from jaxcompress.core.paths import flatten_with_paths, path_string

_ABOVE = jax.tree_util.SequenceKey(0)
_ARRAYS = (jax.Array, np.ndarray, np.generic)


def to_json(tree: Any, template_of: Callable[[str, Any], int]) -> Any:
    """Describes a tree.

    Args:
        tree: any pytree.
        template_of: called with path and leaf for each array or compressed leaf, in storage order.

    Raises:
        TypeError: if a leaf or a key is of a type that a file cannot hold.
        ValueError: if two leaves share a path.
    """
    seen: set[str] = set()

    def node(value: Any, path: tuple[str, ...]) -> Any:
        if value is None:
            return None
        if is_compressed(value) or isinstance(value, _ARRAYS):
            return template_of(name(path), value)
        if isinstance(value, bool | int | float | str):
            name(path)
            return ["s", value]
        if isinstance(value, complex):
            name(path)
            return ["c", value.real, value.imag]
        if type(value) in (list, tuple):
            return ["lt"[type(value) is tuple], *(node(inner, (*path, str(i))) for i, inner in enumerate(value))]
        if isinstance(value, Mapping):
            return _pairs(value, path, node)
        return _children(value, path, node)

    def name(path: tuple[str, ...]) -> str:
        joined = "/".join(path)
        if joined in seen:
            raise ValueError(f"save: two leaves of the tree share the path {joined!r}; rename one of the keys")
        seen.add(joined)
        return joined

    return node(tree, ())


def from_json(node: Any, leaf_of: Callable[[str, int], Any], path: tuple[str, ...] = ()) -> Any:
    """The inverse of `to_json`; ``leaf_of`` is called with path and template number in storage order.

    Raises:
        ArtifactError: if the description is malformed.
    """
    if node is None:
        return None
    if type(node) is int:
        return leaf_of("/".join(path), node)
    if isinstance(node, dict):
        return {key: from_json(inner, leaf_of, (*path, key)) for key, inner in node.items()}
    tag, rest = (node[0], node[1:]) if isinstance(node, list) and node else (None, [])
    if tag == "s" and len(rest) == 1 and isinstance(rest[0], bool | int | float | str):
        return rest[0]
    if tag == "c" and len(rest) == 2:
        return complex(*rest)
    if tag in ("l", "t"):
        children = [from_json(inner, leaf_of, (*path, str(i))) for i, inner in enumerate(rest)]
        return children if tag == "l" else tuple(children)
    if tag == "d" and all(isinstance(pair, list) and len(pair) == 2 and type(pair[0]) in (int, str) for pair in rest):
        return {key: from_json(inner, leaf_of, (*path, str(key))) for key, inner in rest}
    raise ArtifactError(f"load: malformed tree node {node!r:.80}; the file was not written by save()")


def restore_like(loaded: Any, like: Any) -> Any:
    """Puts the leaves of a loaded tree into the structure of another, by path.

    Args:
        loaded: what `from_json` gave.
        like: a tree of the wanted structure; its leaves may be arrays, `jax.ShapeDtypeStruct` or compressed.

    Raises:
        ArtifactError: if the paths or the dense shapes differ; names them.
    """
    paths, leaves, _ = flatten_with_paths(loaded)
    found = dict(zip(paths, leaves, strict=True))
    wanted, targets, treedef = flatten_with_paths(like)
    missing, extra = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing or extra:
        raise ArtifactError(
            f"load: like= does not fit the file; paths only in like: {missing[:5]}, only in the file: {extra[:5]}"
        )
    for path, target in zip(wanted, targets, strict=True):
        shape, expected = (getattr(leaf, "shape", None) for leaf in (found[path], target))
        if shape is not None and expected is not None and tuple(shape) != tuple(expected):
            raise ArtifactError(f"load: {path!r} has shape {shape} in the file and {expected} in like=")
    return jax.tree.unflatten(treedef, [found[path] for path in wanted])


def _pairs(value: Mapping[Any, Any], path: tuple[str, ...], node: Callable[[Any, tuple[str, ...]], Any]) -> Any:
    for key in value:
        if type(key) not in (str, int):
            raise TypeError(f"save: a dict at {'/'.join(path)!r} has the key {key!r}; a file holds str and int keys")
    if all(type(key) is str for key in value):
        return {key: node(inner, (*path, key)) for key, inner in value.items()}
    return ["d", *([key, node(inner, (*path, str(key)))] for key, inner in value.items())]


def _children(value: Any, path: tuple[str, ...], node: Callable[[Any, tuple[str, ...]], Any]) -> Any:
    entries = jax.tree_util.tree_flatten_with_path(value, is_leaf=lambda inner: inner is not value)[0]
    if len(entries) == 1 and not entries[0][0]:
        raise TypeError(
            f"save: {'/'.join(path)!r} holds a {type(value).__name__}; leaves are arrays, compressed leaves, Python "
            "scalars and text (split functions and other static parts off, e.g. equinox.partition)"
        )
    children = {path_string(keys): inner for keys, inner in entries}
    only = next(iter(children.values()), None)
    boxed = len(children) == 1 and path_string((_ABOVE, *entries[0][0])) == "0"  # the `value` of a Flax NNX variable
    if boxed and (is_compressed(only) or isinstance(only, _ARRAYS)):
        return node(only, path)
    return {key: node(inner, (*path, key)) for key, inner in children.items()}
