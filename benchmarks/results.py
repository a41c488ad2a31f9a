"""How every benchmark reports: rows of one form, printed, written as JSON, kept with where they come from."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "numpy", "zstandard", "constriction"),
    *("scikit-learn", "tensorly", "torch", "torch-pruning", "qwix"),
)


def row(metric: str, value: float, unit: str, peer: str, peer_value: float) -> dict[str, Any]:
    """One line of a report; ``ratio`` is ours over the peer's, None if that is zero."""
    ratio = value / peer_value if peer_value else None
    return {"metric": metric, "value": value, "unit": unit, "peer": peer, "peer_value": peer_value, "ratio": ratio}


def interleaved_ms(
    rivals: Mapping[str, Callable[[], Any]], *, rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median milliseconds of each function, called in turn so that a busy moment of the machine meets all of them.

    One round before the first is not counted: it compiles. `time.process_time` as the clock counts the processor's time
    of all threads.
    """
    for run in rivals.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, run in rivals.items():
            start = clock()
            run()
            times[name].append((clock() - start) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def report(
    name: str, rows: Sequence[Mapping[str, Any]], *, json_path: str | None, keep: bool, part: str | None = None
) -> None:
    """Prints the rows, writes them to ``json_path``, and with ``keep`` to ``benchmarks/results`` with provenance.

    With ``part`` the rows are those of one part of a benchmark that runs in several: they replace what was kept of that
    part, the others stay, and each part keeps its provenance.
    """
    for line in rows:
        ratio = "-" if line["ratio"] is None else f"{line['ratio']:.3g}"
        print(
            f"{line['metric']:<34} {line['value']:>12.4g} {line['unit']:<9} "
            f"{line['peer']:<24} {line['peer_value']:>12.4g}   ratio {ratio}"
        )
    if json_path:
        Path(json_path).write_text(json.dumps(list(rows), indent=1) + "\n")
    if keep:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{name}.json"
        kept = provenance() | {"results": list(rows)} if part is None else _with_part(path, part, rows)
        path.write_text(json.dumps(kept, indent=1) + "\n")


def _with_part(path: Path, part: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is kept in ``path``, with the rows of ``part`` exchanged."""
    kept = json.loads(path.read_text()) if path.is_file() else {"parts": {}, "results": []}
    others = [line for line in kept["results"] if line["part"] != part]
    now = provenance()
    return now | {
        "parts": kept["parts"] | {part: now},
        "results": others + [dict(line) | {"part": part} for line in rows],
    }


def provenance() -> dict[str, Any]:
    """Date, machine, load and versions of a run."""
    installed = {dist.metadata["Name"].lower() for dist in importlib.metadata.distributions()}
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, {_cpu_name()}",
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "versions": {"python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in PACKAGES if package in installed},
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()
