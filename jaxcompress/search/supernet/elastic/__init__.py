"""Elastic layers for Flax Linen: width, kernel size, depth and operation are chosen by runtime arrays.

Every choice is given to a layer as an argument, in one of two forms. As an array it is a runtime value: the layer
computes at its full size and puts zeros where nothing is chosen, so that one program serves every subnet. As a Python
number it is static: the layer slices its parameters and computes at the size that was chosen, which is the small
network; `extract` hands that out with parameters of its own.
"""

from jaxcompress.search.supernet.elastic.convolution import ElasticConv as ElasticConv
from jaxcompress.search.supernet.elastic.dense import ElasticDense as ElasticDense
from jaxcompress.search.supernet.elastic.depth import ElasticDepth as ElasticDepth
from jaxcompress.search.supernet.elastic.extraction import Standalone as Standalone
from jaxcompress.search.supernet.elastic.extraction import extract as extract
from jaxcompress.search.supernet.elastic.layer import plain as plain
from jaxcompress.search.supernet.elastic.mobilenet import ElasticMobileNet as ElasticMobileNet
from jaxcompress.search.supernet.elastic.network import ElasticNetwork as ElasticNetwork
from jaxcompress.search.supernet.elastic.norm import ElasticBatchNorm as ElasticBatchNorm
from jaxcompress.search.supernet.elastic.operations import OperationChoice as OperationChoice
