"""Architecture search and compression policies: a candidate is a genome of arrays, and one program serves them all.

`jaxcompress.search.supernet` is imported at its first use: it brings Flax.
"""

import importlib
from typing import Any

from jaxcompress.search import cells as cells
from jaxcompress.search import darts as darts
from jaxcompress.search import hardware as hardware
from jaxcompress.search import large_scale as large_scale
from jaxcompress.search import population as population
from jaxcompress.search import proxies as proxies
from jaxcompress.search import spaces as spaces
from jaxcompress.search.archive import Archive as Archive
from jaxcompress.search.archive import Candidate as Candidate
from jaxcompress.search.budget import Budget as Budget
from jaxcompress.search.enas.alternate import GrowthStage as GrowthStage
from jaxcompress.search.enas.alternate import alternate as alternate
from jaxcompress.search.enas.boundary import allowed_values as allowed_values
from jaxcompress.search.executors import Chunked as Chunked
from jaxcompress.search.executors import Executor as Executor
from jaxcompress.search.executors import Loop as Loop
from jaxcompress.search.executors import Map as Map
from jaxcompress.search.executors import Sharded as Sharded
from jaxcompress.search.executors import Vmap as Vmap
from jaxcompress.search.executors import population_evaluator as population_evaluator
from jaxcompress.search.genes import Genes as Genes
from jaxcompress.search.pareto import Pareto as Pareto
from jaxcompress.search.policies import Channels as Channels
from jaxcompress.search.policies import PolicyResult as PolicyResult
from jaxcompress.search.policies import Setting as Setting
from jaxcompress.search.policies import policy as policy
from jaxcompress.search.policies import settings as settings
from jaxcompress.search.progress import Progress as Progress
from jaxcompress.search.python_evaluation import python as python
from jaxcompress.search.result import Run as Run
from jaxcompress.search.run import run as run
from jaxcompress.search.scan import History as History
from jaxcompress.search.scan import scan as scan
from jaxcompress.search.space import Choice as Choice
from jaxcompress.search.space import Conditional as Conditional
from jaxcompress.search.space import Constraint as Constraint
from jaxcompress.search.space import Float as Float
from jaxcompress.search.space import IntRange as IntRange
from jaxcompress.search.space import LogFloat as LogFloat
from jaxcompress.search.space import Repeated as Repeated
from jaxcompress.search.space import Space as Space
from jaxcompress.search.split import split as split
from jaxcompress.search.strategies import ENAS as ENAS
from jaxcompress.search.strategies import NSGA2 as NSGA2
from jaxcompress.search.strategies import AgingEvolution as AgingEvolution
from jaxcompress.search.strategies import Evosax as Evosax
from jaxcompress.search.strategies import GeneticAlgorithm as GeneticAlgorithm
from jaxcompress.search.strategies import Hyperband as Hyperband
from jaxcompress.search.strategies import LocalSearch as LocalSearch
from jaxcompress.search.strategies import RandomSearch as RandomSearch
from jaxcompress.search.strategies import SimulatedAnnealing as SimulatedAnnealing
from jaxcompress.search.strategies import SuccessiveHalving as SuccessiveHalving
from jaxcompress.search.strategies import crowding_distance as crowding_distance
from jaxcompress.search.strategies import default_strategy as default_strategy
from jaxcompress.search.strategies import fidelity_correlation as fidelity_correlation
from jaxcompress.search.strategies import non_dominated_ranks as non_dominated_ranks
from jaxcompress.search.strategy import Candidates as Candidates
from jaxcompress.search.strategy import Fitness as Fitness
from jaxcompress.search.strategy import Strategy as Strategy


def __getattr__(name: str) -> Any:
    if name == "supernet":
        return importlib.import_module(f"{__name__}.supernet")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), "supernet"})
