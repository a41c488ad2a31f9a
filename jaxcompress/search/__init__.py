"""Architecture search and compression policies: a candidate is a genome of runtime arrays, one program serves them all."""

from jaxcompress.search.executors import Executor as Executor
from jaxcompress.search.executors import population_evaluator as population_evaluator
from jaxcompress.search.genes import Genes as Genes
from jaxcompress.search.strategy import Candidates as Candidates
from jaxcompress.search.strategy import Fitness as Fitness
from jaxcompress.search.strategy import Strategy as Strategy
