"""Canonical decomposition (CP) of kernels: a product per pixel, a window for each feature, a product per pixel."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from jaxcompress.core.parts import Part, find_parts, require_finite, setting_at, with_parts
from jaxcompress.core.paths import Where
from jaxcompress.factorize.cp_tensor import CPTensor
from jaxcompress.solvers.cp_als import cp_als

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites

Spatial: TypeAlias = Literal["joint", "separate"]


def cp(
    params: Any,
    *,
    rank: int | Mapping[str, int],
    spatial: Spatial = "joint",
    starts: int = 1,
    iterations: int = 200,
    tolerance: float = 1e-6,
    stable: bool = False,
    slack: float = 0.01,
    seed: int = 0,
    where: Where = None,
    sites: Sites | None = None,
) -> Any:
    """Replaces kernels by sums of products of vectors, one vector along each axis.

    A convolution becomes three or more: to ``rank`` features per pixel, windows that slide over each of these by
    itself, and out. Layers of a stack are decomposed one by one. Of a masked leaf the values are decomposed and the
    mask stays. The terms of a good fit may cancel each other so much that fine-tuning and rounding destroy it:
    ``stable=True`` finds one of nearly the same error that they do not.

    Args:
        params: tree of float arrays or leaves. Not changed.
        rank: number of products; or a dict from globs over paths to numbers: the first glob that fits a path counts,
            paths that fit none stay as they are.
        spatial: ``"joint"``: the window of a convolution is one axis, ``"separate"``: each of its axes is one, as in
            Lebedev et al. (fewer multiplications and entries, a larger error at one rank).
        starts: number of starts, of which the best result counts; more cost more time.
        iterations: rounds of alternating least squares, at most.
        tolerance: see `jaxcompress.solvers.cp_als.cp_als`.
        stable: whether to lessen the sensitivity of the fit.
        slack: by which part its error may grow for that.
        seed: of the random starts.
        where: leaves to decompose: globs over paths or a predicate; by default those that ``sites`` show as contraction
            weights or embeddings, without ``sites`` the float leaves of two axes or more.
        sites: what `jaxcompress.sites` found. Without it only kernels of two axes are taken; their best products
            are those of a singular value decomposition, which `svd` finds at once.

    Returns:
        The tree with `CPTensor` leaves.

    Raises:
        ValueError: if the rank of a leaf saves nothing (the break-even is named), a setting is out of range, the axes
            of a leaf are not known, are fewer than two or more than eight, or its stack axes do not come first,
            ``where`` or a glob fits nothing, a leaf is coded or decomposed already, or holds NaN or infinity (seen only
            outside ``jit``).
        TypeError: if a chosen leaf is not float.

    Example:
        >>> fn = lambda params, x: jax.lax.conv(x, params["w"], (1, 1), "SAME")
        >>> params, x = {"w": jax.random.normal(jax.random.key(0), (16, 8, 3, 3))}, jnp.ones((1, 8, 9, 9))
        >>> thin = cp(params, rank=6, sites=jc.sites(fn, params, x))
        >>> [factor.shape for factor in thin["w"].factors], jc.lift(fn)(thin, x).shape
        ([(16, 6), (8, 6), (3, 3, 6)], (1, 16, 9, 9))

    References:
        Lebedev et al., 2015. Speeding-up convolutional neural networks using fine-tuned CP-decomposition, section 3.
        https://arxiv.org/abs/1412.6553; Phan et al., 2020. https://arxiv.org/abs/2008.05441
    """
    if spatial not in ("joint", "separate"):
        raise ValueError(f"cp: spatial must be 'joint' or 'separate', got {spatial!r}")
    if not slack >= 0:
        raise ValueError(f"cp: slack must not be negative, got {slack!r}")
    for name, value in (("starts", starts), ("iterations", iterations)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"cp: {name} must be a positive integer, got {value!r}")
    parts = find_parts(params, where=where, sites=sites, settings=rank, method="cp")
    layouts = [_layout(part, spatial) for part in parts]
    for part, layout in zip(parts, layouts, strict=True):
        _check_rank(part.name, setting_at(rank, part.path), layout)
    require_finite(parts, "cp")
    groups: dict[Any, list[int]] = {}
    for i, (part, layout) in enumerate(zip(parts, layouts, strict=True)):
        groups.setdefault((part.array.dtype, layout, setting_at(rank, part.path)), []).append(i)
    leaves: dict[int, CPTensor] = {}
    for (_, layout, count), members in groups.items():
        keys = jnp.stack([jax.random.fold_in(jax.random.key(seed), i) for i in members])
        found = _decompose(
            [parts[i].array for i in members],
            keys,
            tolerance,
            slack,
            layout=layout,
            rank=count,
            starts=starts,
            iterations=iterations,
            stable=stable,
        )
        leaves.update(zip(members, found, strict=True))
    return with_parts(params, parts, [leaves[i] for i in range(len(parts))])


@dataclasses.dataclass(frozen=True)
class CP:
    """Recipe stage of `cp`, with the same fields."""

    rank: int | Mapping[str, int]
    spatial: Spatial = "joint"
    starts: int = 1
    iterations: int = 200
    tolerance: float = 1e-6
    stable: bool = False
    slack: float = 0.01
    seed: int = 0
    where: str | Sequence[str] | None = None

    version: ClassVar[int] = 1

    def __call__(self, params: Any, *, sites: Sites | None = None) -> Any:
        """Applies `cp`."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return cp(params, **fields, sites=sites)


class _Layout(NamedTuple):
    stack: tuple[int, ...]
    sizes: tuple[int, ...]  # of the axes after the stack
    axes: tuple[tuple[int, ...], ...]  # of each factor

    @property
    def merged(self) -> tuple[int, ...]:
        return tuple(math.prod(self.sizes[axis] for axis in own) for own in self.axes)


def _layout(part: Part, spatial: Spatial) -> _Layout:
    if part.fields and part.fields[-1].startswith("factor"):
        raise ValueError(f"cp: {part.path!r} is decomposed already: materialize it first (jc.materialize)")
    roles, shape = part.known_roles("cp"), part.array.shape
    n = len(roles.stack)
    if roles.stack != tuple(range(n)):
        raise ValueError(
            f"cp: the stack axes {roles.stack} of {part.name!r} (shape {shape}) must come first: leave it out of where="
        )
    window = tuple(axis - n for axis in roles.spatial) if spatial == "joint" else ()
    alone = [(axis,) for axis in range(len(shape) - n) if axis not in window]
    axes = tuple(sorted([*alone, window] if window else alone))
    if not 2 <= len(axes) <= 8:
        raise ValueError(f"cp: {part.name!r} (shape {shape}) must have 2 to 8 axes to decompose, got {len(axes)}")
    return _Layout(shape[:n], shape[n:], axes)


def _check_rank(name: str, rank: Any, layout: _Layout) -> None:
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"cp: rank must be a positive integer, got {rank!r} for {name!r}")
    each, whole = sum(layout.merged), math.prod(layout.merged)
    if rank * each >= whole:
        sizes = " x ".join(map(str, layout.merged))
        raise ValueError(
            f"cp: rank {rank} saves nothing in {name!r}: products of {sizes} break even at rank {whole / each:.4g}. "
            "Ask for less, or leave the leaf out of where="
        )


@functools.partial(jax.jit, static_argnames=("layout", "rank", "starts", "iterations", "stable"))
def _decompose(
    arrays: Sequence[jax.Array],
    keys: jax.Array,
    tolerance: float,
    slack: float,
    *,
    layout: _Layout,
    rank: int,
    starts: int,
    iterations: int,
    stable: bool,
) -> list[CPTensor]:
    """Leaves of arrays of one layout; all their tensors side by side."""
    layers = math.prod(layout.stack)
    order = [axis for own in layout.axes for axis in own]
    w = jnp.stack(arrays).reshape(len(arrays) * layers, *layout.sizes)
    w = w.transpose(0, *(1 + axis for axis in order)).reshape(len(w), *layout.merged)
    own = jax.vmap(lambda key: jax.random.split(key, layers))(keys).reshape(len(w))
    fit = functools.partial(
        cp_als, rank=rank, starts=starts, iterations=iterations, tolerance=tolerance, stable=stable, slack=slack
    )
    found = jax.vmap(lambda w, key: fit(w, key=key))(w, own)
    factors = [
        factor.reshape(len(arrays), *layout.stack, *(layout.sizes[axis] for axis in axes), rank)
        for factor, axes in zip(found.factors, layout.axes, strict=True)
    ]
    return [CPTensor.create([factor[i] for factor in factors], layout.axes) for i in range(len(arrays))]
