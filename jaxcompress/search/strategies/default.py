"""The strategy where none is named."""

from __future__ import annotations

from jaxcompress.search.strategies.genetic import GeneticAlgorithm
from jaxcompress.search.strategies.nsga2 import NSGA2


def default_strategy(objectives: int = 1) -> GeneticAlgorithm | NSGA2:
    """What `jaxcompress.search.run` uses where no strategy is given.

    Args:
        objectives: how many are minimised. One: `GeneticAlgorithm`; several: `NSGA2`, which finds a front.

    Raises:
        ValueError: below 1.

    Example:
        >>> type(default_strategy(2)).__name__
        'NSGA2'
    """
    if objectives < 1:
        raise ValueError(f"objectives must be at least 1, got {objectives}")
    return GeneticAlgorithm() if objectives == 1 else NSGA2()
