"""Compression during training: `optax` transformations around any optimizer."""

from jaxcompress.train.anneal_bits import anneal_bits as anneal_bits
from jaxcompress.train.decay_mask import decay_mask as decay_mask
from jaxcompress.train.discrete import discrete as discrete
from jaxcompress.train.fixed import fixed_masks as fixed_masks
from jaxcompress.train.gradual import gradual_pruning as gradual_pruning
from jaxcompress.train.gradual_rank import gradual_rank as gradual_rank
from jaxcompress.train.iterative import Rewind as Rewind
from jaxcompress.train.iterative import iterative_stages as iterative_stages
from jaxcompress.train.low_rank_stages import GradualRank as GradualRank
from jaxcompress.train.low_rank_stages import NuclearNorm as NuclearNorm
from jaxcompress.train.network_slimming import network_slimming as network_slimming
from jaxcompress.train.network_surgery import network_surgery as network_surgery
from jaxcompress.train.nuclear_norm import nuclear_norm as nuclear_norm
from jaxcompress.train.nuclear_norm import trace_norm as trace_norm
from jaxcompress.train.ranks import factorized as factorized
from jaxcompress.train.ranks import reached_ranks as reached_ranks
from jaxcompress.train.rigl import rigl as rigl
from jaxcompress.train.sparse_evolutionary import sparse_evolutionary as sparse_evolutionary
from jaxcompress.train.stages import Finetune as Finetune
from jaxcompress.train.stages import GradualPruning as GradualPruning
from jaxcompress.train.static_sparse import static_sparse as static_sparse
