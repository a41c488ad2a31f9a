"""Factorization: products of small arrays in place of a large one."""

from jaxcompress.factorize.lowrank import LowRank as LowRank
from jaxcompress.factorize.svd import SVD as SVD
from jaxcompress.factorize.svd import svd as svd
from jaxcompress.factorize.svd import svd_factors as svd_factors
