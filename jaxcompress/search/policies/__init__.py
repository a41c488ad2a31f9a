"""Compression policies: which weight gets which bits, sparsity, rank or codebook, and which group how many channels."""

from jaxcompress.search.policies.allocation import Allocation as Allocation
from jaxcompress.search.policies.allocation import allocate as allocate
from jaxcompress.search.policies.allocation import allocations as allocations
from jaxcompress.search.policies.allocation import least_costs as least_costs
from jaxcompress.search.policies.applied import compressed as compressed
from jaxcompress.search.policies.evaluation import Evaluation as Evaluation
from jaxcompress.search.policies.iterate import iterate as iterate
from jaxcompress.search.policies.policy import policy as policy
from jaxcompress.search.policies.realized import Calibration as Calibration
from jaxcompress.search.policies.realized import Realized as Realized
from jaxcompress.search.policies.realized import realize as realize
from jaxcompress.search.policies.refine import policy_space as policy_space
from jaxcompress.search.policies.refine import refine as refine
from jaxcompress.search.policies.result import PolicyResult as PolicyResult
from jaxcompress.search.policies.sensitivity import PolicyScores as PolicyScores
from jaxcompress.search.policies.sensitivity import kl as kl
from jaxcompress.search.policies.sensitivity import second_order as second_order
from jaxcompress.search.policies.sensitivity import sweep as sweep
from jaxcompress.search.policies.setting import Channels as Channels
from jaxcompress.search.policies.setting import Setting as Setting
from jaxcompress.search.policies.setting import settings as settings
from jaxcompress.search.policies.table import VariantTable as VariantTable
from jaxcompress.search.policies.table import variant_table as variant_table
from jaxcompress.search.policies.written import WrittenCosts as WrittenCosts
