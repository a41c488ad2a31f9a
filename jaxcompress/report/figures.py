"""The figures of the report, each as an SVG text. Matplotlib is imported when the first one is drawn."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxcompress.report.rows import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, INK, GREY, PALE = "#2563a8", "#d9622b", "#1f2933", "#7b8794", "#e4e7eb"

_STYLE = {
    "svg.hashsalt": "jaxcompress",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


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
    figure, (sizes, errors) = _figure(9.6, 0.42 * len(rows) + 1.2, 1, 2, width_ratios=(3, 2), sharey=True)
    places = np.arange(len(rows))[::-1]
    sizes.barh(places, [row.bytes for row in rows], color=[GREY] + [BLUE] * (len(rows) - 1), height=0.62)
    sizes.set(xscale="log", title="Size of the file", xlabel="bytes, logarithmic")
    sizes.set_xlim(min(row.bytes for row in rows) / 3, max(row.bytes for row in rows) * 6)
    sizes.set_yticks(places, [row.name for row in rows])
    for place, row in zip(places, rows, strict=True):
        sizes.text(
            row.bytes * 1.12, place, f"{row.bytes / 1000:,.1f} kB   {rows[0].bytes / row.bytes:.1f}x", va="center"
        )
    percents = [100 * row.error for row in rows]
    errors.axvline(percents[0], color=GREY, linewidth=0.9, linestyle=(0, (4, 3)))
    errors.plot(percents, places, color=ORANGE, marker="o", markersize=5, linewidth=1.2)
    for place, percent in zip(places, percents, strict=True):
        errors.annotate(f"{percent:.2f} %", (percent, place), (7, 5), textcoords="offset points")
    errors.set(title="Held-out error", xlabel="% wrong; dashed: the dense network")
    errors.margins(x=0.25)
    errors.tick_params(left=False)
    return _svg(figure)


def histograms(
    before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray], codebooks: Mapping[str, np.ndarray]
) -> str:
    """The weights of each layer before and after; zeros are counted, not drawn, and codebook entries marked."""
    figure, grid = _figure(9.6, 1.75 * len(before) + 0.5, len(before), 2, squeeze=False)
    for axes, (name, weights) in zip(grid, before.items(), strict=True):
        dense, kept = np.ravel(weights), np.ravel(after[name])
        kept = kept[kept != 0]
        limits = _limits(dense, kept)
        axes[0].hist(dense, bins=80, range=limits, color=GREY)
        axes[0].set(title=f"{name}: {dense.size:,} weights", yticks=[], xlim=limits)
        axes[1].hist(kept, bins=120, range=limits, color=BLUE)
        axes[1].set(title=f"{kept.size:,} kept, {1 - kept.size / dense.size:.1%} are zero", yticks=[], xlim=limits)
        entries = np.ravel(codebooks.get(name, np.zeros(0)))
        entries = entries[entries != 0]
        if entries.size:
            foot = np.full(entries.shape, -0.045)
            axes[1].plot(
                entries, foot, "^", color=ORANGE, markersize=4, clip_on=False, transform=axes[1].get_xaxis_transform()
            )
            axes[1].plot([], [], "^", color=ORANGE, markersize=4, label=f"{entries.size} codebook entries")
            axes[1].legend(frameon=False, loc="upper right", fontsize=8)
            axes[1].tick_params(axis="x", pad=7)
    return _svg(figure)


def sparsity(after: Mapping[str, np.ndarray]) -> str:
    """The fraction of zeros in each layer."""
    figure, axes = _figure(9.6, 0.42 * len(after) + 0.9, 1, 1)
    places = np.arange(len(after))[::-1]
    zeros = [float(np.mean(weights == 0)) for weights in after.values()]
    axes.barh(places, [100.0] * len(after), color=PALE, height=0.62)
    axes.barh(places, [100 * zero for zero in zeros], color=BLUE, height=0.62)
    for place, weights, zero in zip(places, after.values(), zeros, strict=True):
        kept = int(np.count_nonzero(weights))
        axes.text(101, place, f"{zero:.1%}   {kept:,} of {weights.size:,} kept", va="center")
    axes.set(title="Zero weights, % of the layer", xlim=(0, 140), xticks=range(0, 101, 20))
    axes.set_yticks(places, list(after))
    return _svg(figure)


def curves(stages: Sequence[Curve]) -> str:
    """Loss and held-out error over all training steps, the stages one after the other."""
    figure, (losses, errors) = _figure(9.6, 3.0, 1, 2)
    first, names = 0, [stage.name for stage in stages]
    for position, stage in enumerate(stages):
        steps = first + np.asarray(stage.steps)
        losses.plot(steps, stage.loss, color=BLUE, linewidth=1.4)
        errors.plot(steps, 100 * np.asarray(stage.error), color=ORANGE, linewidth=1.4)
        for axes in (losses, errors):
            if position % 2:
                axes.axvspan(first, steps[-1], color=PALE, alpha=0.6, linewidth=0)
        first = int(steps[-1])
    losses.set(title="Training loss", xlabel="steps", yscale="log", xlim=(0, first))
    errors.set(title="Held-out error, %", xlabel=f"steps; bands: {', '.join(names)}", xlim=(0, first), yscale="log")
    return _svg(figure)


def _limits(*arrays: np.ndarray) -> tuple[float, float]:
    """A symmetric range that shows nearly all of the values."""
    reach = max(float(np.quantile(np.abs(array), 0.9995)) for array in arrays if array.size)
    return -reach or -1.0, reach or 1.0


def _figure(width: float, height: float, rows: int, columns: int, **options: Any) -> tuple[Figure, Any]:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots(rows, columns, **options)


def _svg(figure: Figure) -> str:
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context(_STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
