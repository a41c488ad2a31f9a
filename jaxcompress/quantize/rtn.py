"""Round-to-nearest quantization: the baseline that needs no data."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp

from jaxcompress.core.granularity import Granularity
from jaxcompress.core.leaf import CompressedArray
from jaxcompress.core.parts import Part, find_parts, require_finite, with_parts
from jaxcompress.core.paths import Where
from jaxcompress.quantize.formats import Format
from jaxcompress.quantize.ranges import Range, find_scaling
from jaxcompress.quantize.spec import Spec

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites


def rtn(
    params: Any,
    *,
    bits: int | Mapping[str, int] | None = None,
    format: str = "int",
    symmetric: bool = True,
    granularity: Granularity = "channel",
    group_size: int | None = None,
    ranges: str | Range = "absmax",
    where: Where = None,
    sites: Sites | None = None,
) -> Any:
    """Rounds weights to the nearest values of a number format, with one scale per output channel, group or layer.

    By default scales reach the largest absolute value of their channel or group, so that nothing is clipped. Zeros stay
    exactly zero in every format but integers of one bit and fitted levels. Stack axes (scanned layers, experts) keep
    scales of their own. Of a masked leaf the values are quantized, and scales fit those that are kept; of a low-rank
    leaf both factors.

    Args:
        params: tree of float arrays or leaves. Not changed.
        bits: 1 to 8, or a dict from globs over paths to that: the first glob that fits a path counts, paths that fit
            none stay as they are. None: what the format says, 8 for ``int``.
        format: ``int``, ``nf4``, ``fp8_e4m3``, ``fp8_e5m2``, ``fp4``, ``mxfp4``, ``mxfp8_e4m3``, ``mxfp8_e5m2`` or
            ``levels``, see `jaxcompress.quantize.formats`.
        symmetric: False gives ``int`` a zero point for each scale, for weights that lie off zero.
        granularity: ``"channel"``: a scale for each output channel, ``"tensor"``: one for each layer.
        group_size: number of weights of one output channel that share a scale, counted along the contracted axes in
            their order; it must divide them evenly. None: the whole channel, 32 weights in the formats of blocks (mx).
        ranges: what scales reach, a name or a range of `jaxcompress.quantize.ranges`: ``"mse"`` clips where that makes
            the squared error least.
        where: leaves to quantize: globs over paths or a predicate; by default those that ``sites`` show as contraction
            weights or embeddings, without ``sites`` the float leaves of two axes or more.
        sites: what `jaxcompress.sites` found. Without it only kernels of two axes are taken, read as (in, out).

    Returns:
        The tree with leaves that hold codes and scales, scales in float32 (float64 for float64 weights).

    Raises:
        ValueError: if ``bits`` or ``format`` is none of these or they do not go together, ``group_size`` does not fit a
            leaf, ``where`` or a glob fits nothing, the axes of a chosen leaf are not known, it is coded already, or
            holds NaN or infinity (seen only outside ``jit``).
        TypeError: if a chosen leaf is not float.

    Example:
        >>> packed = rtn({"w": jnp.array([[1.0, 0.5], [-7.0, 0.0]])}, bits=4)
        >>> packed["w"].qvalue.tolist(), packed["w"].scale.tolist()
        ([[1, 7], [-7, 0]], [[1.0, 0.071428...]])
    """
    spec = Spec(bits, format, symmetric, granularity, group_size, ranges)
    parts = find_parts(params, where=where, sites=sites, settings=bits, method="rtn")
    plans = [plan(part, spec, method="rtn") for part in parts]
    require_finite(parts, "rtn")
    leaves = [
        _round(part.array, part.support, scale_shape=shape, format=its_format, ranges=ranges)
        for part, (its_format, shape) in zip(parts, plans, strict=True)
    ]
    return with_parts(params, parts, leaves)


def round_to_nearest(
    x: jax.Array,
    scale_shape: Sequence[int],
    format: Format,
    *,
    ranges: str | Range = "absmax",
    support: jax.Array | None = None,
) -> CompressedArray:
    """Rounds one array: `rtn` of a leaf.

    Args:
        x: float array.
        scale_shape: shape of the scales: as many sizes as ``x`` has, each dividing its.
        format: of the codes, static (`jaxcompress.quantize.format_of`).
        ranges: what scales reach, static.
        support: bool array of the shape of ``x``: where False, entries become zero and no scale heeds them.

    Returns:
        The leaf that holds codes and scales.

    Example:
        >>> from jaxcompress.quantize.formats import format_of
        >>> leaf = round_to_nearest(jnp.array([[1.1, 6.0], [-2.0, 3.0]]), (2, 1), format_of("fp4"))
        >>> leaf.materialize().tolist()
        [[1.0, 6.0], [-2.0, 3.0]]
    """
    kept = x if support is None else jnp.where(support, x, jnp.zeros_like(x))
    scaling = find_scaling(kept, tuple(scale_shape), format, ranges, support=support)
    return format.leaf(format.encode(kept, scaling), scaling, x.dtype)


@functools.partial(jax.jit, static_argnames=("scale_shape", "format", "ranges"))
def _round(
    x: jax.Array,
    support: jax.Array | None,
    *,
    scale_shape: tuple[int, ...],
    format: Format,
    ranges: str | Range,
) -> CompressedArray:
    return round_to_nearest(x, scale_shape, format, ranges=ranges, support=support)


def plan(part: Part, spec: Spec, *, method: str) -> tuple[Format, tuple[int, ...]]:
    """The format of a part and the shape of its scales.

    Raises:
        ValueError: if the spec does not fit; names the path.
    """
    own = spec.at(part.path)
    shape = own.scale_shape(part.known_roles(method), part.array.shape, method=method, name=part.name)
    return own.format_of(method), shape


@dataclasses.dataclass(frozen=True)
class RTN:
    """Recipe stage of `rtn`, with the same fields."""

    bits: int | Mapping[str, int] | None = None
    format: str = "int"
    symmetric: bool = True
    granularity: Granularity = "channel"
    group_size: int | None = None
    ranges: str | Range = "absmax"
    where: str | Sequence[str] | None = None

    version: ClassVar[int] = 2

    def __call__(self, params: Any, *, sites: Sites | None = None) -> Any:
        """Applies `rtn`."""
        return rtn(params, sites=sites, **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})
