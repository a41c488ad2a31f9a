"""The figures of the report, each as an SVG text. Matplotlib is imported when the first one is drawn."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxcompress.core.drawing import BLUE, GREY, ORANGE, PALE, STYLE
from jaxcompress.report.rows import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE: Any = {**STYLE, "svg.hashsalt": "jaxcompress", "font.size": 9, "axes.titlesize": 10}


@dataclasses.dataclass(frozen=True)
class Curve:
    """How one training stage went.

    Attributes:
        name: of the stage, for people.
        steps: steps taken at each point.
        loss: mean training loss up to that point.
        error: held-out error there, a fraction.
    """

    name: str
    steps: Sequence[int]
    loss: Sequence[float]
    error: Sequence[float]


def size_and_error(rows: Sequence[Row]) -> str:
    """Bytes (logarithmic) and held-out error of every file, side by side."""
    with _figure(9.6, 0.42 * len(rows) + 1.2) as figure:
        sizes, errors = figure.subplots(1, 2, width_ratios=(3, 2), sharey=True)
        places = np.arange(len(rows))[::-1]
        smallest, largest = min(row.bytes for row in rows), max(row.bytes for row in rows)
        sizes.barh(places, [row.bytes for row in rows], color=[GREY] + [BLUE] * (len(rows) - 1), height=0.62)
        sizes.set(xscale="log", title="Size of the file", xlabel="bytes, logarithmic", xlim=(smallest / 3, largest * 7))
        sizes.set_yticks(places, [row.name for row in rows])
        for place, row in zip(places, rows, strict=True):
            label = f"{row.bytes / 1000:,.1f} kB   {rows[0].bytes / row.bytes:.1f}x"
            sizes.text(row.bytes * 1.12, place, label, va="center")
        percents = [100 * row.error for row in rows]
        errors.axvline(percents[0], color=GREY, linewidth=0.9, linestyle=(0, (4, 3)))
        errors.plot(percents, places, color=ORANGE, marker="o", markersize=5, linewidth=1.2)
        for place, percent in zip(places, percents, strict=True):
            errors.text(1.03, place, f"{percent:.2f} %", va="center", transform=errors.get_yaxis_transform())
        errors.set(title="Held-out error", xlabel="% wrong; dashed: the dense network")
        errors.margins(x=0.15)
        errors.tick_params(left=False)
        return _svg(figure)


def histograms(
    before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray], codebooks: Mapping[str, np.ndarray]
) -> str:
    """The weights of each layer before and after; zeros are counted, not drawn, and codebook entries marked."""
    with _figure(9.6, 1.95 * len(before), h_pad=0.1) as figure:
        grid = figure.subplots(len(before), 2, squeeze=False)
        for (left, right), (name, weights) in zip(grid, before.items(), strict=True):
            dense, kept = np.ravel(weights), np.ravel(after[name])
            kept, entries = kept[kept != 0], np.ravel(codebooks.get(name, np.zeros(0)))
            entries = np.unique(entries[entries != 0])
            limits = _limits(dense, kept)
            left.hist(dense, bins=80, range=limits, color=GREY)
            left.set(title=f"{name}: {dense.size:,} weights", yticks=[], xlim=limits)
            right.hist(kept, bins=160, range=limits, color=BLUE)
            shared = f" at {entries.size} values (▲ the codebook)" if entries.size else ""
            right.set(title=f"{kept.size:,} kept{shared}", yticks=[], xlim=limits)
            if entries.size:
                feet, ground = np.full(entries.shape, -0.06), right.get_xaxis_transform()
                right.plot(entries, feet, "^", color=ORANGE, markersize=4, clip_on=False, transform=ground)
            right.tick_params(axis="x", pad=7)
            for axes in (left, right):
                axes.spines["left"].set_visible(False)
        return _svg(figure)


def sparsity(after: Mapping[str, np.ndarray]) -> str:
    """The fraction of zeros in each layer."""
    with _figure(9.6, 0.42 * len(after) + 1.1) as figure:
        axes = figure.subplots()
        places = np.arange(len(after))[::-1]
        zeros = [float(np.mean(weights == 0)) for weights in after.values()]
        axes.barh(places, [100.0] * len(after), color=PALE, height=0.62)
        axes.barh(places, [100 * zero for zero in zeros], color=BLUE, height=0.62)
        for place, weights, zero in zip(places, after.values(), zeros, strict=True):
            kept = int(np.count_nonzero(weights))
            axes.text(101.5, place, f"{zero:.1%}   {kept:,} of {weights.size:,} kept", va="center")
        axes.set(title="Zero weights, % of the layer", xlim=(0, 140), xticks=range(0, 101, 20))
        axes.set_yticks(places, list(after))
        axes.spines["left"].set_visible(False)
        axes.tick_params(left=False)
        return _svg(figure)


def curves(stages: Sequence[Curve]) -> str:
    """Loss and held-out error over all training steps, the stages one after the other."""
    with _figure(9.6, 3.1) as figure:
        panels = figure.subplots(1, 2)
        first = 0
        for position, stage in enumerate(stages):
            steps = first + np.asarray(stage.steps)
            panels[0].plot(steps, stage.loss, color=BLUE, linewidth=1.4)
            panels[1].plot(steps, 100 * np.asarray(stage.error), color=ORANGE, linewidth=1.4)
            for axes in panels:
                if position % 2:
                    axes.axvspan(first, steps[-1], color=PALE, alpha=0.7, linewidth=0)
                middle = (first + steps[-1]) / 2
                axes.text(
                    middle,
                    0.97,
                    f"{position + 1}",
                    ha="center",
                    va="top",
                    color=GREY,
                    transform=axes.get_xaxis_transform(),
                )
            first = int(steps[-1])
        legend = ", ".join(f"{position} {stage.name}" for position, stage in enumerate(stages, start=1))
        panels[0].set(title="Training loss", xlabel=f"steps: {legend}", yscale="log", xlim=(0, first))
        panels[1].set(title="Held-out error, %", xlabel="steps", xlim=(0, first), ylim=(0, _error_top(stages)))
        return _svg(figure)


def _error_top(stages: Sequence[Curve]) -> float:
    """A top for the error axis that does not let the first steps flatten the rest."""
    return 100 * max(1e-3, 1.5 * max(float(np.median(stage.error)) for stage in stages))


def _limits(*arrays: np.ndarray) -> tuple[float, float]:
    """A symmetric range that shows nearly all of the values."""
    reach = max((float(np.quantile(np.abs(array), 0.9995)) for array in arrays if array.size), default=0.0) or 1.0
    return -1.03 * reach, 1.03 * reach


@contextlib.contextmanager
def _figure(width: float, height: float, *, h_pad: float | None = None) -> Iterator[Figure]:
    """A figure in our style; what is drawn inside the ``with`` has it too, and nothing else."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(h_pad=h_pad))


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
