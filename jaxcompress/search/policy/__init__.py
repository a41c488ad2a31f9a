"""Compression policies: which weight gets which bits, sparsity, rank or codebook, and which group how many channels."""

from jaxcompress.search.policy.allocation import Allocation as Allocation
from jaxcompress.search.policy.allocation import allocate as allocate
from jaxcompress.search.policy.allocation import allocations as allocations
from jaxcompress.search.policy.allocation import least_costs as least_costs
from jaxcompress.search.policy.applied import compressed as compressed
from jaxcompress.search.policy.evaluation import Evaluation as Evaluation
from jaxcompress.search.policy.realized import Calibration as Calibration
from jaxcompress.search.policy.realized import Realized as Realized
from jaxcompress.search.policy.realized import realize as realize
from jaxcompress.search.policy.refine import policy_space as policy_space
from jaxcompress.search.policy.refine import refine as refine
from jaxcompress.search.policy.result import PolicyResult as PolicyResult
from jaxcompress.search.policy.search import policy as policy
from jaxcompress.search.policy.sensitivity import PolicyScores as PolicyScores
from jaxcompress.search.policy.sensitivity import kl as kl
from jaxcompress.search.policy.sensitivity import second_order as second_order
from jaxcompress.search.policy.sensitivity import sweep as sweep
from jaxcompress.search.policy.setting import Channels as Channels
from jaxcompress.search.policy.setting import Setting as Setting
from jaxcompress.search.policy.setting import settings as settings
from jaxcompress.search.policy.table import VariantTable as VariantTable
from jaxcompress.search.policy.table import variant_table as variant_table
