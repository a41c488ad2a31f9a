"""Integer-only inference: functions whose arithmetic is in integers (Jacob et al., 2018)."""

from jaxcompress.quantize.integer.function import IntegerFunction as IntegerFunction
from jaxcompress.quantize.integer.function import integer_only as integer_only
from jaxcompress.quantize.integer.plan import NoIntegerForm as NoIntegerForm
