"""Unstructured and semi-structured pruning: masks, the masked leaf, and the methods that choose what to drop."""

from jaxcompress.prune import allocation as allocation
from jaxcompress.prune import scores as scores
from jaxcompress.prune.by_score import ByScore as ByScore
from jaxcompress.prune.by_score import by_score as by_score
from jaxcompress.prune.finish import finish as finish
from jaxcompress.prune.magnitude import Magnitude as Magnitude
from jaxcompress.prune.magnitude import magnitude as magnitude
from jaxcompress.prune.magnitude import topk_mask as topk_mask
from jaxcompress.prune.mask_state import masks_of as masks_of
from jaxcompress.prune.masked import Masked as Masked
from jaxcompress.prune.nm import nm_mask as nm_mask
from jaxcompress.prune.sequential import sequential as sequential
from jaxcompress.prune.sparsegpt import sparsegpt as sparsegpt
from jaxcompress.prune.wanda import wanda as wanda
from jaxcompress.prune.wanda import wanda_mask as wanda_mask
