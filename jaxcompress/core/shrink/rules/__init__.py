"""One rule per primitive: how a cut passes through it.

A rule is ``rule(run, eqn, values) -> results``, called only when some operand is cut. The equation's own shapes are the
dense ones. A rule either gives exactly the kept entries of the dense result or refuses through `Propagation.fail`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jax.extend.core import JaxprEqn

from jaxcompress.core.shrink.propagate import Propagation
from jaxcompress.core.shrink.rules import (
    contraction,
    control,
    custom,
    elementwise,
    indexing,
    joining,
    reduction,
    structural,
)

Rule = Callable[[Propagation, JaxprEqn, Sequence[Any]], Sequence[Any]]

RULES: dict[str, Rule] = {
    **elementwise.RULES,
    **structural.RULES,
    **joining.RULES,
    **reduction.RULES,
    **contraction.RULES,
    **indexing.RULES,
    **control.RULES,
    **custom.RULES,
}
