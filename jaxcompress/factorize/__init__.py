"""Factorization: products of small arrays in place of a large one."""

from jaxcompress.factorize.incremental_pca import incremental_pca as incremental_pca
from jaxcompress.factorize.loftq import loftq as loftq
from jaxcompress.factorize.lora import Lora as Lora
from jaxcompress.factorize.lora import is_lora as is_lora
from jaxcompress.factorize.lora import lora as lora
from jaxcompress.factorize.lora import merge_lora as merge_lora
from jaxcompress.factorize.lowrank import LowRank as LowRank
from jaxcompress.factorize.pca import PCA as PCA
from jaxcompress.factorize.pca import pca as pca
from jaxcompress.factorize.rank import EVBMF as EVBMF
from jaxcompress.factorize.rank import Energy as Energy
from jaxcompress.factorize.rank import ExplainedVariance as ExplainedVariance
from jaxcompress.factorize.rank import RankRule as RankRule
from jaxcompress.factorize.rank import energy as energy
from jaxcompress.factorize.rank import evbmf as evbmf
from jaxcompress.factorize.rank import explained_variance as explained_variance
from jaxcompress.factorize.svd import SVD as SVD
from jaxcompress.factorize.svd import masked_factors as masked_factors
from jaxcompress.factorize.svd import svd as svd
from jaxcompress.factorize.svd import svd_factors as svd_factors
