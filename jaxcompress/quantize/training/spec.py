"""What `prepare` puts into a tree, in one value."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from jaxcompress.core.granularity import Granularity
from jaxcompress.core.parts import setting_at
from jaxcompress.core.paths import matches
from jaxcompress.quantize.training.few_levels import WIDTHS

WeightMethod: TypeAlias = Literal[
    "ste", "lsq", "lsq+", "dorefa", "binary_connect", "xnor", "twn", "bitnet", "annealed", "on_grid"
]
InputMethod: TypeAlias = Literal["lsq", "lsq+", "pact", "dorefa", "fixed", "dynamic"]

WEIGHT_METHODS = ("ste", "lsq", "lsq+", "dorefa", "binary_connect", "xnor", "twn", "bitnet", "annealed", "on_grid")
INPUT_METHODS = ("lsq", "lsq+", "pact", "dorefa", "fixed", "dynamic")
_PER_LAYER = ("dorefa",)  # the paper's one range per layer


@dataclasses.dataclass(frozen=True)
class Activations:
    """How the data that meets the weights is quantized in training.

    | method | grid | what trains | start |
    | - | - | - | - |
    | ``lsq`` | from 0 on, or signed where the data is | the step | ``2 mean(abs(x)) / sqrt(Qp)``, from ``stats`` |
    | ``lsq+`` | with an offset | step and offset | the least squared error, from ``stats`` |
    | ``pact`` | ``[0, alpha]`` | alpha | the largest value in ``stats``, without them 10 |
    | ``dorefa`` | ``[0, 1]`` | nothing | |
    | ``fixed`` | with an offset | nothing | ``ranges``, from ``stats`` |
    | ``dynamic`` | signed, one for every row of data | nothing | none: every row is measured |

    ``stats`` hold all of it where they were observed with ``what="histogram"``; ``mean_abs``, ``min`` and ``max`` do
    for LSQ and PACT, and what `jaxcompress.quantize.ranges.required_statistics` names for ``fixed``.

    Attributes:
        bits: width of a code, 2 to 8, or a dict from globs over paths to that: what fits none stays float.
        method: one of the table.
        ranges: of ``fixed``: a name or a range of `jaxcompress.quantize.ranges`.
    """

    bits: int | Mapping[str, int] = 8
    method: InputMethod = "lsq"
    ranges: Any = "mse"

    def __post_init__(self) -> None:
        """Checks the method and the widths."""
        if self.method not in INPUT_METHODS:
            raise ValueError(f"Activations: method must be one of {', '.join(INPUT_METHODS)}, got {self.method!r}")
        _require_widths("Activations", self.bits)

    def bits_at(self, path: str) -> int | None:
        """The width at one leaf; None: its data stays float.

        Example:
            >>> Activations({"head/*": 8}).bits_at("head/kernel"), Activations({"head/*": 8}).bits_at("w")
            (8, None)
        """
        if isinstance(self.bits, Mapping) and not any(matches(path, glob) for glob in self.bits):
            return None
        return setting_at(self.bits, path)


@dataclasses.dataclass(frozen=True)
class QAT:
    """How weights, and the data that meets them, are quantized in training.

    | method | levels | scale | paper |
    | - | - | - | - |
    | ``ste`` | any ``format`` | from the weights, at every step (``ranges``) | Jacob 2018 |
    | ``lsq`` | ``-2**(bits-1) .. 2**(bits-1) - 1`` | learned | Esser 2020 |
    | ``lsq+`` | the same; with ``symmetric=False`` a learned offset | learned | Bhalgat 2020 |
    | ``dorefa`` | ``2**bits``, even, without zero, of the tanh | one; ``rescaled``: the largest | Zhou 2016 |
    | ``binary_connect``, ``xnor`` | -1, 1 | one; the mean ``abs(w)`` | Courbariaux 2015, Rastegari 2016 |
    | ``twn``, ``bitnet`` | -1, 0, 1 | from the mean ``abs(w)`` | Li 2016, Ma 2024 |
    | ``annealed`` | integers of a width that falls in training | from the weights | |
    | ``on_grid`` | integers, also between steps: for `jaxcompress.train.discrete` | a power of two, fixed | |

    Attributes:
        bits: width of a code, 4 by default; or a dict from globs over paths to widths: the first that fits a path
            counts, what fits none stays float. Binary and ternary methods know theirs. Of ``annealed`` the width at
            the start, up to 16.
        method: one of the table.
        format: of ``ste``, see `jaxcompress.quantize.formats`.
        symmetric: False: with a zero point (``ste``) or a learned offset (``lsq+``).
        granularity: ``"channel"`` (a scale for each output channel) or ``"tensor"``. DoReFa has one per layer.
        group_size: weights of an output channel that share a scale; None: all of them.
        ranges: of ``ste``: the name of a range of `jaxcompress.quantize.ranges`; what it clips gets no gradient.
        rescaled: of ``dorefa``, see `jaxcompress.quantize.training.dorefa.dorefa_weights`.
        activations: of the data; None leaves it float.

    Raises:
        ValueError: if a field is not one of the above, or does not go with the method.

    Example:
        >>> QAT(bits={"**/first/*": 8, "**": 2}, activations=Activations(bits=4, method="pact")).method
        'lsq'
    """

    bits: int | Mapping[str, int] | None = None
    method: WeightMethod = "lsq"
    format: str = "int"
    symmetric: bool = True
    granularity: Granularity = "channel"
    group_size: int | None = None
    ranges: str = "absmax"
    rescaled: bool = False
    activations: Activations | None = None

    def __post_init__(self) -> None:
        """Checks what can be checked without a tree."""
        if self.method not in WEIGHT_METHODS:
            raise ValueError(f"QAT: method must be one of {', '.join(WEIGHT_METHODS)}, got {self.method!r}")
        own = WIDTHS.get(self.method)
        if own is not None and self.bits not in (None, own):
            raise ValueError(
                f"QAT: method={self.method!r} has codes of {own} bit{'s' * (own > 1)}, got bits={self.bits!r}: leave "
                "it out, and choose leaves with where="
            )
        if own is None and self.bits is not None:
            lowest = 1 if self.method == "ste" else 2
            _require_widths("QAT", self.bits, lowest, 16 if self.method == "annealed" else 8)
        for name, default, methods in (
            ("format", "int", ("ste",)),
            ("symmetric", True, ("ste", "lsq+")),
            ("ranges", "absmax", ("ste",)),
            ("rescaled", False, ("dorefa",)),
        ):
            if getattr(self, name) != default and self.method not in methods:
                raise ValueError(
                    f"QAT: {name}={getattr(self, name)!r} is of method={' or '.join(map(repr, methods))}, not of "
                    f"{self.method!r}"
                )
        if self.format == "levels":
            raise ValueError("QAT: format='levels' has levels that are fitted once, not at every step: use another")
        if not isinstance(self.ranges, str):
            raise TypeError(f"QAT: ranges is kept in the leaves by name, got {self.ranges!r}")
        if self.method in _PER_LAYER and self.group_size is not None:
            raise ValueError(f"QAT: method={self.method!r} has one range per layer: leave group_size= out")

    @property
    def settings(self) -> Mapping[str, int] | None:
        """What selects leaves: the dict of widths."""
        return self.bits if isinstance(self.bits, Mapping) else None

    def bits_at(self, path: str) -> int | None:
        """The width at one leaf, None if the format says it."""
        own = WIDTHS.get(self.method)
        if own is not None:
            return own
        if self.bits is None:
            return None if self.format != "int" else 4
        return setting_at(self.bits, path)

    @property
    def layer_wide(self) -> bool:
        """True if a layer has one scale whatever ``granularity`` says."""
        return self.method in _PER_LAYER


def _require_widths(name: str, bits: int | Mapping[str, int], lowest: int = 2, highest: int = 8) -> None:
    for width in bits.values() if isinstance(bits, Mapping) else (bits,):
        if isinstance(width, bool) or not isinstance(width, int) or not lowest <= width <= highest:
            raise ValueError(f"{name}: bits must be integers from {lowest} to {highest}, got {width!r}")
