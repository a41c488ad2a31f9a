"""Factorization: products of small arrays in place of a large one."""

from jaxcompress.factorize.lowrank import LowRank as LowRank
