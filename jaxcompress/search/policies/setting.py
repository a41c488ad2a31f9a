"""What may become of a weight, and of a group of channels: the settings that a policy chooses among."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from jaxcompress.core.granularity import GRANULARITIES, Granularity


@dataclasses.dataclass(frozen=True)
class Setting:
    """What becomes of one weight, in this order: factorized, pruned, then rounded or clustered.

    What is left at its default is not done; ``Setting()`` leaves the weight as it is.

    Attributes:
        bits: width of an integer code, 1 to 8.
        sparsity: fraction of the entries that are dropped, in ``[0, 1)``; of the factors, where there is a rank.
        rank: an integer, or a fraction in ``(0, 1]`` of the largest rank that saves something.
        levels: size of a codebook, 2 to 65536; not together with ``bits``.
        group_size: weights of an output channel that share a scale; None: all of them.
        granularity: ``"channel"`` or ``"tensor"``: which weights share a scale, or a codebook where there are levels.
            None: channels for scales, the tensor for codebooks.

    Raises:
        ValueError: if a field is out of range, or bits and levels are both given.

    Example:
        >>> print(Setting(bits=4, sparsity=0.5), Setting(rank=0.25), Setting())
        50 % sparse, 4 bits rank 0.25 as it is
    """

    bits: int | None = None
    sparsity: float = 0.0
    rank: int | float | None = None
    levels: int | None = None
    group_size: int | None = None
    granularity: Granularity | None = None

    def __post_init__(self) -> None:
        """Checks the fields."""
        if self.bits is not None and self.levels is not None:
            raise ValueError(f"Setting: bits={self.bits} and levels={self.levels} exclude each other: give one of them")
        _require_integer("bits", self.bits, 1, 8)
        _require_integer("levels", self.levels, 2, 65536)
        _require_integer("group_size", self.group_size, 1, 1 << 31)
        if not _is_number(self.sparsity) or not 0 <= self.sparsity < 1:
            raise ValueError(f"Setting: sparsity must be in [0, 1), got {self.sparsity!r}")
        whole = isinstance(self.rank, int) and not isinstance(self.rank, bool)
        if self.rank is not None and not (_is_number(self.rank) and (self.rank >= 1 if whole else 0 < self.rank <= 1)):
            raise ValueError(f"Setting: rank must be a positive integer or a fraction in (0, 1], got {self.rank!r}")
        if self.granularity not in (None, *GRANULARITIES):
            raise ValueError(f"Setting: granularity must be one of {GRANULARITIES}, got {self.granularity!r}")

    @property
    def nothing(self) -> bool:
        """True if the weight stays as it is."""
        return self.bits is None and self.levels is None and self.rank is None and self.sparsity == 0

    def __str__(self) -> str:
        parts = []
        if self.rank is not None:
            parts.append(f"rank {self.rank:g}")
        if self.sparsity:
            parts.append(f"{100 * self.sparsity:g} % sparse")
        if self.bits is not None:
            parts.append(f"{self.bits} bits")
        if self.levels is not None:
            parts.append(f"{self.levels} levels")
        if parts and self.group_size is not None:
            parts.append(f"groups of {self.group_size}")
        if parts and self.granularity is not None:
            parts.append(f"per {self.granularity}")
        return ", ".join(parts) or "as it is"


@dataclasses.dataclass(frozen=True)
class Channels:
    """How many units of a group stay: channels, hidden units, heads, whatever `jaxcompress.groups` found.

    Attributes:
        kept: the fraction that stays, in ``(0, 1]``; at least one unit does.
        round_to: counts are rounded up to multiples of this.

    Raises:
        ValueError: if a field is out of range.

    Example:
        >>> Channels(0.5).count(16), Channels(0.4, round_to=8).count(16), str(Channels(0.5))
        (8, 8, '50 % of the units')
    """

    kept: float
    round_to: int = 1

    def __post_init__(self) -> None:
        """Checks the fields."""
        if not _is_number(self.kept) or not 0 < self.kept <= 1:
            raise ValueError(f"Channels: kept must be a fraction in (0, 1], got {self.kept!r}")
        _require_integer("round_to", self.round_to, 1, 1 << 31, "Channels")

    def count(self, size: int) -> int:
        """How many of ``size`` units stay."""
        least = max(1, round(self.kept * size))
        return min(size, -(-least // self.round_to) * self.round_to)

    def __str__(self) -> str:
        return f"{100 * self.kept:g} % of the units"


def settings(
    *,
    bits: Sequence[int | None] = (None,),
    sparsity: Sequence[float] = (0.0,),
    rank: Sequence[int | float | None] = (None,),
    levels: Sequence[int | None] = (None,),
    group_size: int | None = None,
    granularity: Granularity | None = None,
) -> tuple[Setting, ...]:
    """Every combination of some values: what may become of a weight, jointly.

    Args:
        bits: as in `Setting`; combinations with ``levels`` are left out.
        sparsity: likewise.
        rank: likewise.
        levels: likewise.
        group_size: of all of them.
        granularity: of all of them.

    Example:
        >>> [str(one) for one in settings(bits=(2, 4), sparsity=(0, 0.5))]
        ['2 bits', '50 % sparse, 2 bits', '4 bits', '50 % sparse, 4 bits']
    """
    found = [
        Setting(b, s, r, n, group_size, granularity)
        for b, n, r, s in itertools.product(bits, levels, rank, sparsity)
        if b is None or n is None
    ]
    return tuple(dict.fromkeys(found))


def setting_of(given: Any) -> Setting | Channels:
    """A setting as it is, or made of a dict: ``{"bits": 4}``, ``{"kept": 0.5}``.

    Raises:
        TypeError: if it is neither.
    """
    if isinstance(given, Setting | Channels):
        return given
    if isinstance(given, Mapping):
        kind = Channels if "kept" in given else Setting
        names = {field.name for field in dataclasses.fields(kind)}
        if unknown := sorted(set(given) - names):
            raise TypeError(f"choices: {unknown} are no fields of a {kind.__name__}, which has {sorted(names)}")
        return kind(**given)
    raise TypeError(f"choices: a setting is a Setting, a Channels or a dict of their fields, got {given!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _require_integer(name: str, value: Any, least: int, most: int, owner: str = "Setting") -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most):
        raise ValueError(f"{owner}: {name} must be an integer from {least} to {most}, got {value!r}")
