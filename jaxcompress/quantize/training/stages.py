"""The recipe stages around training: what becomes fake-quantized before, and integers after."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jaxcompress.core.granularity import Granularity
from jaxcompress.quantize.training.convert import convert
from jaxcompress.quantize.training.prepare import prepare
from jaxcompress.quantize.training.spec import QAT, Activations, WeightMethod

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites


@dataclasses.dataclass(frozen=True)
class Prepare:
    """Recipe stage of `prepare`: the fields of `QAT`, and of its activations those that start without data.

    A stage of training follows, then `Convert`.

    Attributes:
        bits: as in `QAT`, and so those up to ``rescaled``.
        method: how weights are quantized.
        format: of ``ste``.
        symmetric: False: with a zero point or an offset.
        granularity: ``"channel"`` or ``"tensor"``.
        group_size: weights of an output channel that share a scale.
        ranges: of ``ste``.
        rescaled: of ``dorefa``.
        activation_bits: width of the activations' codes, as in `Activations`; None leaves them float.
        activation_method: ``"dynamic"``, ``"pact"`` or ``"dorefa"``.
        where: leaves to prepare: globs over paths.

    Raises:
        ValueError: as `QAT` and `Activations`.

    Example:
        >>> stages = [Prepare(bits=4), jc.train.Finetune(steps=500), Convert()]
        >>> jc.Recipe(stages).names
        ('quantize.Prepare', 'train.Finetune', 'quantize.Convert')
    """

    bits: int | Mapping[str, int] | None = None
    method: WeightMethod = "lsq"
    format: str = "int"
    symmetric: bool = True
    granularity: Granularity = "channel"
    group_size: int | None = None
    ranges: str = "absmax"
    rescaled: bool = False
    activation_bits: int | Mapping[str, int] | None = None
    activation_method: Literal["dynamic", "pact", "dorefa"] = "dynamic"
    where: str | Sequence[str] | None = None

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Checks the fields as `QAT` does."""
        if self.activation_method not in ("dynamic", "pact", "dorefa"):
            raise ValueError(
                f"Prepare: activation_method must be 'dynamic', 'pact' or 'dorefa', which start without data, got "
                f"{self.activation_method!r}"
            )
        self.spec()

    def spec(self) -> QAT:
        """The fields as a spec of `prepare`."""
        activations = None
        if self.activation_bits is not None:
            activations = Activations(self.activation_bits, self.activation_method)
        names = [field.name for field in dataclasses.fields(QAT) if field.name != "activations"]
        return QAT(**{name: getattr(self, name) for name in names}, activations=activations)

    def __call__(self, params: Any, *, sites: Sites | None = None) -> Any:
        """Applies `prepare`."""
        return prepare(params, self.spec(), sites=sites, where=self.where)


@dataclasses.dataclass(frozen=True)
class Convert:
    """Recipe stage of `convert`.

    Attributes:
        where: leaves to convert; by default all that are prepared.
    """

    where: str | Sequence[str] | None = None

    version: ClassVar[int] = 1

    def __call__(self, params: Any, *, sites: Sites | None = None) -> Any:
        """Applies `convert`."""
        del sites
        return convert(params, where=self.where)
