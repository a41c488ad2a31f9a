"""Time of factorization and weight sharing against their peers, all in one process and in turn.

    python -m benchmarks.factorize_speed [--quick] [--json PATH] [--only PART]

Parts: ``svd`` (against `jnp.linalg.svd` and scikit-learn), ``kmeans`` (against the values x levels form and
scikit-learn), ``tucker`` (against tensorly's NumPy backend). Times are medians over rounds in which every rival has its
turn. Rows named ``... speedup`` and ``... over ...`` are ratios, the peer's time over ours; beside them stands what was
lost. `--quick`: small sizes, under a minute; keeps no results.
"""

from __future__ import annotations

import argparse
import importlib
from typing import Any

from benchmarks.results import report

PARTS = ("svd", "kmeans", "tucker")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, under a minute; keeps no results")
    parser.add_argument("--json", metavar="PATH", help="also write the rows there")
    parser.add_argument("--only", choices=PARTS, help="one part: the kept results exchange its rows")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for part in PARTS if options.only is None else (options.only,):
        found = rows_of(part, quick=options.quick)
        report("factorize_speed", found, json_path=None, keep=not options.quick, part=part)
        rows += found
    if options.json:
        report("factorize_speed", rows, json_path=options.json, keep=False)


def rows_of(part: str, *, quick: bool) -> list[dict[str, Any]]:
    """The rows of one part."""
    return importlib.import_module(f"benchmarks.factorize_speed_{part}").rows(quick)


if __name__ == "__main__":
    main()
