"""Grids of activations: int8 codes that stand for a range of reals, zero among them exactly."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Grid:
    """``real = (code - zero_point) * scale``, one for a tensor.

    Attributes:
        scale: positive.
        zero_point: the code of zero.
        smallest: smallest code.
        largest: largest code.

    References:
        Jacob et al., 2018, equation 1. https://arxiv.org/abs/1712.05877
    """

    scale: float
    zero_point: int
    smallest: int
    largest: int

    def codes(self, real: np.ndarray) -> np.ndarray:
        """The nearest codes, int8; infinities are the ends."""
        found = np.round(np.asarray(real, np.float64) / self.scale) + self.zero_point
        return np.clip(found, self.smallest, self.largest).astype(np.int8)

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest real."""
        ends = (self.smallest - self.zero_point), (self.largest - self.zero_point)
        return ends[0] * self.scale, ends[1] * self.scale
