"""Ranges of the sites: the float function is run once over the batches, and what reaches each site is recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core import statistics
from jaxcompress.core.observe import Observed
from jaxcompress.quantize.formats import Format
from jaxcompress.quantize.integer.grids import Grid
from jaxcompress.quantize.integer.plan import Plan, Site
from jaxcompress.quantize.ranges import Range, find_activation_scaling, range_of

Planner = Callable[[tuple[Any, ...]], tuple[Plan, list[Any]]]  # arguments to their plan, and its input arrays


class Calibration:
    """Statistics of every site over batches."""

    def __init__(self, ranges: str | Range, format: Format) -> None:
        """Records what ``ranges`` need for a format."""
        self.ranges, self.format = range_of(ranges, method="integer_only"), format
        self.what = self.ranges.statistics(symmetric=format.symmetric)
        self.found: dict[str, dict[str, Any]] = {}
        self._steps: dict[Any, Any] = {}

    def run(self, planner: Planner, batches: Iterable[Any], inputs: Callable[[Any], tuple[Any, ...]]) -> Plan:
        """Runs over all batches, compiled once per shape; gives the plan of the first one.

        Raises:
            ValueError: if there is no batch, a batch has no rows, or a value is not finite: names the site.
        """
        first: Plan | None = None
        for number, batch in enumerate(batches):
            args = inputs(batch)
            key = tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in jax.tree.leaves(args))
            if key not in self._steps:
                plan, _ = planner(args)
                first = first or plan
                _require_same(first, plan)
                self._steps[key] = plan, jax.jit(self._recorder(plan))
            plan, step = self._steps[key]
            self._add(plan, step(planner(args)[1]), number)
        if first is None:
            raise ValueError("integer_only: batches= gave no batch; ranges of activations come from data")
        return first

    def grids(self, sites: Mapping[str, Site]) -> dict[str, Grid]:
        """The grid of every site."""
        return {name: self._grid(site) for name, site in sites.items()}

    def _recorder(self, plan: Plan) -> Callable[[Sequence[Any]], dict[str, Any]]:
        values = [site.value for site in plan.sites.values()]

        def record(arrays: Sequence[Any]) -> dict[str, Any]:
            entering = dict(zip(plan.flat.inputs, arrays, strict=True))
            found = plan.flat.evaluate(entering, values)
            for value, site in zip(found, plan.sites.values(), strict=True):
                if 0 in value.shape:
                    raise ValueError(f"integer_only: a batch has no rows; nothing reached the site {site}")
            rows = (value.astype(jnp.float32).reshape(-1, 1) for value in found)
            return {name: statistics.collect(self.what, row, row) for name, row in zip(plan.sites, rows, strict=True)}

        return record

    def _add(self, plan: Plan, found: Mapping[str, Any], number: int) -> None:
        for name, site in plan.sites.items():
            host = statistics.to_host(found[name])
            bad = int(np.sum(host["nonfinite"]))
            if bad:
                raise ValueError(
                    f"integer_only: {bad} values that are not finite at the site {site} in batch {number}; look for "
                    "NaN or inf in the data, in the parameters, or in an earlier layer"
                )
            known = self.found.get(name)
            self.found[name] = host if known is None else statistics.combine(known, host)

    def _grid(self, site: Site) -> Grid:
        if site.name not in self.found:
            raise ValueError(f"integer_only: the site {site} was never calibrated")
        found = dict(self.found[site.name])
        count = found.pop("count")
        found.pop("nonfinite")
        if "histogram" in found:
            counts, exponent = found["histogram"]
            found["histogram"] = counts, statistics.bin_edges(exponent)
        observed = Observed(site.name, site.primitive, site.source, (), count, found)
        scaling = find_activation_scaling(observed, self.format, self.ranges)
        assert scaling.zero_point is not None
        ends = int(self.format.smallest), int(self.format.largest)
        return Grid(float(np.asarray(scaling.scale).item()), int(np.asarray(scaling.zero_point).item()), *ends)


def _require_same(first: Plan, plan: Plan) -> None:
    if first.signature() != plan.signature():
        raise ValueError(
            "integer_only: the batches lead to different programs: the function does something else for another shape "
            "of its inputs. Give batches of one shape"
        )
