"""Ranges: how far a number format reaches, for weights and, from what was observed, for activations.

| name | what it does | options |
| ---- | ------------ | ------- |
| ``absmax`` | reaches everything | |
| ``minmax`` | from the least to the greatest value | |
| ``percentile`` | leaves out the outermost values | `Percentile` |
| ``mse`` | clips where rounding and clipping together err least | `MSE` |
| ``entropy`` | clips where the distribution changes least (KL) | `Entropy` |
| ``moving_average`` | activations: averages over batches | `MovingAverage` |
| ``equalized`` | levels of equal mass; format ``levels`` | `Equalized` |
| ``kmeans`` | levels by Lloyd-Max; format ``levels`` | `KMeans` |
"""

from jaxcompress.quantize.ranges.activations import find_activation_scaling as find_activation_scaling
from jaxcompress.quantize.ranges.base import Range as Range
from jaxcompress.quantize.ranges.entropy import Entropy as Entropy
from jaxcompress.quantize.ranges.equalized import Equalized as Equalized
from jaxcompress.quantize.ranges.extremes import AbsMax as AbsMax
from jaxcompress.quantize.ranges.extremes import MinMax as MinMax
from jaxcompress.quantize.ranges.find import RANGES as RANGES
from jaxcompress.quantize.ranges.find import find_scaling as find_scaling
from jaxcompress.quantize.ranges.find import range_of as range_of
from jaxcompress.quantize.ranges.find import required_statistics as required_statistics
from jaxcompress.quantize.ranges.kmeans import KMeans as KMeans
from jaxcompress.quantize.ranges.moving_average import MovingAverage as MovingAverage
from jaxcompress.quantize.ranges.mse import MSE as MSE
from jaxcompress.quantize.ranges.percentile import Percentile as Percentile
