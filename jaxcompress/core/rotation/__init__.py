"""Rotation symmetries: which axes of parameters an orthogonal matrix may turn, found from a function's trace."""

from jaxcompress.core.rotation.analysis import rotations as rotations
from jaxcompress.core.rotation.result import Excluded as Excluded
from jaxcompress.core.rotation.result import Fold as Fold
from jaxcompress.core.rotation.result import Rotation as Rotation
from jaxcompress.core.rotation.result import Rotations as Rotations
from jaxcompress.core.rotation.result import apply as apply
from jaxcompress.core.rotation.result import fold_gains as fold_gains
