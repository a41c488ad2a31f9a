"""Separable filters: the kernel of a convolution becomes one along some spatial axes and one along the others."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp

from jaxcompress.core.leaf import is_compressed
from jaxcompress.core.parts import Part, find_parts, require_finite, setting_at, with_parts
from jaxcompress.core.paths import Where
from jaxcompress.factorize.matrix import Matrix
from jaxcompress.factorize.rank import Rank, candidate_of, ranks_of, weight_spectra
from jaxcompress.factorize.rank.ranks import checked
from jaxcompress.factorize.separable import Separable
from jaxcompress.factorize.svd import svd_factors
from jaxcompress.factorize.tucker import has_own_axes

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites


def separable_filters(
    w: jax.Array,
    *,
    rank: int,
    first_axes: tuple[int, ...] = (0,),
    second_axes: tuple[int, ...] = (1,),
    feature: int = 2,
    out: int = 3,
) -> tuple[jax.Array, jax.Array]:
    """The two kernels, each along some of the spatial axes, whose product is closest to a kernel.

    The singular values are shared evenly, so that both have the same scale.

    Args:
        w: kernel ``[..., axes]``, finite; the axes below count from the first of its own.
        rank: features between the two, static.
        first_axes: spatial axes of the first kernel.
        second_axes: the other spatial axes.
        feature: axis of the input features.
        out: axis of the output features.

    Returns:
        Fields of a `Separable` leaf: the kernel's shape with size 1 along the other's axes and ``rank`` along ``out``
        of the first, ``feature`` of the second.

    Raises:
        ValueError: if ``rank`` is out of range.

    Example:
        >>> first, second = separable_filters(jnp.ones((3, 5, 4, 8)), rank=2)
        >>> first.shape, second.shape
        ((3, 1, 4, 2), (1, 5, 2, 8))
    """
    lead = w.ndim - len(first_axes) - len(second_axes) - 2
    order = (*first_axes, feature, *second_axes, out)
    turned = jnp.transpose(w, (*range(lead), *(lead + axis for axis in order)))
    rows, cols = turned.shape[lead : lead + len(first_axes) + 1], turned.shape[lead + len(first_axes) + 1 :]
    stack = turned.shape[:lead]
    u, v = svd_factors(turned.reshape(*stack, math.prod(rows), math.prod(cols)), rank=rank)
    return (
        _laid_out(u.reshape(*stack, *rows, rank), (*first_axes, feature, out), second_axes),
        _laid_out(v.reshape(*stack, rank, *cols), (feature, *second_axes, out), first_axes),
    )


def spatial_svd(
    params: Any,
    *,
    rank: Rank,
    axis: int | Sequence[int] = 0,
    where: Where = None,
    sites: Sites | None = None,
) -> Any:
    """Replaces kernels of convolutions along two or more axes by two kernels, each along some of them.

    ``W[h, w, i, o] ~ sum_r first[h, i, r] second[w, r, o]``, the best of its rank: the singular value decomposition of
    the kernel read as a matrix from (height, input features) to (width, output features). Kernels of a stack are
    factorized one by one, at one rank. Of a masked leaf the values are factorized and the mask stays.

    Args:
        params: tree of float arrays or leaves. Not changed.
        rank: features between the two convolutions: an integer, a fraction in ``(0, 1)`` of the sum of squares to hold,
            a rule, or a dict from globs over paths to any of these; see `svd`.
        axis: which spatial axes of a kernel the first convolution slides along, counted in the order in which the
            kernel holds them; the second slides along the others. Which is better depends on the kernel.
        where: kernels to factorize: globs over paths or a predicate; by default all that ``sites`` show as kernels of
            two spatial axes or more.
        sites: what `jaxcompress.sites` found: which axes are spatial is known from it alone.

    Returns:
        The tree with `Separable` leaves.

    Raises:
        ValueError: if the rank of a leaf saves nothing (the break-even is named) or is out of range, a chosen leaf is
            no kernel with two spatial axes, one of input and one of output features, its stack axes do not lead,
            ``axis`` names none or all of its spatial axes, ``where`` or a glob fits nothing, a leaf is coded or
            factorized already, or holds NaN or infinity (seen only outside ``jit``).
        TypeError: if a chosen leaf is not float, or ranks are asked for under ``jit`` that need arrays.

    Example:
        >>> fn = lambda p, x: jax.lax.conv(x, p["w"], (1, 1), "SAME")  # (batch, in, height, width), (out, in, h, w)
        >>> params = {"w": jnp.ones((8, 4, 3, 3))}
        >>> small = spatial_svd(params, rank=1, sites=jc.sites(fn, params, jnp.ones((1, 4, 5, 5))))
        >>> small["w"].first.shape, small["w"].second.shape
        ((1, 4, 3, 1), (8, 1, 1, 3))

    References:
        Jaderberg, Vedaldi and Zisserman, 2014. Speeding up convolutional neural networks with low rank expansions,
        scheme 2. https://arxiv.org/abs/1405.3866
    """
    found = find_parts(params, where=where, sites=sites, settings=rank, method="spatial_svd", whole=has_own_axes)
    if where is None and sites is not None:
        found = [part for part in found if part.roles is not None and len(part.roles.spatial) >= 2]
        if not found:
            raise ValueError("spatial_svd: sites show no convolution along two axes or more: there is nothing to split")
    parts = [part for part in found if not is_compressed(part.array)]
    if len(parts) < len(found):
        part = next(part for part in found if is_compressed(part.array))
        raise ValueError(
            f"spatial_svd: {part.name!r} is compressed already: materialize it first (jc.materialize), or leave it out "
            "with where="
        )
    splits = [_split(part, axis) for part in parts]
    turned = [_turned(part, split) for part, split in zip(parts, splits, strict=True)]
    matrices = [split.matrix(part) for part, split in zip(parts, splits, strict=True)]
    candidates = [candidate_of(part, matrix, sites) for part, matrix in zip(parts, matrices, strict=True)]
    for candidate in candidates:
        checked(setting_at(rank, candidate.path), candidate.name, "spatial_svd")
    require_finite(parts, "spatial_svd")
    ranks = ranks_of(rank, candidates, functools.partial(weight_spectra, turned, matrices), method="spatial_svd")
    groups: dict[Any, list[int]] = {}
    for i, count in enumerate(ranks):
        if count is not None:
            groups.setdefault((parts[i].array.dtype, parts[i].array.shape, splits[i], count), []).append(i)
    leaves: list[Any] = [part.array for part in parts]
    for (_, _, split, count), members in groups.items():
        arrays: list[Any] = [parts[i].array for i in members]
        kernels = _kernels(arrays, split=split, rank=count)
        for i, (first, second) in zip(members, kernels, strict=True):
            leaves[i] = Separable.create(first, second, split.first, split.second, split.feature, split.out)
    return with_parts(params, parts, leaves)


@dataclasses.dataclass(frozen=True)
class SpatialSVD:
    """Recipe stage of `spatial_svd`, with the same fields."""

    rank: Rank
    axis: int | Sequence[int] = 0
    where: str | Sequence[str] | None = None

    version: ClassVar[int] = 1

    def __call__(self, params: Any, *, sites: Sites | None = None) -> Any:
        """Applies `spatial_svd`."""
        return spatial_svd(params, rank=self.rank, axis=self.axis, where=self.where, sites=sites)


@dataclasses.dataclass(frozen=True)
class _Split:
    """Which axes of a kernel, counted after the stack, go where."""

    stack: int
    first: tuple[int, ...]
    second: tuple[int, ...]
    feature: int
    out: int

    def matrix(self, part: Part) -> Matrix:
        """The kernel as a matrix once its axes are (first, feature, second, out)."""
        shape = part.array.shape
        rows, cols = (
            tuple(shape[self.stack + axis] for axis in axes)
            for axes in ((*self.first, self.feature), (*self.second, self.out))
        )
        return Matrix(tuple(shape[: self.stack]), rows, cols)


def _split(part: Part, axis: int | Sequence[int]) -> _Split:
    roles = part.known_roles("spatial_svd")
    stack = len(roles.stack)
    features = [axis for axis in roles.contracting if axis not in roles.spatial]
    if len(roles.spatial) < 2 or len(features) != 1 or len(roles.output) != 1:
        raise ValueError(
            f"spatial_svd: {part.name!r} (shape {part.array.shape}) is no kernel of a convolution along two axes or "
            f"more (it slides along {roles.spatial}), from one axis {tuple(features)} to one axis {roles.output}: "
            "leave it out of where=, or use jc.factorize.svd or jc.factorize.tucker"
        )
    if roles.stack != tuple(range(stack)):
        raise ValueError(f"spatial_svd: the stack axes {roles.stack} of {part.name!r} do not lead: leave it out")
    chosen = (axis,) if isinstance(axis, int) else tuple(axis)
    places = range(len(roles.spatial))
    if not {*chosen} < {*places} or not chosen:
        raise ValueError(
            f"spatial_svd: axis must name some of the spatial axes of {part.name!r}, 0 to {len(places) - 1}, and leave "
            f"some to the second convolution; got {axis!r}"
        )
    first = tuple(roles.spatial[place] - stack for place in places if place in chosen)
    second = tuple(roles.spatial[place] - stack for place in places if place not in chosen)
    return _Split(stack, first, second, features[0] - stack, roles.output[0] - stack)


def _turned(part: Part, split: _Split) -> Part:
    array: Any = part.array
    order = (*split.first, split.feature, *split.second, split.out)
    axes = (*range(split.stack), *(split.stack + axis for axis in order))
    return dataclasses.replace(part, array=jnp.transpose(array, axes))


@functools.partial(jax.jit, static_argnames=("split", "rank"))
def _kernels(arrays: Sequence[jax.Array], *, split: _Split, rank: int) -> list[tuple[jax.Array, jax.Array]]:
    """Both kernels of every array; arrays of one shape are one batch."""
    axes = {"first_axes": split.first, "second_axes": split.second, "feature": split.feature, "out": split.out}
    first, second = separable_filters(jnp.stack(arrays), rank=rank, **axes)
    return [(first[i], second[i]) for i in range(len(arrays))]


def _laid_out(array: jax.Array, axes: tuple[int, ...], ones: tuple[int, ...]) -> jax.Array:
    """The last axes of an array, which stand for these axes of a kernel, in order, with axes of size 1 between."""
    lead = array.ndim - len(axes)
    order = sorted(range(len(axes)), key=lambda place: axes[place])
    ordered = jnp.transpose(array, (*range(lead), *(lead + place for place in order)))
    return jnp.expand_dims(ordered, [lead + axis for axis in ones])
