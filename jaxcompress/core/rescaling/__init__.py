"""Scale symmetries: which positive scales of parameters leave a function as it is, found from its trace."""

from jaxcompress.core.rescaling.analysis import symmetries as symmetries
from jaxcompress.core.rescaling.result import Excluded as Excluded
from jaxcompress.core.rescaling.result import Member as Member
from jaxcompress.core.rescaling.result import Symmetries as Symmetries
from jaxcompress.core.rescaling.result import Symmetry as Symmetry
from jaxcompress.core.rescaling.result import apply as apply
from jaxcompress.core.rescaling.result import spread as spread
