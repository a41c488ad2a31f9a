"""A module of elastic layers with its space: what is trained, searched and extracted."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax

from jaxcompress.search.genes import Genes
from jaxcompress.search.space import Space
from jaxcompress.search.supernet.elastic.extraction import Standalone, extract
from jaxcompress.search.supernet.elastic.layer import plain
from jaxcompress.search.supernet.sampling import largest, smallest


@dataclasses.dataclass(frozen=True)
class ElasticNetwork:
    """An elastic module with the space of its genomes; the methods are those of `Supernet`.

    Attributes:
        module: its ``__call__`` takes ``genome=``, a decoded genome of the space.
        space: values of its discrete variables ascend, so that the last ones are the whole network.

    Example:
        >>> from jaxcompress.search import Choice
        >>> from jaxcompress.search.supernet.elastic import ElasticDense
        >>> class Net(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x, genome):
        ...         return ElasticDense(2)(nn.relu(ElasticDense(8)(x, genome["width"])))
        >>> net = ElasticNetwork(Net(), Space({"width": Choice((2, 4, 8))}))
        >>> params = net.init(jax.random.key(0), np.ones((1, 3), np.float32))
        >>> net.apply(params, net.smallest, np.ones((5, 3), np.float32)).shape
        (5, 2)
        >>> small = net.extract(params, net.smallest, np.ones((1, 3), np.float32))
        >>> sum(leaf.size for leaf in jax.tree.leaves(small.params))
        14
    """

    module: nn.Module
    space: Space

    def init(self, key: Any, *inputs: Any, **kwargs: Any) -> Any:
        """Variables of the whole network; ``key`` as `flax.linen.Module.init` takes it."""
        with jax.ensure_compile_time_eval():  # under jit too
            whole = plain(self._decoded(self.largest))
        return self.module.init(key, *inputs, genome=whole, **kwargs)

    def apply(self, params: Any, genome: Any, *inputs: Any, **kwargs: Any) -> Any:
        """What a subnet computes, for `Genes` or a decoded genome of runtime arrays."""
        return self.module.apply(params, *inputs, genome=self._decoded(genome), **kwargs)

    def extract(self, params: Any, genome: Any, *inputs: Any, **kwargs: Any) -> Standalone:
        """The subnet as a model of its own; see `extract`. The genome must be concrete."""
        return extract(self.module, params, self._decoded(genome), *inputs, **kwargs)

    @property
    def largest(self) -> Genes:
        """The genes of the whole network."""
        return largest(self.space)

    @property
    def smallest(self) -> Genes:
        """The genes of the smallest subnet."""
        return smallest(self.space)

    def _decoded(self, genome: Any) -> Any:
        return self.space.decode(genome) if isinstance(genome, Genes) else genome
