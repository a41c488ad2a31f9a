"""Recipes of stages, carried out, measured and resumable."""

from jaxcompress.pipeline.compress import compress as compress
from jaxcompress.pipeline.recipe import Recipe as Recipe
from jaxcompress.pipeline.result import Progress as Progress
from jaxcompress.pipeline.result import Result as Result
from jaxcompress.pipeline.result import StageRecord as StageRecord
