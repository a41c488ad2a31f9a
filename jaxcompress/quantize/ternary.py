"""Weights in -1, 0, +1 times scales: TWN's threshold and optimal scale, or BitNet's rounding by the mean magnitude."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from jaxcompress.core.granularity import Granularity, scale_shape
from jaxcompress.core.parts import find_parts, require_finite, with_parts
from jaxcompress.core.paths import Where
from jaxcompress.quantize.affine import Quantized
from jaxcompress.quantize.binary import mean_magnitude
from jaxcompress.quantize.packed import narrowed
from jaxcompress.solvers import grid

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites

Rule = Literal["twn", "absmean"]
RULES = ("twn", "absmean")
THRESHOLD = 0.7
"""Of the mean magnitude: below it TWN sets weights to zero."""


def ternary(
    params: Any,
    *,
    rule: Rule = "twn",
    granularity: Granularity = "channel",
    group_size: int | None = None,
    where: Where = None,
    sites: Sites | None = None,
) -> Any:
    """Replaces weights by -1, 0 or +1 times scales, in two bits each.

    ``rule="twn"`` sets weights below 0.7 times the mean magnitude to zero, and scales the others by their own mean,
    which makes the squared error least for these signs. ``rule="absmean"`` is that of BitNet b1.58: weights over their
    mean magnitude, rounded and clipped to [-1, 1]; BitNet has ``granularity="tensor"``, and trains with it. Entries
    that a mask drops count for no mean and stay zero.

    Args:
        params: tree of float arrays or leaves. Not changed.
        rule: ``"twn"`` or ``"absmean"``.
        granularity: ``"channel"``: a scale for each output channel, ``"tensor"``: one for each layer.
        group_size: weights of one output channel that share a scale; None: all.
        where: leaves to quantize, as in `jaxcompress.quantize.rtn`.
        sites: what `jaxcompress.sites` found. Without it only kernels of two axes are taken, read as (in, out).

    Returns:
        The tree with `Quantized` leaves.

    Raises:
        ValueError: if ``rule``, ``granularity`` or ``group_size`` is out of range, ``where`` fits nothing, the axes of
            a chosen leaf are not known, it is coded already, or holds NaN or infinity (seen only outside ``jit``).
        TypeError: if a chosen leaf is not float.

    Example:
        >>> ternary({"w": jnp.array([[1.0], [-3.0], [0.5], [0.0]])})["w"].materialize().tolist()
        [[2.0], [-2.0], [0.0], [0.0]]

    References:
        Li et al., 2016, equations 4 to 6. https://arxiv.org/abs/1605.04711
        Ma et al., 2024, equations 1 to 3. https://arxiv.org/abs/2402.17764
    """
    if rule not in RULES:
        raise ValueError(f"ternary: rule must be 'twn' or 'absmean', got {rule!r}")
    parts = find_parts(params, where=where, sites=sites, method="ternary")
    shapes = [
        scale_shape(
            part.array.shape,
            part.known_roles("ternary"),
            granularity=granularity,
            group_size=group_size,
            method="ternary",
            name=part.name,
        )
        for part in parts
    ]
    require_finite(parts, "ternary")
    leaves = [
        _leaf(part.array, part.support, shape=shape, rule=rule) for part, shape in zip(parts, shapes, strict=True)
    ]
    return with_parts(params, parts, leaves)


def ternarize(
    x: jax.Array, scale_shape: Sequence[int], *, rule: Rule = "twn", support: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Codes in -1, 0, +1 and scales of one array.

    Args:
        x: float array.
        scale_shape: shape of the scales: as many sizes as ``x`` has, each dividing its.
        rule: as in `ternary`.
        support: bool array of the shape of ``x``: where False, codes are zero and count for no mean.

    Returns:
        int8 codes, and scales in float32 (float64 for float64 arrays), 1 where all entries are zero.

    Example:
        >>> codes, scale = ternarize(jnp.array([1.0, -3.0, 0.5, 0.0]), (1,), rule="absmean")
        >>> codes.tolist(), scale.tolist()
        ([1, -1, 0, 0], [1.125])
    """
    kept = x if support is None else jnp.where(support, x, jnp.zeros_like(x))
    mean = mean_magnitude(kept, scale_shape, support=support)
    if rule == "absmean":
        scale = grid.or_one(mean)
        return grid.quantize(kept, scale, bits=2).astype(jnp.int8), scale
    threshold = grid.spread(mean * THRESHOLD, x.shape)
    large = jnp.abs(kept.astype(mean.dtype)) > threshold
    codes = jnp.where(large, jnp.sign(kept), jnp.zeros_like(kept)).astype(jnp.int8)
    return codes, grid.or_one(mean_magnitude(kept, scale_shape, support=large))


@functools.partial(jax.jit, static_argnames=("shape", "rule"))
def _leaf(x: jax.Array, support: jax.Array | None, *, shape: tuple[int, ...], rule: Rule) -> Quantized:
    codes, scale = ternarize(x, shape, rule=rule, support=support)
    return Quantized(narrowed(codes, 2), scale, x.dtype)


@dataclasses.dataclass(frozen=True)
class Ternary:
    """Recipe stage of `ternary`, with the same fields."""

    rule: Rule = "twn"
    granularity: Granularity = "channel"
    group_size: int | None = None
    where: str | Sequence[str] | None = None

    version: ClassVar[int] = 1

    def __call__(self, params: Any, *, sites: Sites | None = None) -> Any:
        """Applies `ternary`."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return ternary(params, sites=sites, **fields)
