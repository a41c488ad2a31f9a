"""Structured selection of whole residual branches."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxcompress.core.paths import matches
from jaxcompress.core.shrink import masked
from jaxcompress.core.table import text_table
from jaxcompress.core.tree import materialize
from jaxcompress.prune.reach import Reach
from jaxcompress.prune.scores.aggregate import Aggregate
from jaxcompress.prune.scores.fpgm import FPGM
from jaxcompress.prune.scores.group_scores import GroupScore, group_scores
from jaxcompress.prune.scores.units import AxisRoles
from jaxcompress.prune.selection import Selection

if TYPE_CHECKING:
    from jaxcompress.core.groups import Group, Groups
    from jaxcompress.core.sites import Sites

_NONE = np.zeros(0, np.int64)


@dataclasses.dataclass(frozen=True)
class Branch:
    """A part of a network that data can bypass.

    Attributes:
        name: the module path that its kernels share, such as ``params/Block_3``; with the modules below it, as in
            ``params/Dense_0+Dense_1``, where other branches lie there too.
        groups: indices of the groups inside it.
        score: mean score of their units.
    """

    name: str
    groups: tuple[int, ...]
    score: float


def branches(groups: Groups, variables: Any, /, *, scores: Any = "l2", sites: Sites | None = None) -> list[Branch]:
    """The branches that `blocks` can drop, the least important first.

    What can be bypassed is found by trying: a group is inside a branch if, without all of its units, every result still
    depends on every input that it depended on. That holds for what lies between the two ends of a residual connection
    (the hidden units of an MLP, the heads of an attention, the inner channels of a bottleneck, also one whose shortcut
    is a convolution), and not for the residual stream, nor for a chain without a shortcut. Groups that nothing produces
    or nothing reads without those of a branch belong to it.

    Args:
        groups: what `jaxcompress.groups` found. Layers stacked in one leaf (a scan) are one branch.
        variables: the tree it was found for; leaves may be compressed.
        scores: of units, as for `channels`, but on one scale for all groups: names are not normalized.
        sites: what `jaxcompress.sites` found for the same call; traced anew if not given.

    Returns:
        The branches; none for a chain.

    Raises:
        ValueError: if ``scores`` do not fit, or give none for a branch.

    Example:
        >>> params = {str(i): {"a": jnp.ones((2, 4)) + i, "b": jnp.ones((4, 2))} for i in range(2)}
        >>> def fn(p, x):
        ...     for i in range(2):
        ...         x = x + jax.nn.relu(x @ p[str(i)]["a"]) @ p[str(i)]["b"]
        ...     return x
        >>> [(branch.name, branch.groups) for branch in branches(jc.groups(fn, params, jnp.ones((1, 2))), params)]
        [('0', (0,)), ('1', (1,))]
    """
    return _Network(groups, variables, sites).branches(scores)


def blocks(
    groups: Groups,
    variables: Any,
    /,
    *,
    drop: int | str | Sequence[str],
    scores: Any = "l2",
    sites: Sites | None = None,
) -> Selection:
    """Drops whole residual branches: every group inside of them goes to width 0.

    The shrunk network still equals the masked one exactly: kernels of the branch become empty, and what is added to the
    stream is the constant that the branch computes from nothing, its last bias or the shift of its last norm. Which
    branches there are, `branches` lists.

    Args:
        groups: what `jaxcompress.groups` found.
        variables: the tree it was found for; leaves may be compressed.
        drop: how many branches, those of lowest score (one that would cut the network, now that others are gone, is
            passed over); or globs over the names of branches.
        scores: of units; a branch scores their mean. See `branches`.
        sites: what `jaxcompress.sites` found for the same call; traced anew if not given.

    Returns:
        The kept indices, as `channels` returns them.

    Raises:
        ValueError: if there are fewer branches, a glob fits none, or the named branches would cut the network together;
            lists the branches.

    Example:
        >>> params = {"a": jnp.ones((2, 4)), "b": jnp.ones((4, 2)), "c": jnp.ones(2)}
        >>> fn = lambda p, x: x + jax.nn.relu(x @ p["a"]) @ p["b"] + p["c"][None]
        >>> keep = blocks(jc.groups(fn, params, jnp.ones((1, 2))), params, drop=1)
        >>> {key: kept.tolist() for key, kept in keep.items()}
        {('a', 1): [], ('b', 0): []}

    References:
        Veit et al., 2016. https://arxiv.org/abs/1605.06431 (residual networks without some of their branches)
    """
    network = _Network(groups, variables, sites)
    there = network.branches(scores)
    listed = text_table(
        ("branch", "groups", "score"), [(b.name, ",".join(map(str, b.groups)), f"{b.score:.4g}") for b in there]
    )

    def bypassed(some: Sequence[Branch]) -> bool:
        return network.bypassed([index for branch in some for index in branch.groups])

    if isinstance(drop, int):
        if not 0 <= drop <= len(there):
            raise ValueError(f"blocks: drop={drop}, but there are {len(there)} branches:\n{listed}")
        chosen: list[Branch] = []
        for branch in there:
            if len(chosen) < drop and bypassed([*chosen, branch]):
                chosen.append(branch)
        if len(chosen) < drop:
            raise ValueError(
                f"blocks: drop={drop}, but without {[b.name for b in chosen]} every further branch is needed to connect"
                f" inputs and results. The branches are:\n{listed}"
            )
    else:
        chosen = [branch for branch in there if matches(branch.name, drop)]
        if not chosen:
            raise ValueError(f"blocks: drop={drop!r} fits no branch. The branches are:\n{listed}")
        if not bypassed(chosen):
            raise ValueError(f"blocks: without {[b.name for b in chosen]} a result is cut off from an input:\n{listed}")
    units = {index: _NONE for branch in chosen for index in branch.groups}
    return Selection(groups, units, notes=tuple(f"dropped: {b.name} (score {b.score:.4g})" for b in chosen))


class _Network:
    """What is known of a network, and tried: dropping groups from it."""

    def __init__(self, groups: Groups, variables: Any, sites: Sites | None) -> None:
        self.groups, self.params = groups, materialize(variables)
        self.roles = AxisRoles.of(groups, self.params, sites)
        self._reach = Reach(groups, self.params)

    def bypassed(self, some: Sequence[int]) -> bool:
        """True if nothing is cut off without the units of these groups."""
        return self._reach.kept(masked(self.params, self.groups.keep({index: _NONE for index in some})))

    def branches(self, scores: Any) -> list[Branch]:
        inner = [group.index for group in self.groups if self._is_inner(group) and self.bypassed([group.index])]
        closed = dict.fromkeys(self._dying_with(index) for index in inner)
        found = [some for some in closed if not any(set(some) < set(other) for other in closed) and self.bypassed(some)]
        by_group = group_scores(self.groups, self.params, _on_one_scale(scores), sites=self.roles.sites)
        names = _names([[self.groups[index] for index in some] for some in found], self.roles)
        scored = []
        for name, some in zip(names, found, strict=True):
            held = [by_group[index] for index in some if index in by_group]
            if not held:
                raise ValueError(f"blocks: scores={scores!r} give none for the branch {name!r}: take others")
            scored.append(Branch(name, some, float(np.mean(np.concatenate(held)))))
        return sorted(scored, key=lambda branch: branch.score)

    def _is_inner(self, group: Group) -> bool:
        """True if kernels produce its units and kernels read them."""
        return bool(self._kernels(group, "producer") and self._kernels(group, "consumer"))

    def _dying_with(self, index: int) -> tuple[int, ...]:
        """A group, and those that nothing produces or nothing reads any more without it, and so on."""
        gone, grown = {index}, True
        while grown:
            empty = self._empty(gone)
            more = {
                group.index
                for group in self.groups
                for side in ("producer", "consumer")
                if (kernels := self._kernels(group, side)) and kernels <= empty
            }
            grown = not more <= gone
            gone |= more
        return tuple(sorted(gone))

    def _kernels(self, group: Group, side: str) -> frozenset[str]:
        return frozenset(m.path for m in group.members if side in self.roles.sides.get((m.path, m.axis), ()))

    def _empty(self, gone: Collection[int]) -> frozenset[str]:
        """Leaves that have no entries without some groups: an axis is theirs from end to end."""
        owned: dict[tuple[str, int], list[np.ndarray]] = {}
        for member in (member for index in gone for member in self.groups[index].members):
            owned.setdefault((member.path, member.axis), []).append(member.positions.ravel())
        return frozenset(
            path
            for (path, axis), positions in owned.items()
            if len(np.unique(np.concatenate(positions))) == self.groups.shapes[path][axis]
        )


def _names(found: Sequence[Sequence[Group]], roles: AxisRoles) -> list[str]:
    """The module path that the kernels of a branch share; where other branches lie there too, the modules below it."""
    shared, below = [], []
    for groups in found:
        kernels = [m.path for g in groups for m in g.members if roles.sides.get((m.path, m.axis))]
        parts = [path.split("/") for path in kernels]
        depth = 0
        while all(len(part) > depth + 1 and part[depth] == parts[0][depth] for part in parts):
            depth += 1
        shared.append(parts[0][:depth])
        below.append("+".join(sorted({part[depth] for part in parts})))
    short = ["/".join(prefix) for prefix in shared]
    return [
        name
        if name and sum(f"{other}/".startswith(f"{name}/") for other in short) == 1
        else "/".join((*prefix, modules))
        for name, prefix, modules in zip(short, shared, below, strict=True)
    ]


def _on_one_scale(scores: Any) -> Any:
    """Scores that a name or numbers per weight stand for, without normalization by group."""
    if scores == "fpgm":
        return FPGM(normalize=None)
    return (
        scores if scores == "batchnorm_scale" or isinstance(scores, GroupScore) else Aggregate(scores, normalize=None)
    )
