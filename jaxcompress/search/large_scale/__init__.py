"""Large-scale evolution (Real et al., 2017): networks grow from nothing, children inherit their parents' weights."""

from jaxcompress.search.large_scale.dna import DNA as DNA
from jaxcompress.search.large_scale.dna import Bounds as Bounds
from jaxcompress.search.large_scale.dna import parameters as parameters
from jaxcompress.search.large_scale.dna import trivial as trivial
from jaxcompress.search.large_scale.evolution import EvolutionState as EvolutionState
from jaxcompress.search.large_scale.evolution import Generation as Generation
from jaxcompress.search.large_scale.evolution import Individuals as Individuals
from jaxcompress.search.large_scale.evolution import LargeScaleEvolution as LargeScaleEvolution
from jaxcompress.search.large_scale.inheritance import inherited as inherited
from jaxcompress.search.large_scale.mutations import Child as Child
from jaxcompress.search.large_scale.mutations import Mutation as Mutation
from jaxcompress.search.large_scale.mutations import mutate as mutate
from jaxcompress.search.large_scale.mutations import mutate_by as mutate_by
from jaxcompress.search.large_scale.mutations import possible as possible
from jaxcompress.search.large_scale.network import Weights as Weights
from jaxcompress.search.large_scale.network import apply as apply
from jaxcompress.search.large_scale.network import drawn_weights as drawn_weights
