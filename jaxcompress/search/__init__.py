"""Architecture search and compression policies: a candidate is a genome of arrays, and one program serves them all."""

from jaxcompress.search.executors import Executor as Executor
from jaxcompress.search.executors import population_evaluator as population_evaluator
from jaxcompress.search.genes import Genes as Genes
from jaxcompress.search.space import Choice as Choice
from jaxcompress.search.space import Conditional as Conditional
from jaxcompress.search.space import Constraint as Constraint
from jaxcompress.search.space import Float as Float
from jaxcompress.search.space import IntRange as IntRange
from jaxcompress.search.space import LogFloat as LogFloat
from jaxcompress.search.space import Repeated as Repeated
from jaxcompress.search.space import Space as Space
from jaxcompress.search.strategies import NSGA2 as NSGA2
from jaxcompress.search.strategies import AgingEvolution as AgingEvolution
from jaxcompress.search.strategies import GeneticAlgorithm as GeneticAlgorithm
from jaxcompress.search.strategies import LocalSearch as LocalSearch
from jaxcompress.search.strategies import Random as Random
from jaxcompress.search.strategies import SimulatedAnnealing as SimulatedAnnealing
from jaxcompress.search.strategies import crowding_distance as crowding_distance
from jaxcompress.search.strategies import default_strategy as default_strategy
from jaxcompress.search.strategies import non_dominated_ranks as non_dominated_ranks
from jaxcompress.search.strategy import Candidates as Candidates
from jaxcompress.search.strategy import Fitness as Fitness
from jaxcompress.search.strategy import Strategy as Strategy
