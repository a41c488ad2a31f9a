"""The integer form of each primitive, where it has one."""

from jaxcompress.quantize.integer.rules import contraction, elementwise, extremes, joining, layout, reduction

RULES = {
    **contraction.RULES,
    **elementwise.RULES,
    **extremes.RULES,
    **joining.RULES,
    **layout.RULES,
    **reduction.RULES,
}
