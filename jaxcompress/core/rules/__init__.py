"""One rule per primitive: how it takes a lazy operand without a dense copy.

A rule is ``rule(run, eqn, values) -> results | None``; ``None`` means that this form has no compressed way, and the
interpreter materializes the operands. Every form of data movement ends in one of three operations of a leaf: `matmul`,
`conv`, and `map_axis` (slices and lookups).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jax.extend.core import JaxprEqn

from jaxcompress.core.interpreter import Interpreter
from jaxcompress.core.rules import contraction, control, convolution, custom, indexing, manual, structural
from jaxcompress.core.view import Value

Rule = Callable[[Interpreter, JaxprEqn, Sequence[Value]], Sequence[Value] | None]

RULES: dict[str, Rule] = {
    **structural.RULES,
    **indexing.RULES,
    **contraction.RULES,
    **convolution.RULES,
    **control.RULES,
    **custom.RULES,
    **manual.RULES,
}
