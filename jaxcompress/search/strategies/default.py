"""The strategy where none is named."""

from __future__ import annotations

from jaxcompress.search.strategies.aging import AgingEvolution
from jaxcompress.search.strategies.nsga2 import NSGA2


def default_strategy(objectives: int = 1) -> AgingEvolution | NSGA2:
    """What `jaxcompress.search.run` uses where no strategy is given.

    Args:
        objectives: how many are minimised. One: `AgingEvolution` in batches of 10 with parents that are the best of 10
            (chosen by its regret on NAS-Bench-201, see ``benchmarks.nas_bench_201``); several: `NSGA2` with 20, whose
            fronts of error and parameters there are closer to the true one after 100 to 500 networks than those of
            32 or 64 (the run's archive keeps points of the front that a small population drops).

    Raises:
        ValueError: below 1.

    Example:
        >>> type(default_strategy(2)).__name__
        'NSGA2'
    """
    if objectives < 1:
        raise ValueError(f"objectives must be at least 1, got {objectives}")
    return AgingEvolution(population=20, sample=10, batch=10) if objectives == 1 else NSGA2(population=20)
