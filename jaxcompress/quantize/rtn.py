"""Round-to-nearest quantization: the baseline that needs no data."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import jax

from jaxcompress.core.parts import Part, find_parts, require_finite, setting_at, with_parts
from jaxcompress.core.paths import Where
from jaxcompress.quantize.affine import Quantized
from jaxcompress.solvers.grid import absmax_scale, quantize

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites


def rtn(
    params: Any,
    *,
    bits: int | Mapping[str, int],
    group_size: int | None = None,
    where: Where = None,
    sites: Sites | None = None,
) -> Any:
    """Rounds weights to symmetric int8 or int4, with one scale per output channel or group.

    The scale reaches the largest absolute value of its channel or group, so that nothing is clipped; zeros stay exactly
    zero. Stack axes (scanned layers, experts) keep scales of their own. Of a masked leaf the values are quantized, of a
    low-rank leaf both factors.

    Args:
        params: tree of float arrays or leaves. Not changed.
        bits: 8 or 4, or a dict from globs over paths to that: the first glob that fits a path counts, paths that fit
            none stay as they are.
        group_size: number of weights of one output channel that share a scale, counted along the contracted axes in
            their order; it must divide them evenly. None: the whole channel.
        where: leaves to quantize: globs over paths or a predicate; by default those that ``sites`` show as contraction
            weights or embeddings, without ``sites`` the float leaves of two axes or more.
        sites: what `jaxcompress.sites` found. Without it only kernels of two axes are taken, read as (in, out).

    Returns:
        The tree with `Quantized` leaves, scales in float32 (float64 for float64 weights).

    Raises:
        ValueError: if ``bits`` is not 8 or 4, ``group_size`` does not fit a leaf, ``where`` or a glob fits nothing, the
            axes of a chosen leaf are not known, it is coded already, or holds NaN or infinity (seen only outside
            ``jit``).
        TypeError: if a chosen leaf is not float.

    Example:
        >>> packed = rtn({"w": jnp.array([[1.0, 0.5], [-7.0, 0.0]])}, bits=4)
        >>> packed["w"].qvalue.tolist(), packed["w"].scale.tolist()
        ([[1, 7], [-7, 0]], [[1.0, 0.071428...]])
    """
    parts = find_parts(params, where=where, sites=sites, settings=bits, method="rtn")
    plans = [(_scale_shape(part, group_size), _checked_bits(setting_at(bits, part.path))) for part in parts]
    require_finite(parts, "rtn")
    groups: dict[Any, list[int]] = {}
    for i, (part, plan) in enumerate(zip(parts, plans, strict=True)):
        groups.setdefault((part.array.shape, part.array.dtype, *plan), []).append(i)
    leaves: dict[int, Quantized] = {}
    for (_, dtype, scale_shape, width), members in groups.items():
        rounded = _round([parts[i].array for i in members], scale_shape=scale_shape, bits=width)
        for i, (qvalue, scale) in zip(members, rounded, strict=True):
            leaves[i] = Quantized(qvalue, scale, dtype)
    return with_parts(params, parts, [leaves[i] for i in range(len(parts))])


@dataclasses.dataclass(frozen=True)
class RTN:
    """Recipe stage of `rtn`, with the same fields."""

    bits: int | Mapping[str, int]
    group_size: int | None = None
    where: str | Sequence[str] | None = None

    version: ClassVar[int] = 1

    def __call__(self, params: Any, *, sites: Sites | None = None) -> Any:
        """Applies `rtn`."""
        return rtn(params, bits=self.bits, group_size=self.group_size, where=self.where, sites=sites)


@functools.partial(jax.jit, static_argnames=("scale_shape", "bits"))
def _round(
    arrays: Sequence[jax.Array], *, scale_shape: tuple[int, ...], bits: int
) -> list[tuple[jax.Array, jax.Array]]:
    scales = [absmax_scale(array, scale_shape, bits=bits) for array in arrays]
    return [(quantize(array, scale, bits=bits), scale) for array, scale in zip(arrays, scales, strict=True)]


def _scale_shape(part: Part, group_size: int | None) -> tuple[int, ...]:
    """Full size everywhere, 1 along the contracted axes, or the number of groups there."""
    shape, contracting = list(part.array.shape), part.known_roles("rtn").contracting
    remaining = math.prod(shape[axis] for axis in contracting) if group_size is None else group_size
    for axis in reversed(contracting):
        size = shape[axis]
        within = min(remaining, size)  # of one group, along this axis
        if within < 1 or size % within or remaining % within:
            raise ValueError(
                f"rtn: group_size={group_size} does not divide the contracted axes of {part.name!r} evenly "
                f"(shape {part.array.shape}, contracted {contracting})"
            )
        shape[axis], remaining = size // within, remaining // within
    if remaining != 1:
        channel = math.prod(part.array.shape[axis] for axis in contracting)
        raise ValueError(
            f"rtn: group_size={group_size} is more than the {channel} weights of an output channel of {part.name!r}: "
            "use group_size=None for one scale per channel"
        )
    return tuple(shape)


def _checked_bits(bits: int) -> int:
    if isinstance(bits, bool) or bits not in (4, 8):
        raise ValueError(f"rtn: bits must be 8 or 4, got {bits!r}")
    return bits
