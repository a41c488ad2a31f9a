"""Weight sharing: weights that take their values from a small table."""

from jaxcompress.cluster import embeddings as embeddings
from jaxcompress.cluster.codebook import Codebook as Codebook
from jaxcompress.cluster.dkm import DKM as DKM
from jaxcompress.cluster.dkm import Snap as Snap
from jaxcompress.cluster.dkm import dkm as dkm
from jaxcompress.cluster.dkm import settle as settle
from jaxcompress.cluster.dkm import snap as snap
from jaxcompress.cluster.dkm import with_temperature as with_temperature
from jaxcompress.cluster.hashed import Hashed as Hashed
from jaxcompress.cluster.hashing import HashedNets as HashedNets
from jaxcompress.cluster.hashing import hashed as hashed
from jaxcompress.cluster.kmeans import KMeans as KMeans
from jaxcompress.cluster.kmeans import kmeans as kmeans
from jaxcompress.cluster.product import Product as Product
from jaxcompress.cluster.product import product as product
from jaxcompress.cluster.product_codebook import ProductCodebook as ProductCodebook
from jaxcompress.cluster.soft_codebook import SoftCodebook as SoftCodebook
