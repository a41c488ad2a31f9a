"""Ranges that follow the batches: an exponential moving average of their ends."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from jaxcompress.quantize.formats import Format, Scaling
from jaxcompress.quantize.ranges.base import Range, Samples


@dataclasses.dataclass(frozen=True)
class MovingAverage(Range):
    """Averages the least and the greatest value of every batch of activations, later batches counting more.

    The average starts with the first batch; each later one moves it: ``average = decay * average + (1 - decay) * end``.
    A batch is what `jaxcompress.observe` was given as one: all its rows, loop steps and devices together. Batches that
    did not reach the site are passed over. One outlier in one batch so widens the range by a part of its excess only.

    Attributes:
        decay: of the old average, from 0 (the last batch alone counts) to below 1.

    References:
        Jacob et al., 2018, section 3.1. https://arxiv.org/abs/1712.05877
    """

    decay: float = 0.9

    name: ClassVar[str] = "moving_average"

    def __post_init__(self) -> None:
        """Checks the option."""
        if not 0 <= self.decay < 1:
            raise ValueError(f"MovingAverage: decay must be at least 0 and below 1, got {self.decay!r}")

    def statistics(self, *, symmetric: bool = True) -> tuple[str, ...]:
        """``batch_ranges``."""
        return ("batch_ranges",)

    def of_samples(self, samples: Samples, format: Format) -> Scaling:
        """Refuses: an array has no batches."""
        raise ValueError(
            "ranges='moving_average' is for activations: weights come in no batches; try 'mse' or 'absmax'"
        )

    def of_statistics(self, found: Mapping[str, Any], format: Format) -> Scaling:
        """See `Range`."""
        low, high = (jnp.asarray(self.average(ends), jnp.float32) for ends in found["batch_ranges"])
        return format.scaling(low, high)

    def average(self, ends: np.ndarray) -> np.ndarray:
        """The average over the leading axis, of batches; entries that are not finite do not move it.

        Example:
            >>> float(MovingAverage(0.75).average(np.array([1.0, 5.0, np.inf, 0.0])))
            1.5
        """
        average = np.full(ends.shape[1:], np.nan)
        for end in np.asarray(ends, np.float64):
            moved = np.where(np.isnan(average), end, self.decay * average + (1 - self.decay) * end)
            average = np.where(np.isfinite(end), moved, average)
        return average
