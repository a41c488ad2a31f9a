"""Quantization: integers and scales in place of floats."""

from jaxcompress.quantize.affine import AffineQuantized as AffineQuantized
from jaxcompress.quantize.affine import Quantized as Quantized
from jaxcompress.quantize.binary import Binary as Binary
from jaxcompress.quantize.binary import binarize as binarize
from jaxcompress.quantize.binary import binary as binary
from jaxcompress.quantize.formats import Format as Format
from jaxcompress.quantize.formats import Scaling as Scaling
from jaxcompress.quantize.formats import format_of as format_of
from jaxcompress.quantize.gptq import gptq as gptq
from jaxcompress.quantize.packed import PackedInts as PackedInts
from jaxcompress.quantize.rescaled import Rescaled as Rescaled
from jaxcompress.quantize.rtn import RTN as RTN
from jaxcompress.quantize.rtn import round_to_nearest as round_to_nearest
from jaxcompress.quantize.rtn import rtn as rtn
from jaxcompress.quantize.spec import Spec as Spec
from jaxcompress.quantize.tabled import FixedTable as FixedTable
from jaxcompress.quantize.tabled import Tabled as Tabled
from jaxcompress.quantize.ternary import Ternary as Ternary
from jaxcompress.quantize.ternary import ternarize as ternarize
from jaxcompress.quantize.ternary import ternary as ternary
from jaxcompress.quantize.training.convert import convert as convert
from jaxcompress.quantize.training.fake import FakeQuantized as FakeQuantized
from jaxcompress.quantize.training.prepare import prepare as prepare
from jaxcompress.quantize.training.spec import QAT as QAT
from jaxcompress.quantize.training.spec import Activations as Activations
