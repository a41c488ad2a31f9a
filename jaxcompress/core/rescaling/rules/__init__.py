"""What every primitive makes of scales: ``rule(walk, equation, fields) -> fields of the results``.

A primitive without a rule fixes what meets it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jaxcompress.core.rescaling.rules import contraction, control, elementwise, indexing, reduction, structural

Rule = Callable[..., Sequence[Any]]

RULES: dict[str, Rule] = {
    **elementwise.RULES,
    **structural.RULES,
    **reduction.RULES,
    **contraction.RULES,
    **indexing.RULES,
    **control.RULES,
}
MOVES = frozenset({*structural.RULES, *elementwise.PASSING, "convert_element_type"} - {"neg", "abs"})
"""They give a constant array of what all entries of their operands equal."""
