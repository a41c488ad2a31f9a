"""The variant table: what every chosen leaf becomes under each of its settings, made once by the real methods."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jaxcompress.core.groups import groups as find_groups
from jaxcompress.core.moments import Statistics
from jaxcompress.core.parts import find_parts, require_finite
from jaxcompress.core.paths import flatten_with_paths, replace_at
from jaxcompress.core.sites import sites as find_sites
from jaxcompress.core.table import html_table, text_table
from jaxcompress.search.policies.applied import compressed
from jaxcompress.search.policies.costs import CostItem, Costs
from jaxcompress.search.policies.decisions import (
    Choices,
    Decision,
    GroupDecision,
    LeafDecision,
    find_decisions,
    read_choices,
)
from jaxcompress.search.policies.setting import Channels, Setting
from jaxcompress.search.policies.sizes import (
    Coder,
    coded_bytes,
    cut_bits,
    file_bytes,
    site_macs,
    stored_bits,
    variant_flops,
)

if TYPE_CHECKING:
    from jaxcompress.core.groups import Groups
    from jaxcompress.core.sites import Sites

Storage = Literal["auto", "dense", "compressed"]
_DENSE_BYTES = 1 << 30  # up to which the table holds dense arrays
_MOST_COMBINATIONS = 1 << 12  # of settings that one leaf's costs may depend on


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class VariantTable:
    """Every variant of every chosen leaf, what it costs, and how a policy picks among them. Prints as a table.

    A policy is a row of int32, one for each decision: the number of the variant. 0 leaves a leaf, or a group, whole.

    Attributes:
        fn: the function.
        params: its parameters, as given.
        leaves: decisions on weights: the first columns of a policy.
        units: decisions on groups: the columns behind them.
        variants: of every decided leaf its variants, leaves as the real methods make them.
        costs: ``stored_bits``, ``bytes`` (of a file), ``flops`` where the sites are known.
        sites: where the parameters meet data; None where no inputs were given.
        groups: the groups of the function; None where no channels are decided.
        coder: of the file.
        storage: ``"dense"`` or ``"compressed"``: how variants stand in the program.
        fitted: whether variants are fitted to data.
    """

    fn: Callable[..., Any]
    params: Any
    leaves: tuple[LeafDecision, ...]
    units: tuple[GroupDecision, ...]
    variants: tuple[tuple[Any, ...], ...]
    costs: Costs
    sites: Sites | None
    groups: Groups | None
    coder: Coder
    storage: Literal["dense", "compressed"]
    fitted: bool = False

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """All decisions, in the order of the columns."""
        return (*self.leaves, *self.units)

    @property
    def allowed(self) -> tuple[tuple[int, ...], ...]:
        """Of every column the numbers that may be chosen."""
        return tuple(decision.allowed for decision in self.decisions)

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Of every column how many variants there are."""
        return tuple(len(decision.settings) for decision in self.decisions)

    @property
    def dense_row(self) -> np.ndarray:
        """The policy that leaves everything as it is."""
        return np.zeros(len(self.decisions), np.int32)

    def settings(self, row: Sequence[int] | np.ndarray) -> dict[str, Setting]:
        """What a policy makes of the weights, by path; those that stay as they are are left out."""
        chosen = {d.path: d.settings[int(v)] for d, v in zip(self.leaves, row, strict=False)}
        return {path: one for path, one in chosen.items() if not one.nothing}

    def tree(self, row: Sequence[int] | np.ndarray) -> Any:
        """The parameters with the variants that a policy picks; channels stay whole."""
        picks = zip(self.leaves, self.variants, row, strict=False)
        return replace_at(self.params, {decision.path: own[int(v)] for decision, own, v in picks})

    def kept_units(self, row: Sequence[int] | np.ndarray) -> dict[int, np.ndarray]:
        """The units that a policy keeps, by index of the group; whole groups are left out."""
        chosen = zip(self.units, row[len(self.leaves) :], strict=True)
        return {group.index: group.units(int(v)) for group, v in chosen if group.counts[int(v)] < group.counts[0]}

    def uniform_rows(self) -> np.ndarray:
        """Policies with the same setting everywhere it may be chosen, ``[n, decisions]``.

        Of weights and of groups in all combinations; where a decision has no such setting, the one that comes next to
        it in the order of its own.
        """
        rows = [(*a, *b) for a, b in itertools.product(_uniform(self.leaves), _uniform(self.units))]
        return np.array(list(dict.fromkeys(rows)), np.int32).reshape(-1, len(self.decisions))

    def __repr__(self) -> str:
        """The table as text."""
        return text_table(*self._table())

    def _repr_html_(self) -> str:
        return html_table(*self._table())

    def _table(self) -> tuple[list[str], list[list[str]], list[str]]:
        names = self.costs.names
        alone = {item.columns: item for item in self.costs.items if len(item.columns) == 1}
        rows = []
        for column, decision in enumerate(self.decisions):
            item = alone.get((column,))
            for variant in decision.allowed:
                spent = [f"{int(item.tables[name][variant]):,}" if item else "" for name in names]
                rows.append([decision.name if variant == decision.allowed[0] else "", decision.label(variant), *spent])
        count = math.prod(map(len, self.allowed))
        notes = [f"{len(self.decisions)} decisions, {float(count):.3g} policies; variants held {self.storage}"]
        return ["what", "setting", *(name.replace("_", " ") for name in names)], rows, notes


def variant_table(
    fn: Callable[..., Any],
    params: Any,
    choices: Choices,
    *,
    inputs: Sequence[Any] | None = None,
    stats: Statistics | None = None,
    coder: Coder = "zstd",
    storage: Storage = "auto",
    unit_scores: Any = "l2",
) -> VariantTable:
    """Makes every variant of every chosen leaf, by the real methods, and counts what it takes.

    One setting after another is applied to all leaves that have it, so that methods batch leaves of one shape.

    Args:
        fn: the model, ``fn(params, *inputs)``.
        params: tree of float arrays or leaves. Not changed.
        choices: from globs over paths to lists of `Setting` or of `Channels` (or dicts of their fields): the first glob
            that fits a weight counts, and the first that fits a member of a group.
        inputs: example arguments after the parameters: what the axes mean, operations of a call, groups of channels.
            Without them kernels of two axes are read as (in, out), and there are no ``flops`` and no channels.
        stats: of `jaxcompress.observe`: variants are then fitted to data (`jaxcompress.search.policies.compressed`),
            which takes longer.
        coder: of the file, as in `jaxcompress.save`.
        storage: ``"dense"``: variants stand in memory as dense arrays, fast; ``"compressed"``: as leaves that the
            evaluation materializes, small; ``"auto"``: dense up to 1 GiB.
        unit_scores: which units of a group go first, as ``scores=`` of `jaxcompress.prune.channels`.

    Raises:
        ValueError: if a glob fits nothing, a weight holds NaN or infinity or does not take a setting (names the path),
            or the costs of a leaf depend on too many combinations of groups.

    Example:
        >>> params = {"a": jax.random.normal(jax.random.key(0), (8, 16))}
        >>> table = variant_table(lambda p, x: x @ p["a"], params, {"**": [Setting(bits=4), Setting(bits=8)]})
        >>> table.costs.of([[0], [1], [2]])["stored_bits"].tolist()
        [4096, 1024, 1536]
    """
    choices = read_choices(choices)
    sites = None if inputs is None else find_sites(fn, params, *inputs)
    groups = None if inputs is None or not _wants_channels(choices) else find_groups(fn, params, *inputs)
    leaves, units = find_decisions(params, choices, sites=sites, groups=groups, unit_scores=unit_scores)
    if leaves:
        require_finite(find_parts(params, where=[d.path for d in leaves], sites=sites, method="policy"), "policy")
    variants = _variants(params, leaves, sites, stats)
    costs = _costs(params, leaves, units, variants, sites, groups, coder)
    costs = costs.with_fixed("bytes", costs.fixed["bytes"] + _around(params, leaves, variants, costs, coder))
    held = _storage(storage, params, leaves)
    return VariantTable(
        fn, params, leaves, units, variants, costs, sites, groups, coder, held, fitted=stats is not None
    )


def _around(
    params: Any, leaves: Sequence[LeafDecision], variants: Sequence[tuple[Any, ...]], costs: Costs, coder: Coder
) -> int:
    """What a file has besides the streams of single leaves: the manifest, less what streams save by being joined.

    Taken from one file that is really written, of the first settings that may be chosen.
    """
    first = {decision.path: own[decision.allowed[0]] for decision, own in zip(leaves, variants, strict=True)}
    columns = max((column for item in costs.items for column in item.columns), default=-1) + 1
    row = np.zeros((1, max(columns, len(leaves))), np.int32)
    row[0, : len(leaves)] = [decision.allowed[0] for decision in leaves]
    return file_bytes(replace_at(params, first), coder) - int(costs.of(row)["bytes"][0])


def _wants_channels(choices: Choices) -> bool:
    return any(isinstance(one, Channels) for settings in choices.values() for one in settings)


def _variants(
    params: Any, leaves: Sequence[LeafDecision], sites: Sites | None, stats: Statistics | None
) -> tuple[tuple[Any, ...], ...]:
    before = dict(zip(*flatten_with_paths(params)[:2], strict=True))
    found: list[list[Any]] = [[before[decision.path]] for decision in leaves]
    for number in range(1, max((len(d.settings) for d in leaves), default=0)):
        own = {d.path: d.settings[number] for d in leaves if number < len(d.settings)}
        after = dict(zip(*flatten_with_paths(compressed(params, own, sites=sites, stats=stats))[:2], strict=True))
        for decision, variants in zip(leaves, found, strict=True):
            if decision.path in own:
                variants.append(after[decision.path])
    return tuple(map(tuple, found))


def _storage(storage: Storage, params: Any, leaves: Sequence[LeafDecision]) -> Literal["dense", "compressed"]:
    if storage not in ("auto", "dense", "compressed"):
        raise ValueError(f"storage must be 'auto', 'dense' or 'compressed', got {storage!r}")
    if storage != "auto":
        return storage
    before = dict(zip(*flatten_with_paths(params)[:2], strict=True))
    total = sum(len(d.settings) * before[d.path].size * before[d.path].dtype.itemsize for d in leaves)
    return "dense" if total <= _DENSE_BYTES else "compressed"


def _costs(
    params: Any,
    leaves: Sequence[LeafDecision],
    units: Sequence[GroupDecision],
    variants: Sequence[tuple[Any, ...]],
    sites: Sites | None,
    groups: Groups | None,
    coder: Coder,
) -> Costs:
    columns = {decision.path: column for column, decision in enumerate(leaves)}
    macs = site_macs(sites)
    items, fixed = [], {"stored_bits": 0, "bytes": 0, **({} if sites is None else {"flops": 0})}
    for path, leaf in zip(*flatten_with_paths(params)[:2], strict=True):
        own = variants[columns[path]] if path in columns else (leaf,)
        ranks = leaves[columns[path]].ranks if path in columns else (0,)
        member_of = [(len(leaves) + at, unit) for at, unit in enumerate(units) if path in unit.paths]
        if len(own) * math.prod(len(unit.counts) for _, unit in member_of) > _MOST_COMBINATIONS:
            raise ValueError(
                f"policy: {path!r} has {len(own)} settings and belongs to {len(member_of)} groups: more than "
                f"{_MOST_COMBINATIONS} combinations. Offer fewer numbers of channels, or choose fewer groups"
            )
        coded = [coded_bytes(variant, path, coder) for variant in own]
        tables = {name: _table_of(own, member_of) for name in fixed}
        for index in np.ndindex(tables["bytes"].shape):
            keep = _kept_axes(groups, path, [(u, v) for (_, u), v in zip(member_of, index[1:], strict=True)])
            variant, whole = own[index[0]], stored_bits(own[index[0]])
            bits = cut_bits(variant, keep) if keep else whole
            tables["stored_bits"][index] = bits
            tables["bytes"][index] = coded[index[0]] if bits == whole else -(-coded[index[0]] * bits // max(1, whole))
            if sites is not None:
                tables["flops"][index] = _flops(macs, path, leaf, keep, sites, ranks[index[0]])
        if path in columns or member_of:
            own_columns = (*((columns[path],) if path in columns else ()), *(column for column, _ in member_of))
            kept = tables if path in columns else {name: table[0] for name, table in tables.items()}
            items.append(CostItem(path, own_columns, kept))
        else:
            fixed = {name: fixed[name] + int(tables[name][0]) for name in fixed}
    return Costs(tuple(items), fixed)


def _table_of(own: Sequence[Any], member_of: Sequence[tuple[int, GroupDecision]]) -> np.ndarray:
    return np.zeros((len(own), *(len(unit.counts) for _, unit in member_of)), np.int64)


def _kept_axes(groups: Groups | None, path: str, chosen: Sequence[tuple[GroupDecision, int]]) -> dict[int, np.ndarray]:
    if groups is None or not chosen:
        return {}
    kept = groups.keep({unit.index: unit.units(variant) for unit, variant in chosen})
    return {axis: indices for (own, axis), indices in kept.items() if own == path}


def _flops(
    macs: Mapping[str, int], path: str, leaf: Any, keep: Mapping[int, np.ndarray], sites: Sites, rank: int
) -> int:
    if not macs.get(path):
        return 0
    _, contracting, _ = sites.axes(path)
    shape = tuple(leaf.shape)
    kept = tuple(len(keep[axis]) if axis in keep else size for axis, size in enumerate(shape))
    return variant_flops(macs[path], shape, kept, contracting, rank)


def _uniform(decisions: Sequence[Decision]) -> list[tuple[int, ...]]:
    """A row for every setting that any of the decisions was asked for; one empty row where there are none."""
    asked = [list(decision.asked) for decision in decisions]
    rows = []
    for one in dict.fromkeys(setting for own in asked for setting in own):
        home = next(own for own in asked if one in own)
        place = home.index(one) / max(1, len(home) - 1)
        rows.append(
            tuple(
                d.asked[one] if one in d.asked else d.asked[own[round(place * (len(own) - 1))]]
                for d, own in zip(decisions, asked, strict=True)
            )
        )
    return rows or [()]
