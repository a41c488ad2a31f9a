"""Zero-cost proxies of untrained networks, the parameter count beside them."""

from jaxcompress.search.proxies.flow import live_parameters as live_parameters
from jaxcompress.search.proxies.measure import Proxy as Proxy
from jaxcompress.search.proxies.measure import gradient_norm as gradient_norm
from jaxcompress.search.proxies.measure import jacobian_covariance as jacobian_covariance
from jaxcompress.search.proxies.measure import measure as measure
from jaxcompress.search.proxies.measure import nwot as nwot
from jaxcompress.search.proxies.measure import synflow as synflow
from jaxcompress.search.proxies.scores import gradient_norm_score as gradient_norm_score
from jaxcompress.search.proxies.scores import jacobian_covariance_score as jacobian_covariance_score
from jaxcompress.search.proxies.scores import nwot_score as nwot_score
