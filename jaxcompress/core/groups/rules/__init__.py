"""What every primitive does to labels: ``rule(walk, equation, values) -> labelled results``.

Primitives in `ALWAYS` go by their rule whatever they meet; the others only where a parameter is involved, since what
does not depend on parameters is computed whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jaxcompress.core.groups.rules import contraction, control, elementwise, indexing, reduction, structural

Rule = Callable[..., Sequence[Any]]

RULES: dict[str, Rule] = {
    **elementwise.RULES,
    **structural.RULES,
    **reduction.RULES,
    **contraction.RULES,
    **indexing.RULES,
    **control.RULES,
}
ALWAYS = frozenset({*elementwise.RULES, *structural.RULES, *control.RULES, "dot_general", "conv_general_dilated"})
