"""Weight sharing: weights that take their values from a small table."""

from jaxcompress.cluster import embeddings as embeddings
from jaxcompress.cluster.codebook import Codebook as Codebook
from jaxcompress.cluster.hashed import Hashed as Hashed
from jaxcompress.cluster.hashing import HashedNets as HashedNets
from jaxcompress.cluster.hashing import hashed as hashed
from jaxcompress.cluster.kmeans import KMeans as KMeans
from jaxcompress.cluster.kmeans import kmeans as kmeans
from jaxcompress.cluster.product import Product as Product
from jaxcompress.cluster.product import product as product
from jaxcompress.cluster.product_codebook import ProductCodebook as ProductCodebook
