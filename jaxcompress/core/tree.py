"""Verbs over whole parameter trees: materialize, count, split for training, place."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jaxcompress.core.fields import bit_width
from jaxcompress.core.leaf import CompressedArray, dense, is_compressed
from jaxcompress.core.paths import Where, flatten_with_paths, select


def materialize(tree: Any) -> Any:
    """The tree with every compressed leaf replaced by its dense array; dense leaves are passed through."""
    return jax.tree.map(dense, tree, is_leaf=is_compressed)


def stored_bytes(tree: Any) -> int:
    """Bytes that the arrays of a tree need when packed, before any entropy coding: whole bytes per leaf.

    This is what the leaves hold, not what a file takes: `jaxcompress.save` returns the bytes that were written.
    """
    total = 0
    for leaf in jax.tree.leaves(tree, is_leaf=is_compressed):
        bits = leaf.stored_bits if is_compressed(leaf) else jnp.size(leaf) * bit_width(jnp.result_type(leaf))
        total += -(-bits // 8)
    return total


def split_trainable(tree: Any, *, where: Where = None) -> tuple[Any, Any]:
    """Splits a tree into what gradient steps change and what they leave alone.

    Trainable are the float arrays, and inside a compressed leaf the float fields that its kind declares (the values
    under a mask, a codebook, low-rank factors). Codes, masks and scales are frozen.

    Args:
        tree: parameters, possibly with compressed leaves.
        where: restricts the trainable part to leaves at these paths (see `jaxcompress.core.paths.select`).

    Returns:
        ``(trainable, frozen)``: two trees of the same structure, each with None where the other has an array. Hand
        the first to ``optax`` and ``jax.grad``; `merge` puts them together again.

    Raises:
        ValueError: if ``where`` matches nothing.

    Example:
        >>> trainable, frozen = split_trainable({"w": jnp.ones(2), "steps": jnp.asarray(3)})
        >>> trainable, frozen
        ({'steps': None, 'w': Array([1., 1.], dtype=float32)}, {'steps': Array(3, dtype=int32, weak_type=True), 'w':
        None})
    """
    chosen = None if where is None else set(select(tree, where))
    paths, leaves, treedef = flatten_with_paths(tree)
    flags = [_flags(leaf, chosen is None or path in chosen) for path, leaf in zip(paths, leaves, strict=True)]
    mask = jax.tree.unflatten(treedef, flags)
    trainable = jax.tree.map(lambda keep, x: x if keep else None, mask, tree)
    frozen = jax.tree.map(lambda keep, x: None if keep else x, mask, tree)
    return trainable, frozen


def merge(trainable: Any, frozen: Any) -> Any:
    """Puts the two halves of `split_trainable` together. Traceable and differentiable.

    Raises:
        ValueError: if the two are not halves of one tree.
    """

    def either(a: Any, b: Any) -> Any:
        if a is not None and b is not None:
            raise ValueError("merge: both trees hold an array in one place; they are not the halves of split_trainable")
        return b if a is None else a

    return jax.tree.map(either, trainable, frozen, is_leaf=lambda x: x is None)


def in_axes(tree: Any, axis: int = 0) -> Any:
    """The ``in_axes`` that make `jax.vmap` map dense axis ``axis`` of every leaf.

    A bare ``in_axes=1`` would map axis 1 of every *field*: the rank of a low-rank factor, say, without an error.

    Returns:
        A tree of the structure of ``tree``, integers at the arrays.

    Raises:
        ValueError: if some leaf does not carry that axis in each of its fields (it is not a stack axis); names the
            leaf.
    """
    paths, leaves, treedef = flatten_with_paths(tree)
    return jax.tree.unflatten(treedef, [_axes(p, leaf, axis) for p, leaf in zip(paths, leaves, strict=True)])


def shardings(tree: Any, *, like: Any) -> Any:
    """Where every array of a compressed tree goes, so that its dense axes lie as those of ``like``.

    Args:
        tree: parameters with compressed leaves.
        like: the dense tree: arrays (or abstract arrays) that carry a `jax.sharding.Sharding`, or shardings.

    Returns:
        A tree of the structure of ``tree`` with shardings at the arrays; for `jax.device_put` and for
        ``in_shardings``. A field axis that does not divide by its mesh axes is replicated.

    Raises:
        ValueError: if the trees do not match, or a leaf of ``like`` carries no sharding a compressed leaf can follow.
    """
    paths, leaves, treedef = flatten_with_paths(tree)
    guides = jax.tree.leaves(like, is_leaf=is_compressed)
    if len(guides) != len(leaves):
        raise ValueError(f"shardings: the tree has {len(leaves)} leaves and like= has {len(guides)}")
    return jax.tree.unflatten(treedef, [_placed(*item) for item in zip(paths, leaves, guides, strict=True)])


def _flags(leaf: Any, allowed: bool) -> Any:
    """True at the arrays that train."""
    if not is_compressed(leaf):
        return allowed and jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    return leaf.replace(
        **{name: _flags(value, allowed and name in leaf.trainable) for name, value in leaf.components().items()}
    )


def _axes(path: str, leaf: Any, axis: int) -> Any:
    if not is_compressed(leaf):
        return axis
    positions = leaf.axis_positions(axis % leaf.ndim) if -leaf.ndim <= axis < leaf.ndim else None
    if positions is None:
        raise ValueError(
            f"in_axes: axis {axis} of the {leaf.kind} leaf {path!r} (shape {leaf.shape}) is not held by each of its "
            "fields; only stack axes can be mapped. Materialize the leaf, or unstack it."
        )
    return leaf.replace(**{name: _axes(path, getattr(leaf, name), at) for name, at in positions.items()})


def _placed(path: str, leaf: Any, guide: Any) -> Any:
    sharding = guide if isinstance(guide, jax.sharding.Sharding) else getattr(guide, "sharding", None)
    if sharding is None:
        raise ValueError(f"shardings: like= has no sharding at {path!r}, but {type(guide).__name__}")
    if not isinstance(leaf, CompressedArray):
        return sharding
    if not isinstance(sharding, NamedSharding):
        if len(sharding.device_set) == 1:
            return jax.tree.map(lambda _: sharding, leaf)
        raise ValueError(
            f"shardings: the leaf {path!r} is compressed and needs a NamedSharding in like=, got {sharding}"
        )
    specs = leaf.partition_specs(sharding.spec)
    return jax.tree.map(lambda field, spec: _dividing(field, spec, sharding), leaf, specs)


def _dividing(field: jax.Array, spec: PartitionSpec, sharding: NamedSharding) -> NamedSharding:
    entries = []
    for size, entry in zip(field.shape, spec, strict=True):
        names = () if entry is None else (entry,) if isinstance(entry, str) else entry
        count = 1
        for name in names:
            count *= sharding.mesh.shape[name]
        entries.append(entry if size % count == 0 else None)
    return NamedSharding(sharding.mesh, PartitionSpec(*entries))
