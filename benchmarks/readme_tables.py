"""Writes the kept results of the benchmarks into README.md, between its markers: `python -m benchmarks.readme_tables`.

A test fails while the README and the kept results differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.results import RESULTS

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def table(name: str, kept: Mapping[str, Any]) -> Iterator[str]:
    """The lines of one benchmark: what was run when and where, then a row per metric."""
    versions = ", ".join(f"{package} {kept['versions'][package]}" for package in ("jax", "flax"))
    yield f"`python -m benchmarks.{name}`, {kept['date'][:10]}, {kept['machine']}, {versions}:"
    yield ""
    yield "| metric | measured | unit | compared with | its value | ratio |"
    yield "|---|---:|---|---|---:|---:|"
    for line in kept["results"]:
        yield (
            f"| {line['metric']} | {number(line['value'])} | {line['unit']} "
            f"| {line['peer']} | {number(line['peer_value'])} | {line['ratio']:.3g} |"
        )


def number(value: float) -> str:
    """Four digits that count, or all those before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def section(files: Iterable[Path]) -> str:
    """The tables of all kept results, in the order of their names."""
    blocks = ["\n".join(table(path.stem, json.loads(path.read_text()))) for path in sorted(files)]
    return "\n\n".join(blocks or ["No benchmark has been kept yet."])


def rewritten(readme: str, text: str) -> str:
    """The README with what stands between its markers replaced.

    Raises:
        ValueError: if the markers are missing.
    """
    before, found, rest = readme.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not (found and closed):
        raise ValueError(f"README.md must hold {BEGIN} and, later, {END}")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


if __name__ == "__main__":
    README.write_text(rewritten(README.read_text(), section(RESULTS.glob("*.json"))))
