"""Weight sharing: weights that take their values from a small table."""

from jaxcompress.cluster.codebook import Codebook as Codebook
