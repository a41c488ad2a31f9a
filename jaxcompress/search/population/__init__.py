"""Training of many small candidates by one compiled program: masked to the largest, or grouped by shape."""

from jaxcompress.search.population.grouping import Group as Group
from jaxcompress.search.population.grouping import Grouping as Grouping
from jaxcompress.search.population.grouping import group_by_shape as group_by_shape
from jaxcompress.search.population.grouping import in_groups as in_groups
from jaxcompress.search.population.grouping import ungrouped as ungrouped
from jaxcompress.search.population.masked_cnn import MaskedCNN as MaskedCNN
from jaxcompress.search.population.masked_mlp import MaskedMLP as MaskedMLP
from jaxcompress.search.population.population import Evaluation as Evaluation
from jaxcompress.search.population.population import train_population as train_population
from jaxcompress.search.population.training import Trained as Trained
from jaxcompress.search.population.training import Training as Training
from jaxcompress.search.population.training import from_candidate as from_candidate
from jaxcompress.search.population.training import steps_of as steps_of
