"""Ready-made search spaces: families of networks, their variables, and what each candidate costs."""

from jaxcompress.search.spaces.beside import beside as beside
from jaxcompress.search.spaces.cell_operations import DARTS as DARTS
from jaxcompress.search.spaces.cell_operations import ENAS as ENAS
from jaxcompress.search.spaces.cell_operations import NASNET as NASNET
from jaxcompress.search.spaces.costs import Cost as Cost
from jaxcompress.search.spaces.efficientnet import EfficientNet as EfficientNet
from jaxcompress.search.spaces.image_blocks import ImageBlocks as ImageBlocks
from jaxcompress.search.spaces.image_blocks_network import ImageBlocksNetwork as ImageBlocksNetwork
from jaxcompress.search.spaces.mobilenet import MobileNet as MobileNet
from jaxcompress.search.spaces.mobilenet import Stage as Stage
from jaxcompress.search.spaces.nas_bench_201 import NasBench201 as NasBench201
from jaxcompress.search.spaces.nasnet import NasNet as NasNet
from jaxcompress.search.spaces.text import Text as Text
from jaxcompress.search.spaces.text_network import TextNetwork as TextNetwork
from jaxcompress.search.spaces.training import augmented as augmented
from jaxcompress.search.spaces.training import learning_rate as learning_rate
from jaxcompress.search.spaces.training import smoothed as smoothed
from jaxcompress.search.spaces.training import training as training
