"""Ranges that clip nothing: up to the largest absolute value, or from the least to the greatest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from jaxcompress.quantize.formats import Format, Scaling
from jaxcompress.quantize.ranges.base import Range, Samples


@dataclasses.dataclass(frozen=True)
class AbsMax(Range):
    """Up to the largest absolute value; an asymmetric grid spans from the least to the greatest value instead."""

    name: ClassVar[str] = "absmax"

    def statistics(self, *, symmetric: bool = True) -> tuple[str, ...]:
        """``absmax``, or ``min`` and ``max`` for asymmetric grids."""
        return ("absmax",) if symmetric else ("min", "max")

    def of_samples(self, samples: Samples, format: Format) -> Scaling:
        """See `Range`."""
        return format.scaling(*samples.reach(symmetric=format.symmetric))

    def of_statistics(self, found: Mapping[str, Any], format: Format) -> Scaling:
        """See `Range`."""
        return format.scaling(-found["absmax"], found["absmax"]) if format.symmetric else _spanning(found, format)


@dataclasses.dataclass(frozen=True)
class MinMax(Range):
    """From the least to the greatest value; symmetric formats reach the one farther off on both sides."""

    name: ClassVar[str] = "minmax"

    def statistics(self, *, symmetric: bool = True) -> tuple[str, ...]:
        """``min`` and ``max``."""
        return ("min", "max")

    def of_samples(self, samples: Samples, format: Format) -> Scaling:
        """See `Range`."""
        return format.scaling(*samples.ends())

    def of_statistics(self, found: Mapping[str, Any], format: Format) -> Scaling:
        """See `Range`."""
        return _spanning(found, format)


def _spanning(found: Mapping[str, Any], format: Format) -> Scaling:
    return format.scaling(found["min"], found["max"])
