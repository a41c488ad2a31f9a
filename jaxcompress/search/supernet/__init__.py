"""Supernets: one set of parameters for many subnets, all of them runtime arrays of one compiled program."""

import importlib
from typing import Any

from jaxcompress.search.supernet.batchnorm import Normalization as Normalization
from jaxcompress.search.supernet.batchnorm import batch_statistics as batch_statistics
from jaxcompress.search.supernet.batchnorm import find_normalizations as find_normalizations
from jaxcompress.search.supernet.batchnorm import recalibrated as recalibrated
from jaxcompress.search.supernet.sampling import Phase as Phase
from jaxcompress.search.supernet.sampling import largest as largest
from jaxcompress.search.supernet.sampling import progressive_shrinking as progressive_shrinking
from jaxcompress.search.supernet.sampling import sample_above as sample_above
from jaxcompress.search.supernet.sampling import smallest as smallest
from jaxcompress.search.supernet.sorting import sorted_by_importance as sorted_by_importance
from jaxcompress.search.supernet.supernet import Supernet as Supernet
from jaxcompress.search.supernet.training import Training as Training
from jaxcompress.search.supernet.training import TrainingState as TrainingState
from jaxcompress.search.supernet.training import once_for_all as once_for_all
from jaxcompress.search.supernet.training import sandwich as sandwich
from jaxcompress.search.supernet.training import soft_cross_entropy as soft_cross_entropy


def __getattr__(name: str) -> Any:
    """`elastic`, at its first use: it brings Flax."""
    if name == "elastic":
        return importlib.import_module(f"{__name__}.elastic")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
