"""Quantization: integers and scales in place of floats."""

from jaxcompress.quantize.affine import Quantized as Quantized
from jaxcompress.quantize.rescaled import Rescaled as Rescaled
from jaxcompress.quantize.rtn import RTN as RTN
from jaxcompress.quantize.rtn import rtn as rtn
