"""Scores: how much each weight, or each unit of a group, is worth; higher keeps."""

from jaxcompress.prune.scores.activation import Activation as Activation
from jaxcompress.prune.scores.aggregate import Aggregate as Aggregate
from jaxcompress.prune.scores.batchnorm import BatchNormScale as BatchNormScale
from jaxcompress.prune.scores.fisher import Fisher as Fisher
from jaxcompress.prune.scores.fisher import fisher as fisher
from jaxcompress.prune.scores.fpgm import FPGM as FPGM
from jaxcompress.prune.scores.fpgm import fpgm as fpgm
from jaxcompress.prune.scores.gradients import Gradients as Gradients
from jaxcompress.prune.scores.gradients import gradients as gradients
from jaxcompress.prune.scores.group_scores import GroupScore as GroupScore
from jaxcompress.prune.scores.group_scores import group_scores as group_scores
from jaxcompress.prune.scores.lamp import LAMP as LAMP
from jaxcompress.prune.scores.lamp import lamp as lamp
from jaxcompress.prune.scores.lp import Lp as Lp
from jaxcompress.prune.scores.lp import lp as lp
from jaxcompress.prune.scores.random import Random as Random
from jaxcompress.prune.scores.taylor import Taylor as Taylor
from jaxcompress.prune.scores.taylor import taylor as taylor
from jaxcompress.prune.scores.wanda import Wanda as Wanda
from jaxcompress.prune.scores.wanda import wanda as wanda
from jaxcompress.prune.scores.weight_scores import WeightScore as WeightScore
from jaxcompress.prune.scores.weight_scores import part_scores as part_scores
from jaxcompress.prune.scores.weight_scores import weight_scores as weight_scores
