"""A policy made real: the network shrunk, factorized, pruned, trained if asked, rounded; and what it really takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxcompress.core.granularity import scale_shape
from jaxcompress.core.leaf import CompressedArray
from jaxcompress.core.lift import lift
from jaxcompress.core.observe import observe
from jaxcompress.core.parts import find_parts
from jaxcompress.core.paths import flatten_with_paths
from jaxcompress.core.shrink import Shrunk, shrink
from jaxcompress.core.sites import Sites
from jaxcompress.core.sites import sites as find_sites
from jaxcompress.core.timing import median_ms
from jaxcompress.factorize.lowrank import LowRank
from jaxcompress.quantize.training.convert import convert
from jaxcompress.quantize.training.prepare import prepare
from jaxcompress.quantize.training.spec import QAT
from jaxcompress.search.policies.applied import pruned, resolved_ranks, rounded
from jaxcompress.search.policies.setting import Setting
from jaxcompress.search.policies.sizes import file_bytes, site_macs, stored_bits, variant_flops
from jaxcompress.search.policies.table import VariantTable

Finetune = Callable[[Callable[..., Any], Any], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """Data that the methods fit weights to.

    Attributes:
        batches: as in `jaxcompress.observe`; iterated once for every policy that is made real.
        inputs: turns a batch into the arguments after the parameters.
    """

    batches: Iterable[Any]
    inputs: Callable[[Any], tuple[Any, ...]] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Realized:
    """What a policy has made of a network.

    Attributes:
        fn: the function of ``params``, shrunk where channels went; call ``lift(fn)``.
        params: the compressed tree.
        small: the shrunk model with ``params`` in it; None where all channels stay.
        notes: what could not be done as asked.
    """

    fn: Callable[..., Any]
    params: Any
    small: Shrunk | None
    notes: tuple[str, ...] = ()

    @property
    def model(self) -> Any:
        """What `jaxcompress.save` takes."""
        return self.params if self.small is None else self.small


def realize(
    table: VariantTable,
    row: Sequence[int] | np.ndarray,
    *,
    inputs: Sequence[Any] | None = None,
    calibration: Calibration | None = None,
    finetune: Finetune | None = None,
) -> Realized:
    """Applies a policy by the real methods.

    First channels go (`jaxcompress.shrink`), then weights are factorized and pruned, then rounded or clustered, each
    fitted to data that is observed on the shrunk network, if there are any. ``finetune`` comes before the codes: what
    will be integers is prepared for it (`jaxcompress.quantize.prepare`), so that it trains what it will be.

    Args:
        table: the variants.
        row: the policy.
        inputs: example arguments after the parameters, as the table was made with.
        calibration: data to fit weights to.
        finetune: ``finetune(fn, params) -> params``, with ``fn`` lifted: trains float leaves, keeps the tree as it is.

    Raises:
        ValueError: if ``finetune`` gives another tree, or what the methods raise.
    """
    fn, params, settings = table.fn, table.params, table.settings(row)
    sites, small, units = table.sites, None, table.kept_units(row)
    if not units and finetune is None and table.fitted == (calibration is not None):
        return Realized(fn, table.tree(row), None)  # made already
    if units:
        assert table.groups is not None
        assert inputs is not None
        small = shrink(fn, params, table.groups.keep(units))
        fn, params = small.fn, small.params
        sites = find_sites(fn, params, *inputs)
    settings, notes = _fitting(params, settings, sites)
    stats = None
    if calibration is not None:
        stats = observe(fn, params, calibration.batches, inputs=calibration.inputs)
    floats = pruned(params, settings, sites=sites, stats=stats)
    if finetune is None:
        done = rounded(floats, settings, sites=sites, stats=stats)
    else:
        done = _trained(lift(fn), floats, settings, sites, finetune)
        clustered = {path: one for path, one in settings.items() if one.levels is not None}
        done = rounded(done, clustered, sites=sites, stats=None)
    return Realized(fn, done, None if small is None else small.with_params(done), notes)


def real_costs(
    realized: Realized, table: VariantTable, *, inputs: Sequence[Any] | None = None, latency: bool = False
) -> dict[str, float]:
    """What a realized policy takes: bits of its leaves, bytes of a file that is written, operations, milliseconds.

    Args:
        realized: of `realize`.
        table: the variants, for the coder.
        inputs: example arguments; without them there are no operations and no milliseconds.
        latency: whether one call is timed.
    """
    leaves = flatten_with_paths(realized.params)[1]
    found: dict[str, float] = {
        "stored_bits": sum(map(stored_bits, leaves)),
        "bytes": file_bytes(realized.model, table.coder),
    }
    if inputs is not None:
        found["flops"] = _flops(realized, inputs)
        if latency:
            run = jax.jit(lift(realized.fn))
            found["latency_ms"] = median_ms(lambda given: run(realized.params, *given), tuple(inputs))
    return found


def _trained(apply: Callable[..., Any], floats: Any, settings: Mapping[str, Setting], sites: Any, finetune: Any) -> Any:
    """Floats after training: those that will be integers train as such and are integers then."""
    prepared = floats
    kinds: dict[Any, dict[str, int]] = {}
    for path, one in settings.items():
        if one.bits is not None:
            kinds.setdefault((one.group_size, one.granularity or "channel"), {})[path] = one.bits
    for (group_size, granularity), bits in kinds.items():
        spec = QAT(bits=bits, granularity=granularity, group_size=group_size)
        prepared = prepare(prepared, spec, sites=sites, where=list(bits))
    trained = finetune(apply, prepared)
    if jax.tree.structure(trained) != jax.tree.structure(prepared):
        raise ValueError(
            "policy: finetune= must return the tree that it was given, with other numbers in it: train the float "
            "leaves (jax.grad, optax) and keep masks and structure"
        )
    return convert(trained) if kinds else trained


def _fitting(
    params: Any, settings: Mapping[str, Setting], sites: Sites | None
) -> tuple[dict[str, Setting], tuple[str, ...]]:
    """Settings without the group sizes and ranks that a cut leaf does not take any more."""
    found, notes = dict(settings), []
    grouped = [path for path, one in settings.items() if one.group_size is not None]
    if grouped:
        for part in find_parts(params, where=grouped, sites=sites, method="policy"):
            size = settings[part.path].group_size
            try:
                scale_shape(part.array.shape, part.known_roles("policy"), group_size=size)
            except ValueError:
                found[part.path] = dataclasses.replace(settings[part.path], group_size=None)
                notes.append(f"{part.path}: whole channels share a scale: groups of {size} do not divide what is left")
    for path, rank in resolved_ranks(params, found, sites).items():
        if not rank:
            found[path] = dataclasses.replace(found[path], rank=None)
            notes.append(f"{path}: no rank saves anything of what is left: it is not factorized")
    return found, tuple(notes)


def _flops(realized: Realized, inputs: Sequence[Any]) -> int:
    sites = find_sites(realized.fn, realized.params, *inputs)
    macs, total = site_macs(sites), 0
    for path, leaf in zip(*flatten_with_paths(realized.params)[:2], strict=True):
        if macs.get(path):
            shape = tuple(leaf.shape)
            total += variant_flops(macs[path], shape, shape, sites.axes(path)[1], _rank(leaf))
    return total


def _rank(leaf: Any) -> int:
    """Of the factors of a leaf, wherever they stand inside of it; 0 without."""
    if isinstance(leaf, LowRank):
        return leaf.rank
    if not isinstance(leaf, CompressedArray):
        return 0
    return max((_rank(field) for field in leaf.components().values()), default=0)
