"""Architecture search by gradient descent on a continuous relaxation (DARTS, first order)."""

from jaxcompress.search.darts.bilevel import Bilevel as Bilevel
from jaxcompress.search.darts.bilevel import DARTSState as DARTSState
from jaxcompress.search.darts.bilevel import architecture_optimizer as architecture_optimizer
from jaxcompress.search.darts.bilevel import weight_optimizer as weight_optimizer
from jaxcompress.search.darts.discretize import one_hot as one_hot
from jaxcompress.search.darts.discretize import strongest_edges as strongest_edges
from jaxcompress.search.darts.discretize import strongest_operations as strongest_operations
from jaxcompress.search.darts.epochs import Relaxed as Relaxed
from jaxcompress.search.darts.epochs import search as search
from jaxcompress.search.darts.gap import Gap as Gap
from jaxcompress.search.darts.gap import discretization_gap as discretization_gap
from jaxcompress.search.darts.relaxation import doubt as doubt
from jaxcompress.search.darts.relaxation import mixed as mixed
from jaxcompress.search.darts.relaxation import relax as relax
from jaxcompress.search.darts.relaxation import start_alphas as start_alphas
