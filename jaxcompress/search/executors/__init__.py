"""How a population is evaluated: in a loop, side by side, in chunks, on many devices; the choice can be measured."""

from jaxcompress.search.executors.executor import Executor as Executor
from jaxcompress.search.executors.local import Chunked as Chunked
from jaxcompress.search.executors.local import Loop as Loop
from jaxcompress.search.executors.local import Map as Map
from jaxcompress.search.executors.local import Vmap as Vmap
from jaxcompress.search.executors.population import population_evaluator as population_evaluator
from jaxcompress.search.executors.sharded import Sharded as Sharded
