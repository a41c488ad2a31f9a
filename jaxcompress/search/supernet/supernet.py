"""`Supernet`: any model as a network that holds all of its subnets, without a change to its code."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.groups import Groups, Keep
from jaxcompress.core.groups import groups as find_groups
from jaxcompress.core.shrink import Shrunk, shrink
from jaxcompress.core.sites import Sites
from jaxcompress.core.sites import sites as find_sites
from jaxcompress.core.table import html_table, text_table
from jaxcompress.core.tree import materialize
from jaxcompress.prune.scores.aggregate import Aggregate
from jaxcompress.prune.scores.units import AxisRoles
from jaxcompress.search.genes import Genes
from jaxcompress.search.space import Space
from jaxcompress.search.supernet.costs import Costs
from jaxcompress.search.supernet.depths import removable, repeated, require_fitting_depth, stacks
from jaxcompress.search.supernet.sampling import largest, smallest
from jaxcompress.search.supernet.units import Masking, Units
from jaxcompress.search.supernet.variables import key, refuse_unknown, variables_of, whole_number
from jaxcompress.search.supernet.widths import Widths, chosen, counts, ladder_of, names, ranked, require_fitting_widths

_L1 = Aggregate("l1", normalize=None)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Supernet:
    """A model of elastic width and depth. Subnets share its parameters and one compiled program.

    A subnet is a genome: for every group of units how many of them stay, for every residual branch whether it is
    there, for every stack of scanned layers how many it has. All of these are runtime arrays. `apply` puts zeros at
    the parameters of what is not there, which by the promise of `jaxcompress.groups` computes what the smaller network
    does; `extract` makes that smaller network.

    Make it with `from_model`.

    Attributes:
        fn: the model.
        params: its parameters, from which the order of the units comes.
        groups: what `jaxcompress.groups` found.
        space: the search space: ``{"depth": {branch: 0 | 1, stack: 1 .. layers}, "width": {group: units that stay}}``,
            where names are paths without ``params/`` and with ``.``
            for ``/``; the width of what lies in a branch exists where the branch does.
        units: what is elastic: groups, and layers of stacks.
        sites: what `jaxcompress.sites` found.
        scores: what orders the units, as for `jaxcompress.prune.channels`.
    """

    fn: Callable[..., Any]
    params: Any
    groups: Groups
    space: Space
    units: tuple[Units, ...]
    sites: Sites
    scores: Any

    @classmethod
    def from_model(
        cls,
        fn: Callable[..., Any],
        params: Any,
        *inputs: Any,
        widths: Widths = (0.25, 0.5, 0.75, 1.0),
        depth: bool | str | Sequence[str] = True,
        scores: Any = _L1,
        round_to: int | Mapping[str, int] = 8,
        where: Any = None,
        protect: str | Sequence[str] = (),
        **kwargs: Any,
    ) -> Supernet:
        """Finds what can be elastic in a model.

        Widths are those of all groups that `jaxcompress.groups` proves (channels, hidden units, heads, residual
        streams). Depth is that of residual branches as `jaxcompress.prune.branches` finds them, as far as all can go at
        once, and of stacks of scanned layers whose layers without parameters pass their input on, which is tried on
        numbers; of a stack the last layers go first. A branch that is left out still adds the constant that it computes
        from nothing (its last bias), as in `jaxcompress.prune.blocks`.

        Args:
            fn: any function that ``jit`` accepts, in evaluation mode; non-array arguments are static.
            params: its first argument: all variables; concrete. Compressed leaves are made dense.
            *inputs: further positional arguments; may be `jax.ShapeDtypeStruct`.
            widths: fractions of the units of a group that may stay; ``"all"`` for every number (in steps of
                ``round_to``); a dict from globs over paths to either, where groups that none fits stay whole; None
                for no elastic width.
            depth: False for none, or globs over the names of branches and stacks.
            scores: the order in which units of a group go, as for `jaxcompress.prune.channels`; by default the sum of
                absolute weights (Once-for-All).
            round_to: numbers of units come in multiples of it, as for `jaxcompress.prune.channels`.
            where: groups whose width is elastic, as `jaxcompress.core.groups.Groups.select` takes it; default all.
            protect: globs; groups with a member that fits stay whole.
            **kwargs: keyword arguments of ``fn``.

        Raises:
            ValueError: if nothing is elastic, an argument is out of range, or a glob of ``widths`` or ``depth`` fits
                nothing; lists what there is.

        Example:
            >>> params = {"a": jnp.ones((2, 4)), "b": jnp.ones((4, 2))}
            >>> fn = lambda p, x: x + jax.nn.relu(x @ p["a"]) @ p["b"]
            >>> supernet = Supernet.from_model(fn, params, jnp.ones((1, 2)), widths=(0.5, 1.0), round_to=1)
            >>> supernet.space.names
            ('depth/a+b', 'width/a')
            >>> supernet.apply(params, {"depth": {"a+b": 1}, "width": {"a": 2}}, jnp.ones((1, 2))).tolist()
            [[5.0, 5.0]]
        """
        params = materialize(params)
        found = find_groups(fn, params, *inputs, **kwargs)
        sites = find_sites(fn, params, *inputs, **kwargs)
        ladder = ladder_of(found, params, scores=scores, sites=sites, round_to=round_to)
        layers = stacks(found, params, where=depth) if depth is not False else []
        stacked = [member.path for stack in layers for member in stack.members]
        branches = (
            removable(found, params, scores=scores, sites=sites, where=depth, fixed=stacked)
            if depth is not False
            else []
        )
        require_fitting_widths(found, widths)
        require_fitting_depth(depth, [*(one.name for one in layers), *(branch.name for branch in branches)])
        elastic = chosen(found, where, protect) if widths is not None and len(found) else []
        named = names(found, AxisRoles.of(found, params, sites))
        units = []
        for group, order, step in zip(ladder.groups, ladder.ranked, ladder.steps, strict=True):
            allowed = counts(group, widths, step) if group in elastic else (group.size,)
            inside = tuple(branch.name for branch in branches if group.index in branch.groups)
            if len(allowed) > 1 or inside:
                units.append(Units(named[group.index], group.members, allowed, order, inside, group.index))
        units += layers
        if not units:
            raise ValueError(f"Supernet: nothing is elastic with widths={widths!r}, depth={depth!r}:\n{found!r}")
        space = Space(variables_of(units, [branch.name for branch in branches]))
        return cls(fn, params, found, space, tuple(units), sites, scores)

    # Subnets ----------------------------------------------------------------------------------------------------

    def counts(self, genome: Any) -> jax.Array:
        """How many units of each of `units` a genome keeps: int32 ``[units]``.

        Args:
            genome: one decoded genome; `Genes`; or plain values as `Space.config` gives them. What is not named is
                there, and whole.

        Raises:
            ValueError: if the genome names what the space does not have, is more than one, or a concrete number of it
                is out of range.
            TypeError: if it is no nested dict.
        """
        if isinstance(genome, Genes):
            if genome.codes.ndim != 1:
                raise ValueError(
                    f"supernet: give one genome, got genes of the shape {genome.codes.shape}; vmap over them"
                )
            genome = self.space.decode(genome)
        refuse_unknown(self.space, genome)
        widths, depths = genome.get("width", {}), genome.get("depth", {})
        rows = []
        for units in self.units:
            own = depths if units.group is None else widths
            least = min(1, units.size)
            count = whole_number(key(units.name), own.get(key(units.name), units.size), least, units.size)
            for branch in units.branches:
                there = whole_number(key(branch), depths.get(key(branch), 1), 0, 1)
                count = jnp.where(there > 0, count, 0)
            rows.append(count)
        return jnp.stack(rows)

    def mask(self, params: Any, genome: Any) -> Any:
        """The parameters with zeros at what a genome leaves out. For `jit`, `vmap` over genomes, and `grad`."""
        return self._masking.apply(params, self.counts(genome))

    def apply(self, params: Any, genome: Any, *inputs: Any, **kwargs: Any) -> Any:
        """What the subnet computes: ``fn`` on masked parameters.

        Args:
            params: of the model, dense; trained or not.
            genome: as for `counts`; runtime arrays under `jit`.
            *inputs: of the model.
            **kwargs: of the model; others than analysed (``train=True``) are allowed where the same units move.
        """
        return self.fn(self.mask(params, genome), *inputs, **kwargs)

    def keep(self, genome: Any) -> Keep:
        """The indices that stay, by path and axis, for `jaxcompress.shrink`. The genome must be concrete."""
        kept = dict(zip(self.units, np.asarray(self.counts(genome)).tolist(), strict=True))
        keep = self.groups.keep({u.group: u.kept(count) for u, count in kept.items() if u.group is not None})
        layers = {u: u.kept(count) for u, count in kept.items() if u.group is None and count < u.size}
        return keep | {(m.path, m.axis): np.sort(m.positions[i].ravel()) for u, i in layers.items() for m in u.members}

    def extract(self, params: Any, genome: Any) -> Shrunk:
        """The subnet as a model of its own, truly smaller: ``.fn``, ``.params``.

        ``small.fn(small.params, *inputs) == supernet.apply(params, genome, *inputs)`` up to rounding.

        Args:
            params: of the model, dense.
            genome: as for `counts`, concrete.
        """
        return shrink(self.fn, params, self.keep(genome))

    # Costs ------------------------------------------------------------------------------------------------------

    def flops(self, genome: Any) -> jax.Array:
        """Floating point operations of one call at the analysed inputs, 2 for each multiply-accumulate; float32.

        For a traced genome too: a constraint, or a metric beside the error.
        """
        return self._costs.flops.total(self.counts(genome))

    def parameters(self, genome: Any) -> jax.Array:
        """Entries of all leaves of the subnet; float32, so exact up to 2^24."""
        return self._costs.parameters.total(self.counts(genome))

    def bytes(self, genome: Any) -> jax.Array:
        """Bytes of all leaves of the subnet as dense arrays; float32."""
        return self._costs.bytes.total(self.counts(genome))

    # Other views ------------------------------------------------------------------------------------------------

    @property
    def largest(self) -> Genes:
        """The genes of the whole model."""
        return largest(self.space)

    @property
    def smallest(self) -> Genes:
        """The genes of the smallest subnet."""
        return smallest(self.space)

    def uniform(self, width: float) -> Genes:
        """The genes that keep of every group the least that is ``width`` of it or more; all of the depth.

        Raises:
            ValueError: if the width is not in ``(0, 1]``.

        Example:
            >>> fn = lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"]
            >>> params = {"a": jnp.ones((2, 4)), "b": jnp.ones((4, 1))}
            >>> supernet = Supernet.from_model(fn, params, jnp.ones((1, 2)), round_to=1)
            >>> supernet.space.config(supernet.uniform(0.3))
            {'width': {'a': 2}}
        """
        if not 0 < width <= 1:
            raise ValueError(f"uniform: width must be in (0, 1], got {width!r}")
        config = self.space.config(self.largest)
        for units in self.units:
            if units.group is not None and len(units.counts) > 1:
                least = next(count for count in units.counts if count >= round(width * units.size, 6))
                config["width"][key(units.name)] = least
        return self.space.encode(config)

    def reordered(self, params: Any) -> Supernet:
        """The same space with units in the order of other parameters, as Once-for-All does before each width stage.

        Genomes keep their form; functions that close over the supernet must be compiled anew.
        """
        params = materialize(params)
        order = ranked(self.groups, params, scores=self.scores, sites=self.sites)
        units = [dataclasses.replace(u, ranked=u.ranked if u.group is None else order[u.group]) for u in self.units]
        return dataclasses.replace(self, params=params, units=tuple(units))

    @functools.cached_property
    def _masking(self) -> Masking:
        return Masking.of(self.units, self.groups.shapes)

    @functools.cached_property
    def _costs(self) -> Costs:
        layers = {i: u for i, u in enumerate(self.units) if u.group is None}
        flags = {index: repeated(self.groups, self.params, stack) for index, stack in layers.items()}
        return Costs.of(self.groups, self.units, flags)

    def __repr__(self) -> str:
        """What is elastic, as a table."""
        return text_table(*self._table())

    def _repr_html_(self) -> str:
        return html_table(*self._table())

    def _table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]], list[str]]:
        rows = [
            (u.name, "layers" if u.group is None else "units", str(u.size), _spelled(u.counts), ", ".join(u.branches))
            for u in self.units
        ]
        notes = [f"{self.space.size:,} subnets; the whole: {self.groups.flops():,} FLOPs, "
                 f"{self.groups.parameters():,} parameters"]  # fmt: skip
        return ("elastic", "of", "all", "may stay", "in branch"), rows, notes


def _spelled(counts: Sequence[int]) -> str:
    return ", ".join(map(str, counts)) if len(counts) <= 8 else f"{counts[0]}, {counts[1]} ... {counts[-1]}"
