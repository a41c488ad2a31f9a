"""Elastic depth: residual branches that can be left out together, and layers of scanned stacks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.groups import Groups, Member
from jaxcompress.core.groups import groups as find_groups
from jaxcompress.core.paths import matches
from jaxcompress.core.shrink import masked, shrink, verify
from jaxcompress.prune.blocks import Branch, branches
from jaxcompress.prune.reach import Reach
from jaxcompress.search.supernet.units import Units

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites

_SCANNED = "a scan runs along it"


def stacks(groups: Groups, params: Any, *, where: Any) -> list[Units]:
    """Stacks of scanned layers of which the last can be left out: without its parameters a layer passes its input on.

    A candidate is what one scan slices. That layers without parameters are the identity is tried: the network whose
    layers but the first are zero must compute what the network of the first alone computes, which holds for residual
    layers without a constant besides the stream.

    Args:
        groups: of the network.
        params: concrete.
        where: True, or globs over the names of stacks.
    """
    candidates: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for pin in groups.pins:
        if pin.reason.startswith(_SCANNED):
            candidates.setdefault((pin.reason, pin.entries), []).append((pin.path, pin.axis))
    found = []
    for (_, length), places in candidates.items():
        name = _shared([path for path, _ in places])
        wanted = length > 1 and (where is True or matches(name, where))
        if wanted and _passes_on(groups, params, {place: np.arange(1) for place in places}):
            members = tuple(Member(path, axis, np.arange(length)[:, None]) for path, axis in places)
            found.append(Units(name, members, tuple(range(1, length + 1)), np.arange(length)))
    return found


def _passes_on(groups: Groups, params: Any, keep: dict[tuple[str, int], np.ndarray]) -> bool:
    inputs, kwargs = jax.tree.map(numbers, (groups.inputs, groups.kwargs))
    small = shrink(groups.fn, params, keep)
    try:
        ours = jax.eval_shape(lambda p: small.fn(p, *inputs, **kwargs), small.params)
    except ValueError:  # the cut cannot be followed: the layers do more than pass a state on
        return False
    theirs = jax.eval_shape(lambda p: groups.fn(p, *inputs, **kwargs), params)
    same = [a.shape for a in jax.tree.leaves(ours)] == [a.shape for a in jax.tree.leaves(theirs)]
    return same and bool(verify(groups.fn, params, keep, *inputs, **kwargs))


def numbers(array: Any) -> Any:
    """Numbers for an abstract input: normal floats, zeros else."""
    if not isinstance(array, jax.ShapeDtypeStruct):
        return array
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), array.shape)
    if jnp.issubdtype(array.dtype, jnp.floating):
        return jnp.asarray(np.random.default_rng(0).standard_normal(array.shape), array.dtype)
    return jnp.ones(array.shape, array.dtype) if array.dtype == jnp.bool_ else jnp.zeros(array.shape, array.dtype)


def repeated(groups: Groups, params: Any, stack: Units) -> list[bool]:
    """Which contractions the scan of a stack repeats: those that are fewer with one layer less."""
    keep = {(member.path, member.axis): np.arange(stack.size - 1) for member in stack.members}
    small = shrink(groups.fn, jax.eval_shape(lambda: params), keep)
    fewer = find_groups(small.fn, small.params, *groups.inputs, **groups.kwargs).work
    if len(fewer) != len(groups.work):
        raise RuntimeError(
            f"supernet: the network with a layer less of {stack.name!r} has {len(fewer)} contractions, the whole one "
            f"{len(groups.work)}; leave the stack out with depth="
        )
    return [
        less.times * stack.size == one.times * (stack.size - 1) for less, one in zip(fewer, groups.work, strict=True)
    ]


def removable(
    groups: Groups, params: Any, *, scores: Any, sites: Sites, where: Any, fixed: Sequence[str]
) -> list[Branch]:
    """Residual branches that can all be left out at once, and any of them with the others there.

    Args:
        groups: of the network.
        params: concrete.
        scores: as for `jaxcompress.prune.branches`; among branches that cannot all go, those of low score do.
        sites: of the network.
        where: True, or globs over the names of branches.
        fixed: paths of leaves whose branches are no depth of their own (stacks of layers).

    Returns:
        The branches in the order in which the network computes them, as far as their groups tell.
    """
    if not len(groups):
        return []
    reach = Reach(groups, params)
    chosen: list[Branch] = []
    for branch in branches(groups, params, scores=scores, sites=sites):
        emptied = _emptied(groups, branch)
        if not emptied or emptied & set(fixed) or not (where is True or matches(branch.name, where)):
            continue
        gone = {index: np.zeros(0, np.int64) for one in (*chosen, branch) for index in one.groups}
        if reach.kept(masked(params, groups.keep(gone))):
            chosen.append(branch)
    return sorted(chosen, key=lambda branch: min(branch.groups))


def require_fitting_depth(depth: Any, names: Sequence[str]) -> None:
    """Refuses a ``depth`` that is neither a bool nor globs, and globs that fit nothing that can go.

    Raises:
        ValueError: naming it; lists what can go by what was asked for.
    """
    if isinstance(depth, bool):
        return
    for glob in [depth] if isinstance(depth, str) else depth:
        if not glob.startswith("!") and not any(matches(name, glob) for name in names):
            raise ValueError(
                f"supernet: depth={depth!r}: {glob!r} fits no branch or stack that can be left out (of those that were "
                f"asked for: {list(names)}); depth=True shows all"
            )


def _emptied(groups: Groups, branch: Branch) -> set[str]:
    """Leaves of which nothing is left without a branch."""
    owned: dict[tuple[str, int], int] = {}
    for member in (member for index in branch.groups for member in groups[index].members):
        owned[member.path, member.axis] = owned.get((member.path, member.axis), 0) + member.positions.size
    return {path for (path, axis), count in owned.items() if count == groups.shapes[path][axis]}


def _shared(paths: Sequence[str]) -> str:
    """The module that some leaves share; where they stand side by side without one, their names."""
    return (os.path.commonpath(paths) if len(paths) > 1 else paths[0]) or "+".join(paths)
