"""Search strategies: which candidates to try next."""

from jaxcompress.search.strategies.nondominated import crowding_distance as crowding_distance
from jaxcompress.search.strategies.nondominated import non_dominated_ranks as non_dominated_ranks
