"""Names of the leaves of a parameter tree, and the patterns that choose among them.

A path is the ``/``-joined keys down to a dense leaf: ``params/Dense_0/kernel`` in a Linen dict, ``layers/0/weight``
in an Equinox module. A compressed leaf has the path of the dense leaf it stands for. The ``value`` that Flax NNX puts
around every variable is left out.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from jaxcompress.core.leaf import is_compressed

Where: TypeAlias = "str | Sequence[str] | Callable[[str, Any], bool] | None"


def path_string(keys: Sequence[Any]) -> str:
    """Joins the keys of one `jax.tree_util` path.

    Example:
        >>> tree = {"params": {"Dense_0": {"kernel": jnp.ones(2)}}, "extra": [jnp.ones(2)]}
        >>> [path_string(keys) for keys, _ in jax.tree_util.tree_leaves_with_path(tree)]
        ['extra/0', 'params/Dense_0/kernel']
    """
    parts = []
    for key in keys:
        name = next(getattr(key, attribute) for attribute in ("key", "name", "idx") if hasattr(key, attribute))
        parts.append(str(name))
    if len(parts) > 1 and parts[-1] == "value" and hasattr(keys[-1], "name"):
        parts.pop()
    return "/".join(parts)


def flatten_with_paths(tree: Any) -> tuple[list[str], list[Any], Any]:
    """Flattens a tree down to dense or compressed leaves: ``(paths, leaves, treedef)``.

    ``jax.tree.unflatten(treedef, leaves)`` is the inverse.

    Raises:
        ValueError: if two leaves share a path (a dict with the keys ``1`` and ``"1"``, say).
    """
    entries, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_compressed)
    paths = [path_string(keys) for keys, _ in entries]
    if len(set(paths)) != len(paths):
        twice = sorted({path for path in paths if paths.count(path) > 1})
        raise ValueError(f"two leaves of the tree share the path {twice[0]!r}: rename one of the keys")
    return paths, [leaf for _, leaf in entries], treedef


def matches(path: str, patterns: str | Sequence[str]) -> bool:
    """True if a path fits any pattern and no pattern that begins with ``!``.

    ``*``, ``?`` and ``[...]`` work inside one part of the path, ``**`` stands for any number of parts. A path is a
    pattern that fits itself, whatever is in it.

    Example:
        >>> matches("params/Dense_0/kernel", "**/Dense_*/kernel"), matches("params/Dense_0/bias", "**/kernel")
        (True, False)
        >>> matches("params/head/kernel", ["**/kernel", "!**/head/*"])
        False
    """
    listed = [patterns] if isinstance(patterns, str) else list(patterns)
    parts = path.split("/")
    wanted = [pattern for pattern in listed if not pattern.startswith("!")] or ["**"]
    unwanted = [pattern[1:] for pattern in listed if pattern.startswith("!")]
    fits = any(path == pattern or _fits(parts, pattern.split("/")) for pattern in wanted)
    return fits and not any(_fits(parts, pattern.split("/")) for pattern in unwanted)


def select(tree: Any, where: Where, *, default: Callable[[str, Any], bool] | None = None) -> list[str]:
    """Paths of the leaves that ``where`` chooses, in tree order.

    Args:
        tree: parameters; leaves may be compressed.
        where: a pattern, several (``!`` excludes), a predicate ``(path, leaf) -> bool``, or None for ``default``.
        default: the predicate behind ``None``; without it, float leaves of two axes or more.

    Returns:
        The chosen paths; never empty.

    Raises:
        ValueError: if nothing was chosen; lists the paths there are.
        TypeError: if ``where`` is none of the above.
    """
    paths, leaves, _ = flatten_with_paths(tree)
    if where is None:
        chosen = [p for p, leaf in zip(paths, leaves, strict=True) if (default or is_weight)(p, leaf)]
    elif callable(where):
        chosen = [p for p, leaf in zip(paths, leaves, strict=True) if where(p, leaf)]
    elif isinstance(where, str) or (isinstance(where, Iterable) and all(isinstance(pattern, str) for pattern in where)):
        chosen = [p for p in paths if matches(p, where)]
    else:
        raise TypeError(f"where= takes a glob, a sequence of globs, or a predicate (path, leaf) -> bool; got {where!r}")
    if not chosen:
        raise ValueError(
            f"where={where!r} matches no leaf. {_hint(where, paths)}The paths are:\n  " + "\n  ".join(paths)
        )
    return chosen


def is_weight(path: str, leaf: Any) -> bool:
    """The default choice where nothing else is known: a float leaf of two axes or more."""
    del path
    return getattr(leaf, "ndim", 0) >= 2 and jnp.issubdtype(leaf.dtype, jnp.floating)


def replace_at(tree: Any, changes: dict[str, Any]) -> Any:
    """The tree with the leaves at some paths replaced.

    Raises:
        KeyError: if a path is not in the tree.
    """
    paths, leaves, treedef = flatten_with_paths(tree)
    missing = sorted(set(changes) - set(paths))
    if missing:
        raise KeyError(f"no leaf at {missing[0]!r}. {_hint(missing[0], paths)}The paths are: {paths}")
    return jax.tree.unflatten(treedef, [changes.get(p, leaf) for p, leaf in zip(paths, leaves, strict=True)])


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return _fits(parts, pattern[1:]) or (bool(parts) and _fits(parts[1:], pattern))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])


def _hint(where: Any, paths: Iterable[str]) -> str:
    close = difflib.get_close_matches(where, list(paths), n=1, cutoff=0.5) if isinstance(where, str) else []
    return f"Did you mean {close[0]!r}? " if close else ""
