"""Time of factorization and weight sharing against their peers, all in one process and in turn.

    python -m benchmarks.factorize_speed [--quick] [--json PATH] [--only PART ...]

Parts: ``svd`` (against `jnp.linalg.svd` and scikit-learn), ``kmeans`` (against the values x levels form and
scikit-learn), ``tucker`` (against tensorly's NumPy backend). Times are medians over rounds in which every rival has its
turn. Rows named ``... speedup`` and ``... over ...`` are ratios, the peer's time over ours; beside them stands what was
lost. `--quick`: small sizes, under a minute; keeps no results.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from benchmarks.parts import run_parts

PARTS = ("svd", "kmeans", "tucker")


def main(arguments: Sequence[str] | None = None) -> None:
    parts = {part: lambda *, quick, part=part: rows_of(part, quick=quick) for part in PARTS}
    run_parts("factorize_speed", __doc__, parts, quick=PARTS, arguments=arguments)


def rows_of(part: str, *, quick: bool) -> list[dict[str, Any]]:
    """The rows of one part; its peers are imported with it."""
    return importlib.import_module(f"benchmarks.factorize_speed_{part}").rows(quick)


if __name__ == "__main__":
    main()
