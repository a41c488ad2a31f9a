"""The demo's measurements, as a table for the terminal and a page."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from jaxcompress.artifact import load
from jaxcompress.cli.digits import Digits
from jaxcompress.cli.lenets import Model, Params
from jaxcompress.cli.schedules import Schedule
from jaxcompress.core.leaf import CompressedArray, is_compressed
from jaxcompress.core.lift import lift
from jaxcompress.core.paths import flatten_with_paths, is_weight
from jaxcompress.core.tree import materialize
from jaxcompress.pipeline import Result, StageRecord
from jaxcompress.pipeline.run import write_dense
from jaxcompress.report import Curve, Report, Row, latency_ms, load_ms, rows_table

BATCHES = (1, 64)
PACKAGES = ("jaxcompress", "jax", "numpy", "optax", "zstandard", "constriction", "matplotlib")


def dense_row(network: Model, file: Path, trained: Path, record: StageRecord, digits: Digits) -> Row:
    """Writes the trained float32 network as a plain npz file, to which all ratios refer, and measures it."""
    params = load(trained).params
    size = write_dense(file, params)
    milliseconds = load_ms(lambda: read_dense(file))
    return Row(
        "train (float32)",
        size,
        record.metrics["error"],
        _latency(network, params, digits),
        milliseconds,
        record.seconds,
    )


def stage_row(network: Model, name: str, file: Path, error: float, seconds: float, digits: Digits) -> Row:
    """Measures an artifact: its size on disk, how long it takes to load and to run."""
    latency = _latency(network, load(file).params, digits)
    return Row(name, os.path.getsize(file), error, latency, load_ms(lambda: load(file).params), seconds)


def read_dense(file: Path) -> Params:
    """The parameters in a file of `write_dense`."""
    params: Params = {}
    with np.load(file) as arrays:
        for path in arrays.files:
            layer, _, name = path.partition("/")
            params.setdefault(layer, {})[name] = jax.device_put(arrays[path])
    return params


def print_rows(console: Console, rows: list[Row]) -> None:
    """Prints the table, which fits 80 columns."""
    columns, cells = rows_table(rows)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in columns:
        heading = column.replace(", ", "\n").replace("test ", "test\n")
        table.add_column(heading, justify="left" if column == columns[0] else "right", no_wrap=True)
    for cell in cells:
        table.add_row(*cell)
    console.print(table)


def page(
    network: Model, digits: Digits, stages: Schedule, result: Result, rows: list[Row], folder: Path, same: bool
) -> Report:
    """What the report shows."""
    names = [name for name, _ in stages]
    trained, compressed = load(folder / result.records[0].file).params, result.params
    curves = [
        Curve(
            name,
            [step for step, _, _ in record.curve],
            [loss for _, loss, _ in record.curve],
            [metrics["error"] for _, _, metrics in record.curve],
        )
        for name, record in zip(names, result.records, strict=True)
        if record.curve
    ]
    checked = "identical, bit for bit" if same else "NOT identical"
    images = len(digits.test_images)
    return Report(
        title=f"{network.title}: {rows[0].bytes / rows[-1].bytes:.1f}x smaller",
        summary=f"{digits.source[0].upper()}{digits.source[1:]}. Stages: {', '.join(names)}, code. "
        f"A fresh process loaded the file; its outputs for the {images:,} held-out images are {checked}.",
        rows=rows,
        before=_weights(trained),
        after=_weights(compressed),
        codebooks=_codebooks(compressed),
        curves=curves,
        notes=[
            "Bytes are those of the file on disk, everything included; the ratio is against the float32 npz file. "
            f"One held-out image is {100 / images:.2g} % of error.",
            "Latency and load time are medians of real calls on this machine. Pruning and weight sharing make the "
            "file small, not the computation fast: the weights are expanded when they are used.",
        ],
        facts={
            "command": " ".join(["jaxcompress", *sys.argv[1:]]),
            "recipe": result.recipe.to_json(),
            "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {jax.devices()[0].platform}",
            "python": platform.python_version(),
            **_versions(),
        },
    )


def _latency(network: Model, params: Any, digits: Digits) -> dict[int, float]:
    apply = lift(network.fn)
    return {batch: latency_ms(apply, params, jax.device_put(digits.test_images[:batch])) for batch in BATCHES}


def _weights(params: Any) -> dict[str, np.ndarray]:
    paths, leaves, _ = flatten_with_paths(materialize(params))
    return {path: np.asarray(leaf) for path, leaf in zip(paths, leaves, strict=True) if is_weight(path, leaf)}


def _codebooks(params: Any) -> dict[str, np.ndarray]:
    paths, leaves, _ = flatten_with_paths(params)
    found = {path: _codebook(leaf) for path, leaf in zip(paths, leaves, strict=True) if is_compressed(leaf)}
    return {path: entries for path, entries in found.items() if entries is not None}


def _codebook(leaf: CompressedArray) -> np.ndarray | None:
    """The entries of the first codebook inside a leaf."""
    for name, value in leaf.components().items():
        if name == "codebook" and not isinstance(value, CompressedArray):
            return np.asarray(value)
        inner = _codebook(value) if isinstance(value, CompressedArray) else None
        if inner is not None:
            return inner
    return None


def _versions() -> dict[str, str]:
    """Versions of the packages that took part; those that are not installed are left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
