"""Writes the kept results of the benchmarks as tables: `python -m benchmarks.readme_tables`.

All of them stand in benchmarks/results/README.md, and those that a reader wants first (`HEADLINES`) between the markers
of the README. A test fails while the tables and the kept results differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.results import RESULTS

README = Path(__file__).resolve().parents[1] / "README.md"
ALL = RESULTS / "README.md"
HEAD = ("| metric | measured | unit | compared with | its value | ratio |", "|---|---:|---|---|---:|---:|")
INTRODUCTION = "Written by `python -m benchmarks.readme_tables`; the ratio is ours over the one compared with."
LOW_RANK = ("svd", "asvd", "whitened", "whitened sequential budget", "slicegpt refitted")
HEADLINES = (
    *(("structured", metric) for metric in ("structured resnet20 speedup", "cases exact")),
    *(("deep_compression", f"{net} {metric}") for net in ("lenet300", "lenet5") for metric in ("ratio", "error")),
    *(("pruning_accuracy", f"{net} 12x error") for net in ("lenet300", "lenet5")),
    ("pruning_accuracy", "slimming parameters saved"),
    ("pruning_accuracy", "resnet20 2x accuracy"),
    ("pruning_accuracy", "resnet20 2x, small from scratch"),
    ("pruning_accuracy", "vgg 2x accuracy"),
    *(("pruning_accuracy", f"lenet300 98% {method} accuracy") for method in ("rigl", "set")),
    *(("pruning_llama", f"llama {method} ppl") for method in ("magnitude", "wanda", "sparsegpt", "sparse sensing")),
    *(("quantize_speed", f"{what} over qwix") for what in ("gptq", "awq", "smoothquant")),
    ("quantize_error", "llama int8 rtn ppl"),
    *(("quantize_error", f"llama int4 {method} ppl") for method in ("rtn", "awq", "gptq", "best")),
    *(("quantize_error", f"llama int3 {method} ppl") for method in ("rtn", "gptq", "best")),
    *(("quantize_training", f"lenet5 lsq int{bits} drop") for bits in (4, 2)),
    ("quantize_training", "lenet5 dense trained on, error"),
    *(("quantize_integer", f"integer only {net} drop") for net in ("lenet5", "resnet20")),
    *(("quantize_latency", f"int8 dynamic time ratio batch {batch}") for batch in (64, 512)),
    *(("factorize_speed", f"gram eigh speedup {shape}") for shape in ("1024", "4096x1024")),
    *(("factorize_speed", metric) for metric in ("batched svd speedup", "tucker2 over tensorly")),
    *(("factorize_speed", f"kmeans over {peer}") for peer in ("nxk", "sklearn")),
    *(("low_rank_accuracy", f"llama 20 percent {method} ppl") for method in LOW_RANK),
    ("low_rank_accuracy", "best speedup within half point"),
    *(("low_rank_accuracy", f"lenet5 {method} 8x error") for method in ("svd", "spatial svd", "tucker-2", "cp", "tt")),
    ("low_rank_accuracy", "lenet5 dense trained on, error"),
    *(("low_rank_accuracy", f"lenet300 tt {metric}") for metric in ("first layer", "error")),
    *(("nas_bench_201", f"regret {data} 200") for data in ("c10", "c100", "in16")),
    *(("policy_search", f"policies {what}") for what in ("mlp over rejit", "mlp over loop", "cnn over loop")),
    *(("policy_search", f"policy bytes gain {net}") for net in ("lenet5", "resnet20", "llama")),
    ("population_training", "population training speedup"),
    *(("nas_mnist", f"nas mnist {metric}") for metric in ("error", "parameter fraction")),
    *(("nas_cifar", f"nas cifar {metric}") for metric in ("error", "flops")),
    ("embeddings", "trec product codes fitted accuracy"),
    ("masks", "per layer time"),
    *(("lift_overhead", f"llama {metric}") for metric in ("HLO flops", "fresh tracing, int8 leaves")),
)
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def table(name: str, kept: Mapping[str, Any]) -> Iterator[str]:
    """The lines of one benchmark: what was run when and where, then a row per metric."""
    versions = ", ".join(f"{package} {kept['versions'][package]}" for package in ("jax", "flax"))
    yield f"`python -m benchmarks.{name}`, {kept['date'][:10]}, {kept['machine']}, {versions}:"
    yield ""
    yield from HEAD
    yield from map(cells, kept["results"])


def cells(line: Mapping[str, Any]) -> str:
    """One row of a table."""
    ratio = "-" if line["ratio"] is None else f"{line['ratio']:.3g}"
    return (
        f"| {line['metric']} | {number(line['value'])} | {line['unit']} "
        f"| {line['peer']} | {number(line['peer_value'])} | {ratio} |"
    )


def number(value: float) -> str:
    """Four digits that count, or all those before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def section(files: Iterable[Path]) -> str:
    """The headlines of the kept results, in the order of `HEADLINES`."""
    kept = {path.stem: json.loads(path.read_text()) for path in files}
    lines = {(name, line["metric"]): line for name, found in kept.items() for line in found["results"]}
    rows = [cells(lines[key]) for key in HEADLINES if key in lines]
    return "\n".join([*HEAD, *rows] if rows else ["No benchmark has been kept yet."])


def everything(files: Iterable[Path]) -> str:
    """The page of all kept results, in the order of their names."""
    blocks = ["\n".join(table(path.stem, json.loads(path.read_text()))) for path in sorted(files)]
    return "\n\n".join(["# Kept results of the benchmarks", INTRODUCTION, *blocks]) + "\n"


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
    ALL.write_text(everything(RESULTS.glob("*.json")))
