"""Quantization: integers and scales in place of floats."""

from jaxcompress.quantize.affine import Quantized as Quantized
