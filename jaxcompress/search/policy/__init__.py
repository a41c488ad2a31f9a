"""Compression policies: which weight gets which bits, sparsity, rank or codebook, and which group how many channels."""

from jaxcompress.search.policy.allocation import Allocation as Allocation
from jaxcompress.search.policy.allocation import allocate as allocate
from jaxcompress.search.policy.applied import compressed as compressed
from jaxcompress.search.policy.evaluation import Evaluation as Evaluation
from jaxcompress.search.policy.sensitivity import PolicyScores as PolicyScores
from jaxcompress.search.policy.sensitivity import kl as kl
from jaxcompress.search.policy.sensitivity import second_order as second_order
from jaxcompress.search.policy.sensitivity import sweep as sweep
from jaxcompress.search.policy.setting import Channels as Channels
from jaxcompress.search.policy.setting import Setting as Setting
from jaxcompress.search.policy.setting import settings as settings
from jaxcompress.search.policy.table import VariantTable as VariantTable
from jaxcompress.search.policy.table import variant_table as variant_table
