"""Weights of one bit: signs, alone (BinaryConnect) or times their mean magnitude (XNOR-Net)."""

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
from jaxcompress.quantize.packed import narrowed
from jaxcompress.solvers import grid

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites

Scale = Literal["mean", "one"]


def binary(
    params: Any,
    *,
    scale: Scale = "mean",
    granularity: Granularity = "channel",
    group_size: int | None = None,
    key: jax.Array | None = None,
    where: Where = None,
    sites: Sites | None = None,
) -> Any:
    """Replaces weights by their signs times scales, in one bit each.

    ``scale="mean"`` is XNOR-Net's: of all scales the mean magnitude of a filter makes the squared error least.
    ``scale="one"`` is BinaryConnect's, for networks trained with weights in [-1, 1] and a normalization behind each
    layer; with a ``key`` a weight ``w`` becomes +1 with the probability ``clip((w + 1) / 2, 0, 1)``. A weight of zero
    becomes positive. Entries that a mask drops count for no scale and stay zero.

    Args:
        params: tree of float arrays or leaves. Not changed.
        scale: ``"mean"`` or ``"one"``.
        granularity: ``"channel"``: a mean for each output channel, ``"tensor"``: for each layer.
        group_size: weights of one output channel that share a mean; None: all.
        key: rounds at random; with ``scale="one"``.
        where: leaves to quantize, as in `jaxcompress.quantize.rtn`.
        sites: what `jaxcompress.sites` found. Without it only kernels of two axes are taken, read as (in, out).

    Returns:
        The tree with `Quantized` leaves.

    Raises:
        ValueError: if ``scale``, ``granularity`` or ``group_size`` is out of range, a ``key`` meets ``scale="mean"``,
            ``where`` fits nothing, the axes of a chosen leaf are not known, it is coded already, or holds NaN or
            infinity (seen only outside ``jit``).
        TypeError: if a chosen leaf is not float.

    Example:
        >>> binary({"w": jnp.array([[1.0, -0.5], [-2.0, 0.0]])})["w"].materialize().tolist()
        [[1.5, -0.25], [-1.5, 0.25]]

    References:
        Courbariaux et al., 2015, equations 1 to 3. https://arxiv.org/abs/1511.00363
        Rastegari et al., 2016, equation 6. https://arxiv.org/abs/1603.05279
    """
    if scale not in ("mean", "one"):
        raise ValueError(f"binary: scale must be 'mean' or 'one', got {scale!r}")
    if key is not None and scale != "one":
        raise ValueError("binary: with a key signs are drawn at random, which needs scale='one'")
    parts = find_parts(params, where=where, sites=sites, method="binary")
    shapes = [
        scale_shape(
            part.array.shape,
            part.known_roles("binary"),
            granularity=granularity if scale == "mean" else "tensor",
            group_size=group_size if scale == "mean" else None,
            method="binary",
            name=part.name,
        )
        for part in parts
    ]
    require_finite(parts, "binary")
    keys = [None] * len(parts) if key is None else list(jax.random.split(key, len(parts)))
    leaves = [
        _leaf(part.array, part.support, own, shape=shape, scale=scale)
        for part, own, shape in zip(parts, keys, shapes, strict=True)
    ]
    return with_parts(params, parts, leaves)


def binarize(x: jax.Array, scale_shape: Sequence[int], *, support: jax.Array | None = None) -> tuple[Any, Any]:
    """Signs and mean magnitudes of one array: the ``b`` in -1, +1 and ``a`` for which ``|x - a b|^2`` is least.

    Args:
        x: float array.
        scale_shape: shape of the scales: as many sizes as ``x`` has, each dividing its.
        support: bool array of the shape of ``x``: where False, entries count for no mean.

    Returns:
        int8 codes, and scales in float32 (float64 for float64 arrays), 1 where all entries are zero.

    Example:
        >>> codes, scale = binarize(jnp.array([1.0, -3.0, 0.0, 5.0]), (2,))
        >>> codes.tolist(), scale.tolist()
        ([1, -1, 1, 1], [2.0, 2.5])
    """
    return signs(x), grid.or_one(mean_magnitude(x, scale_shape, support=support))


def signs(x: jax.Array, key: jax.Array | None = None) -> jax.Array:
    """-1 and +1 in int8: the sign, or drawn with the probability ``clip((x + 1) / 2, 0, 1)`` of +1.

    Example:
        >>> signs(jnp.array([0.5, 0.0, -0.1])).tolist(), signs(jnp.array([1.0, -1.0]), jax.random.key(0)).tolist()
        ([1, 1, -1], [1, -1])
    """
    if key is None:
        return jnp.where(x >= 0, 1, -1).astype(jnp.int8)
    likely = jnp.clip((x.astype(jnp.float32) + 1) / 2, 0, 1)
    return jnp.where(jax.random.uniform(key, x.shape, jnp.float32) < likely, 1, -1).astype(jnp.int8)


def mean_magnitude(x: jax.Array, scale_shape: Sequence[int], *, support: jax.Array | None = None) -> jax.Array:
    """The mean absolute value of each group, of the entries on the support; 0 where there are none.

    Example:
        >>> mean_magnitude(jnp.array([1.0, -3.0, 0.0, 5.0]), (2,)).tolist()
        [2.0, 2.5]
    """
    wide = jnp.abs(x.astype(grid.compute_dtype(x)))
    kept = jnp.ones_like(wide) if support is None else support.astype(wide.dtype)
    inside = tuple(range(1, 2 * x.ndim, 2))
    total, count = (grid.grouped(array, scale_shape).sum(inside) for array in (wide * kept, kept))
    return total / jnp.maximum(count, 1)


@functools.partial(jax.jit, static_argnames=("shape", "scale"))
def _leaf(
    x: jax.Array, support: jax.Array | None, key: jax.Array | None, *, shape: tuple[int, ...], scale: Scale
) -> Quantized:
    codes, means = binarize(x, shape, support=support)
    if scale == "one":
        codes, means = signs(x, key), jnp.ones_like(means)
    return Quantized(narrowed(codes, 1), means, x.dtype)


@dataclasses.dataclass(frozen=True)
class Binary:
    """Recipe stage of `binary`, with the same fields but ``key``."""

    scale: Scale = "mean"
    granularity: Granularity = "channel"
    group_size: int | None = None
    where: str | Sequence[str] | None = None

    version: ClassVar[int] = 1

    def __call__(self, params: Any, *, sites: Sites | None = None) -> Any:
        """Applies `binary`."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return binary(params, sites=sites, **fields)
