"""Supernets: one set of parameters for many subnets, all of them runtime arrays of one compiled program."""

from jaxcompress.search.supernet.sampling import Phase as Phase
from jaxcompress.search.supernet.sampling import largest as largest
from jaxcompress.search.supernet.sampling import progressive_shrinking as progressive_shrinking
from jaxcompress.search.supernet.sampling import sample_above as sample_above
from jaxcompress.search.supernet.sampling import smallest as smallest
from jaxcompress.search.supernet.supernet import Supernet as Supernet
