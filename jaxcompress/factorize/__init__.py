"""Factorization: products of small arrays in place of a large one."""

from jaxcompress.factorize.loftq import loftq as loftq
from jaxcompress.factorize.lora import Lora as Lora
from jaxcompress.factorize.lora import is_lora as is_lora
from jaxcompress.factorize.lora import lora as lora
from jaxcompress.factorize.lora import merge_lora as merge_lora
from jaxcompress.factorize.lowrank import LowRank as LowRank
from jaxcompress.factorize.svd import SVD as SVD
from jaxcompress.factorize.svd import svd as svd
from jaxcompress.factorize.svd import svd_factors as svd_factors
