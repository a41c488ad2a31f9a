"""Second-order sensitivity: which weights bear fewer bits."""

from jaxcompress.quantize.second_order.adam import second_moments as second_moments
from jaxcompress.quantize.second_order.diagonal import Diagonal as Diagonal
from jaxcompress.quantize.second_order.fisher import fisher as fisher
from jaxcompress.quantize.second_order.hessian import HessianTrace as HessianTrace
from jaxcompress.quantize.second_order.hessian import hessian_trace as hessian_trace
from jaxcompress.quantize.second_order.scores import Scores as Scores
from jaxcompress.quantize.second_order.sensitivity import sensitivity as sensitivity
