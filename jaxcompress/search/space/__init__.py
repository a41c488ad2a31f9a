"""Search spaces: named variables, what depends on what, and how candidates are drawn, changed, mixed and read."""

from jaxcompress.search.space.conditional import Conditional as Conditional
from jaxcompress.search.space.constraints import Constraint as Constraint
from jaxcompress.search.space.repeated import Repeated as Repeated
from jaxcompress.search.space.space import Space as Space
from jaxcompress.search.space.variables import Choice as Choice
from jaxcompress.search.space.variables import Float as Float
from jaxcompress.search.space.variables import IntRange as IntRange
from jaxcompress.search.space.variables import LogFloat as LogFloat
