"""Methods applied to each gate of a joint recurrent kernel by itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxcompress.core.leaf import is_compressed
from jaxcompress.core.parts import Part, Roles, find_parts, require_finite, setting_at, with_parts
from jaxcompress.core.paths import Where
from jaxcompress.core.sites import Site, Sites
from jaxcompress.factorize.blocks import Blocks


def per_gate(
    params: Any,
    stage: Callable[..., Any],
    *,
    gates: int | Mapping[str, int],
    where: Where = None,
    sites: Sites | None = None,
) -> Any:
    """Cuts kernels into the gates that lie side by side along their outputs, and applies a method to each gate.

    The gates of an LSTM or GRU do different work: factors of their own fit them better than common ones, at the same
    number of multiplications; a codebook, a scale or a tensor train for each gate comes about in the same way. To
    factorize separate kernels together, the other way round, see `join_kernels`.

    Args:
        params: tree of float arrays. Not changed.
        stage: what is applied: a stage such as ``jc.factorize.SVD(rank=8)``, called with a dict from paths to arrays
            with a stack axis of gates, and ``sites=``.
        gates: how many a kernel has (4 in an LSTM, 3 in a GRU); or a dict from globs over paths to numbers, as
            `gates_of` finds it in the trace: kernels that fit none stay as they are.
        where: kernels to cut: globs over paths or a predicate; by default those that ``sites`` show as contraction
            weights or embeddings, without ``sites`` the float leaves of two axes or more.
        sites: what `jaxcompress.sites` found. Without it only kernels of two axes are taken, read as (in, out).

    Returns:
        The tree with `Blocks` leaves.

    Raises:
        ValueError: if the outputs of a kernel do not split into so many gates, its roles are not known, it is
            compressed already or holds NaN or infinity, ``where`` or a glob fits nothing, or ``stage`` leaves one of
            them dense.
        TypeError: if a chosen leaf is not float.

    Example:
        >>> params = {"kernel": jax.random.normal(jax.random.key(0), (16, 64))}
        >>> leaf = per_gate(params, jc.factorize.SVD(rank=2), gates=4)["kernel"]
        >>> leaf.shape, leaf.blocks.u.shape, leaf.blocks.v.shape
        ((16, 64), (4, 16, 2), (4, 2, 16))
    """
    parts = find_parts(params, where=where, sites=sites, settings=gates, method="per_gate", whole=lambda leaf: True)
    blocks: dict[str, jax.Array] = {}
    found: list[Site] = []
    axes: list[tuple[int, int]] = []
    for part in parts:
        if is_compressed(part.array):
            raise ValueError(f"per_gate: {part.name!r} is compressed already: apply this first, or leave it out")
        roles, count = part.known_roles("per_gate"), setting_at(gates, part.path)
        axis = _gate_axis(part, roles, count)
        n = len(roles.stack)
        w = jnp.asarray(part.array)
        shape = (*w.shape[:axis], count, w.shape[axis] // count, *w.shape[axis + 1 :])
        blocks[part.path] = jnp.moveaxis(w.reshape(shape), axis, n)
        axes.append((axis - n, n))
        found.append(_site_of_blocks(part, roles, n, blocks[part.path]))
    require_finite(parts, "per_gate")
    coded = stage(blocks, sites=Sites(found))
    left = [path for path in blocks if not is_compressed(coded[path])]
    if left:
        raise ValueError(f"per_gate: stage= leaves {left[0]!r} dense: let its where= choose what per_gate does")
    leaves = [Blocks.create(coded[part.path], axis, n) for part, (axis, n) in zip(parts, axes, strict=True)]
    return with_parts(params, parts, leaves)


@dataclasses.dataclass(frozen=True)
class PerGate:
    """Recipe stage of `per_gate`, with the same fields."""

    stage: Callable[..., Any]
    gates: int | Mapping[str, int]
    where: str | Sequence[str] | None = None

    version: ClassVar[int] = 1

    def __call__(self, params: Any, *, sites: Sites | None = None) -> Any:
        """Applies `per_gate`."""
        return per_gate(params, self.stage, gates=self.gates, where=self.where, sites=sites)


def _gate_axis(part: Part, roles: Roles, count: Any) -> int:
    """The first output axis, along which the gates lie."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 2:
        raise ValueError(f"per_gate: gates must be an integer from 2 on, got {count!r} for {part.name!r}")
    if roles.stack != tuple(range(len(roles.stack))) or not roles.output:
        raise ValueError(
            f"per_gate: {part.name!r} (shape {part.array.shape}) must have its stack axes {roles.stack} first, and an "
            "output axis"
        )
    size = part.array.shape[roles.output[0]]
    if size % count:
        raise ValueError(f"per_gate: the {size} outputs of {part.name!r} are not {count} gates of one size")
    return roles.output[0]


def _site_of_blocks(part: Part, roles: Roles, n: int, blocks: jax.Array) -> Site:
    """Where the blocks meet data: as the kernel does, with the gates as one more stack axis."""

    def moved(axes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(axis + (axis >= n) for axis in axes)

    return Site(
        path=part.path,
        primitive="dot_general",
        contracting=moved(roles.contracting),
        output=moved(roles.output),
        stack=(*range(n), n),
        lookup=(),
        trips=1,
        macs=blocks.size,
        bytes=blocks.size * blocks.dtype.itemsize,
        shape=blocks.shape,
        dtype=blocks.dtype,
        source="per_gate",
        spatial=moved(roles.spatial),
    )
