"""Scores: how much each weight, or each unit of a group, is worth; higher keeps."""

from jaxcompress.prune.scores.lamp import LAMP as LAMP
from jaxcompress.prune.scores.lamp import lamp as lamp
from jaxcompress.prune.scores.lp import Lp as Lp
from jaxcompress.prune.scores.lp import lp as lp
from jaxcompress.prune.scores.weight_scores import WeightScore as WeightScore
from jaxcompress.prune.scores.weight_scores import part_scores as part_scores
from jaxcompress.prune.scores.weight_scores import weight_scores as weight_scores
