"""Finds the parameter-shaped subtrees of other trees (optimizer states, masks, averages), by paths, and cuts them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxcompress.core.paths import flatten_with_paths
from jaxcompress.core.shrink.cut import Keep, Kept
from jaxcompress.core.shrink.keep import Shapes, cut_leaf


def corresponding(tree: Any, keeps: Mapping[str, Keep], shapes: Shapes, like: Any) -> Any:
    """Cuts the leaves of ``tree`` that belong to parameters (see `jaxcompress.core.shrink.shrunk.Shrunk.tree`)."""
    paths, leaves, treedef = flatten_with_paths(tree)
    fresh: list[Any] = [None] * len(leaves)
    if like is not None:
        if jax.tree.structure(like) != jax.tree.structure(tree):
            raise ValueError("like= must have the structure of the tree: give tx.init(small.params)")
        fresh = treedef.flatten_up_to(like)
    owners = owners_of(paths, leaves, shapes)
    out = []
    for path, leaf, owner, new in zip(paths, leaves, owners, fresh, strict=True):
        small = leaf
        if owner in keeps:
            keep = _keep_for(np.shape(leaf), shapes[owner], keeps[owner], path, like is not None)
            small = leaf if keep is None else cut_leaf(leaf, keep, path)
        out.append(new if new is not None and np.shape(new) != np.shape(small) else small)
    return jax.tree.unflatten(treedef, out)


def owners_of(paths: list[str], leaves: list[Any], shapes: Shapes) -> list[str]:
    """The parameter that each leaf belongs to, or ``""``: by the largest subtrees that fit into the parameters."""
    roots = {"": set(shapes)}
    for path in shapes:
        head, slash, rest = path.partition("/")
        if slash:
            roots.setdefault(head, set()).add(rest)
    children: dict[str, list[str]] = {}
    for path in paths:
        parts = path.split("/")
        for depth in range(len(parts) + 1):
            node = "/".join(parts[:depth])
            children.setdefault(node, []).append("/".join(parts[depth:]))
    owner: dict[str, str] = {}

    def visit(node: str) -> None:
        below = [rest for rest in children[node] if rest]
        root = next((root for root, names in roots.items() if below and names.issuperset(below)), None)
        if root is not None:
            for rest in below:
                full = f"{node}/{rest}" if node else rest
                owner[full] = f"{root}/{rest}" if root else rest
            return
        for name in dict.fromkeys(rest.partition("/")[0] for rest in below):
            visit(f"{node}/{name}" if node else name)

    visit("")
    return [owner.get(path, "") for path in paths]


def _keep_for(
    shape: tuple[int, ...], dense: tuple[int, ...], keep: Keep, path: str, may_reset: bool
) -> tuple[Kept | None, ...] | None:
    """What a leaf of some shape keeps, given its parameter's: None where it has nothing to do with its axes."""
    if shape == dense:
        return keep
    if len(shape) != len(dense) - 1:
        return None
    missing = [axis for axis in range(len(dense)) if dense[:axis] + dense[axis + 1 :] == shape]
    options = {keep[:axis] + keep[axis + 1 :] for axis in missing}
    if len(options) <= 1:
        return next(iter(options), None)
    name = path.lower()
    if "row" in name:  # optax: among equal axes the last one is summed out of the rows,
        return keep[: missing[-1]] + keep[missing[-1] + 1 :]
    if "col" in name:  # and the one before it out of the columns
        return keep[: missing[-2]] + keep[missing[-2] + 1 :]
    if may_reset:
        return None
    raise ValueError(
        f"tree: {path!r} has the shape {shape}, its parameter {dense}: which axis it lacks cannot be told. Give "
        "like=tx.init(small.params), and the leaf is reset"
    )
