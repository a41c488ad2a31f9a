"""Unstructured and semi-structured pruning: masks, the masked leaf, and the methods that choose what to drop."""

from jaxcompress.prune.finish import finish as finish
from jaxcompress.prune.magnitude import Magnitude as Magnitude
from jaxcompress.prune.magnitude import magnitude as magnitude
from jaxcompress.prune.magnitude import topk_mask as topk_mask
from jaxcompress.prune.mask_state import masks_of as masks_of
from jaxcompress.prune.masked import Masked as Masked
from jaxcompress.prune.nm import nm_mask as nm_mask
