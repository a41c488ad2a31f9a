"""The command line of benchmarks that run in several parts, each kept with its own provenance."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.results import report

Rows = list[dict[str, Any]]


def run_parts(
    name: str,
    doc: str | None,
    parts: Mapping[str, Callable[..., Rows]],
    *,
    quick: Sequence[str],
    arguments: Sequence[str] | None = None,
) -> None:
    """Runs the parts asked for and reports them one by one: the kept results exchange the rows of a part that ran.

    Args:
        name: of the benchmark.
        doc: its docstring; the first line stands in the help.
        parts: by name, each a function of the keyword ``quick`` that gives its rows.
        quick: the parts that ``--quick`` runs.
        arguments: of the command; by default those of the process.
    """
    parser = argparse.ArgumentParser(prog=f"benchmarks.{name}", description=(doc or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="little data, small sizes; keeps no results")
    parser.add_argument("--json", metavar="PATH", help="also write the rows to this file")
    parser.add_argument("--only", nargs="+", choices=list(parts), metavar="PART", help=f"of {', '.join(parts)}")
    options = parser.parse_args(arguments)
    rows: Rows = []
    for part in options.only or (quick if options.quick else list(parts)):
        start = time.perf_counter()
        found = parts[part](quick=options.quick)
        print(f"{part}: {time.perf_counter() - start:.0f} s", flush=True)
        report(name, found, json_path=None, keep=not options.quick, part=part)
        rows += found
    if options.json:
        report(name, rows, json_path=options.json, keep=False)
