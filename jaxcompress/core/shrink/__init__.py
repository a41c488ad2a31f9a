"""Shrinking: a function and its parameters without what structured pruning drops, physically smaller.

`cut` says what a value carries, `propagate` walks the trace, `rules` hold one rule per primitive, `keep` checks what is
kept and cuts leaves, `function` is the small function, `shrunk` what users hold, `verify` the oracle.
"""

from jaxcompress.core.shrink.function import bound
from jaxcompress.core.shrink.keep import masked
from jaxcompress.core.shrink.shrunk import Shrunk, shrink
from jaxcompress.core.shrink.verify import Difference, Verification, verify

__all__ = ["Difference", "Shrunk", "Verification", "bound", "masked", "shrink", "verify"]
