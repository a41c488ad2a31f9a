"""One self-contained HTML page: no script, no link, figures inside."""

from __future__ import annotations

import base64
import dataclasses
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxcompress.artifact.container import write_atomically
from jaxcompress.core.table import html_table
from jaxcompress.report import figures
from jaxcompress.report.rows import Row, rows_table


@dataclasses.dataclass(frozen=True)
class Report:
    """What a report shows.

    Attributes:
        title: heading.
        summary: a sentence or two under it.
        rows: one for each file; the first is the uncompressed one, the last the result.
        before: dense weights by layer.
        after: dense weights of the result, by the same names.
        codebooks: entries of the codebooks of the result, by the names of the layers that have one.
        curves: how the training stages went.
        notes: what must be said about the table.
        facts: versions, command, machine: name and value.
    """

    title: str
    summary: str
    rows: Sequence[Row]
    before: Mapping[str, np.ndarray]
    after: Mapping[str, np.ndarray]
    codebooks: Mapping[str, np.ndarray]
    curves: Sequence[figures.Curve]
    notes: Sequence[str]
    facts: Mapping[str, str]


def write_report(path: str | Path, report: Report) -> Path:
    """Writes the page, whole or not at all.

    Returns:
        The path.

    Raises:
        ModuleNotFoundError: without matplotlib (the extra ``demo`` brings it).
    """
    write_atomically(path, [render(report).encode()])
    return Path(path)


def render(report: Report) -> str:
    """The page as text."""
    first, last = report.rows[0], report.rows[-1]
    tiles = [
        (f"{first.bytes / last.bytes:.1f}x", "smaller file"),
        (f"{last.bytes / 1000:,.1f}\u00a0kB", f"instead of {first.bytes / 1000:,.1f}\u00a0kB"),
        (f"{100 * last.error:.2f}\u00a0%", f"held-out error; dense\u00a0{100 * first.error:.2f}\u00a0%"),
        (f"{last.load_ms:.1f} ms", "to load the file"),
    ]
    cards = "".join(f"<div><b>{html.escape(value)}</b><span>{html.escape(what)}</span></div>" for value, what in tiles)
    facts = "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in report.facts.items())
    sections = [
        ("Every stage, measured", html_table(*rows_table(report.rows), report.notes)),
        ("Size and error", _image(figures.size_and_error(report.rows), "file size and held-out error of every stage")),
        (
            "Weights before and after",
            _image(
                figures.histograms(report.before, report.after, report.codebooks),
                "histograms of the weights of each layer before and after, with the entries of the codebook",
            ),
        ),
        ("Sparsity", _image(figures.sparsity(report.after), "fraction of zero weights in each layer")),
        ("Training", _image(figures.curves(report.curves), "loss and held-out error over the training steps")),
        ("How this was made", f"<dl>{facts}</dl>"),
    ]
    body = "".join(f"<section><h2>{html.escape(heading)}</h2>{content}</section>" for heading, content in sections)
    title, summary = html.escape(report.title), html.escape(report.summary)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_CSS}</style></head>'
        f'<body><header><h1>{title}</h1><p>{summary}</p></header><div class="tiles">{cards}</div>{body}</body></html>\n'
    )


def _image(svg: str, description: str) -> str:
    encoded = base64.b64encode(svg.encode()).decode()
    return f'<img alt="{html.escape(description)}" src="data:image/svg+xml;base64,{encoded}">'


_CSS = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 64rem; background: #f5f6f8; color: #1f2933;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { margin: 0 0 .3rem; font-size: 1.9rem; line-height: 1.2; }
h2 { margin: 0 0 1rem; font-size: 1.1rem; }
header p { margin: 0; color: #52606d; max-width: 46rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)); gap: 1rem; margin: 1.75rem 0; }
.tiles div, section { background: #fff; border: 1px solid #e4e7eb; border-radius: 10px; }
.tiles div { padding: 1rem 1.2rem; }
.tiles b { display: block; font-size: 1.8rem; line-height: 1.2; color: #2563a8; }
.tiles span { color: #52606d; font-size: .9rem; }
section { padding: 1.3rem 1.4rem; margin-bottom: 1.25rem; overflow-x: auto; }
img { display: block; width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .6rem; text-align: right; border-bottom: 1px solid #e4e7eb; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { color: #52606d; font-weight: 600; }
tbody tr:last-child td { font-weight: 700; border-bottom: 0; background: #eef4fb; }
section p { margin: .8rem 0 0; color: #52606d; font-size: .85rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.2rem; margin: 0; font-size: .9rem; }
dt { color: #52606d; }
dd { margin: 0; font-family: ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; } }
"""
