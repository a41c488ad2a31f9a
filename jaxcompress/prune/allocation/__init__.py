"""How a sparsity is shared over layers. Every rule returns a dict from paths to sparsities, for any pruning method."""

from jaxcompress.prune.allocation.budget import by_budget as by_budget
from jaxcompress.prune.allocation.ranks import by_scores as by_scores
from jaxcompress.prune.allocation.ranks import global_magnitude as global_magnitude
from jaxcompress.prune.allocation.ranks import lamp as lamp
from jaxcompress.prune.allocation.rules import erk as erk
from jaxcompress.prune.allocation.rules import uniform as uniform
from jaxcompress.prune.allocation.table import Allocation as Allocation
