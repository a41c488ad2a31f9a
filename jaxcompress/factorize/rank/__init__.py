"""How a rank is chosen: rules that go where a factorization takes ``rank=``, and scans that return a dict of ranks."""

from jaxcompress.factorize.rank.budget import Budget as Budget
from jaxcompress.factorize.rank.budget import budget as budget
from jaxcompress.factorize.rank.candidate import Candidate as Candidate
from jaxcompress.factorize.rank.candidate import Spectrum as Spectrum
from jaxcompress.factorize.rank.candidate import check_saving as check_saving
from jaxcompress.factorize.rank.energy import Energy as Energy
from jaxcompress.factorize.rank.energy import energy as energy
from jaxcompress.factorize.rank.evbmf import EVBMF as EVBMF
from jaxcompress.factorize.rank.evbmf import evbmf as evbmf
from jaxcompress.factorize.rank.explained_variance import ExplainedVariance as ExplainedVariance
from jaxcompress.factorize.rank.explained_variance import explained_variance as explained_variance
from jaxcompress.factorize.rank.ranks import Rank as Rank
from jaxcompress.factorize.rank.ranks import ranks_of as ranks_of
from jaxcompress.factorize.rank.rule import RankRule as RankRule
from jaxcompress.factorize.rank.spectra import candidate_of as candidate_of
from jaxcompress.factorize.rank.spectra import weight_spectra as weight_spectra
