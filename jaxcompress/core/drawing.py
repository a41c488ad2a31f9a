"""How figures look: colours, and settings for `matplotlib.rc_context`. Matplotlib itself is not imported here."""

from __future__ import annotations

from typing import Any

BLUE, ORANGE, INK, GREY, PALE = "#2563a8", "#d9622b", "#1f2933", "#7b8794", "#e4e7eb"

STYLE: Any = {  # matplotlib names its settings one by one in a type
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}
