"""Big tables of rows in less space: leaves that stand for a (rows, dim) table and decode only the rows taken."""

from jaxcompress.cluster.embeddings.adaptive_embedding import AdaptiveEmbedding as AdaptiveEmbedding
from jaxcompress.cluster.embeddings.adaptive_embedding import adaptive_embedding as adaptive_embedding
from jaxcompress.cluster.embeddings.banded_rows import BandedRows as BandedRows
from jaxcompress.cluster.embeddings.composed_rows import ComposedRows as ComposedRows
from jaxcompress.cluster.embeddings.hash_embedding import HashEmbedding as HashEmbedding
from jaxcompress.cluster.embeddings.hash_embedding import hash_embedding as hash_embedding
from jaxcompress.cluster.embeddings.hashed_rows import HashedRows as HashedRows
from jaxcompress.cluster.embeddings.product_codes import ProductCodes as ProductCodes
from jaxcompress.cluster.embeddings.product_codes import product_codes as product_codes
from jaxcompress.cluster.embeddings.quotient_remainder import QuotientRemainder as QuotientRemainder
from jaxcompress.cluster.embeddings.quotient_remainder import quotient_remainder as quotient_remainder
from jaxcompress.cluster.embeddings.subword_embedding import SubwordEmbedding as SubwordEmbedding
from jaxcompress.cluster.embeddings.subword_embedding import subword_embedding as subword_embedding
from jaxcompress.cluster.embeddings.subword_rows import SubwordRows as SubwordRows
from jaxcompress.cluster.embeddings.tables import row_frequencies as row_frequencies
