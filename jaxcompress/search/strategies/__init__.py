"""Search strategies: which candidates to try next."""

from jaxcompress.search.strategies.aging import AgingEvolution as AgingEvolution
from jaxcompress.search.strategies.annealing import SimulatedAnnealing as SimulatedAnnealing
from jaxcompress.search.strategies.default import default_strategy as default_strategy
from jaxcompress.search.strategies.enas import ENAS as ENAS
from jaxcompress.search.strategies.evosax import Evosax as Evosax
from jaxcompress.search.strategies.fidelity_correlation import FidelityCorrelation as FidelityCorrelation
from jaxcompress.search.strategies.fidelity_correlation import fidelity_correlation as fidelity_correlation
from jaxcompress.search.strategies.genetic import GeneticAlgorithm as GeneticAlgorithm
from jaxcompress.search.strategies.hyperband import Hyperband as Hyperband
from jaxcompress.search.strategies.local_search import LocalSearch as LocalSearch
from jaxcompress.search.strategies.nondominated import crowding_distance as crowding_distance
from jaxcompress.search.strategies.nondominated import non_dominated_ranks as non_dominated_ranks
from jaxcompress.search.strategies.nsga2 import NSGA2 as NSGA2
from jaxcompress.search.strategies.random_search import RandomSearch as RandomSearch
from jaxcompress.search.strategies.successive_halving import SuccessiveHalving as SuccessiveHalving
