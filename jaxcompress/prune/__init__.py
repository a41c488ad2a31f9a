"""Pruning: scores, masks and the masked leaf, structured selection, and the methods that choose what to drop."""

from jaxcompress.prune import allocation as allocation
from jaxcompress.prune import scores as scores
from jaxcompress.prune.accuracy_gap import AccuracyGap as AccuracyGap
from jaxcompress.prune.accuracy_gap import by_accuracy_gap as by_accuracy_gap
from jaxcompress.prune.blocks import Branch as Branch
from jaxcompress.prune.blocks import blocks as blocks
from jaxcompress.prune.blocks import branches as branches
from jaxcompress.prune.by_score import ByScore as ByScore
from jaxcompress.prune.by_score import by_score as by_score
from jaxcompress.prune.channels import channels as channels
from jaxcompress.prune.finish import finish as finish
from jaxcompress.prune.magnitude import Magnitude as Magnitude
from jaxcompress.prune.magnitude import magnitude as magnitude
from jaxcompress.prune.magnitude import topk_mask as topk_mask
from jaxcompress.prune.mask_state import masks_of as masks_of
from jaxcompress.prune.masked import Masked as Masked
from jaxcompress.prune.nm import nm_mask as nm_mask
from jaxcompress.prune.selection import Selection as Selection
from jaxcompress.prune.sensitivity import Sensitivity as Sensitivity
from jaxcompress.prune.sensitivity import sensitivity as sensitivity
from jaxcompress.prune.sequential import sequential as sequential
from jaxcompress.prune.slimming import slimming as slimming
from jaxcompress.prune.sparsegpt import sparsegpt as sparsegpt
from jaxcompress.prune.wanda import wanda as wanda
from jaxcompress.prune.wanda import wanda_mask as wanda_mask
