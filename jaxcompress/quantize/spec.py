"""What a method makes of weights, in one value: format, width, granularity and ranges."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxcompress.core.granularity import AxisRoles, Granularity, scale_shape
from jaxcompress.core.paths import matches
from jaxcompress.quantize.formats import Format, format_of


@dataclasses.dataclass(frozen=True)
class Spec:
    """How weights are quantized: the keywords that the methods of `jaxcompress.quantize` share.

    Attributes:
        bits: width of a code, or a dict from globs over paths to that: the first glob that fits a path counts. None:
            what the format says, 8 for ``int``.
        format: see `jaxcompress.quantize.formats`.
        symmetric: of ``int``: no zero point.
        granularity: ``"channel"``: a scale for each output channel, ``"tensor"``: one for each layer.
        group_size: weights of one output channel that share a scale; None: all of them (32 in formats of blocks).
        ranges: what the scales reach, a name or a range of `jaxcompress.quantize.ranges`.

    Example:
        >>> spec = Spec(bits={"head/*": 8, "**": 4}, group_size=32)
        >>> spec.at("head/kernel").bits, spec.at("body/kernel").format_of().largest
        (8, 7.0)
    """

    bits: int | Mapping[str, int] | None = None
    format: str = "int"
    symmetric: bool = True
    granularity: Granularity = "channel"
    group_size: int | None = None
    ranges: Any = "absmax"

    def at(self, path: str) -> Spec:
        """The spec of one leaf, with a plain width.

        Raises:
            ValueError: if ``bits`` is a dict of which no glob fits.
        """
        if not isinstance(self.bits, Mapping):
            return self
        for glob, bits in self.bits.items():
            if matches(path, glob):
                return dataclasses.replace(self, bits=bits)
        raise ValueError(f"no glob of bits={dict(self.bits)} fits {path!r}")

    def format_of(self, method: str = "quantize") -> Format:
        """The number format.

        Raises:
            ValueError: as `jaxcompress.quantize.formats.format_of`, or if ``bits`` is a dict (see `at`).
        """
        if isinstance(self.bits, Mapping):
            raise ValueError(f"{method}: bits is a dict; take the spec of a leaf with spec.at(path)")
        return format_of(self.format, self.bits, self.symmetric, method=method)

    def scale_shape(
        self, roles: AxisRoles, shape: Sequence[int], *, method: str = "quantize", name: str = ""
    ) -> tuple[int, ...]:
        """The shape of the scales of a weight whose axes have these roles.

        Raises:
            ValueError: as `jaxcompress.core.granularity.scale_shape`.
        """
        block = None if self.granularity == "tensor" else self.format_of(method).block
        blocks = self.group_size is None and block is not None
        return scale_shape(
            shape,
            roles,
            granularity=self.granularity,
            group_size=block if blocks else self.group_size,
            method=f"{method}: format={self.format!r} has blocks" if blocks else method,
            name=name,
        )
