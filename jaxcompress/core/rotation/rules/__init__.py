"""What every primitive makes of turned values: ``rule(walk, equation, values) -> its results``.

A primitive without a rule fixes what meets it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jaxcompress.core.rotation.rules import contraction, control, elementwise, indexing, reduction, structural

Rule = Callable[..., Sequence[Any]]

RULES: dict[str, Rule] = {
    **elementwise.RULES,
    **structural.RULES,
    **reduction.RULES,
    **contraction.RULES,
    **indexing.RULES,
    **control.RULES,
}
