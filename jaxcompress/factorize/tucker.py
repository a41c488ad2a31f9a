"""Tucker decomposition of weights: Tucker-2 of the kernels of convolutions, or over all axes."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxcompress.core.leaf import CompressedArray
from jaxcompress.core.parts import Part, find_parts, require_finite, setting_at, with_parts
from jaxcompress.core.paths import Where
from jaxcompress.factorize.rank import Candidate, Energy, RankRule, Spectrum
from jaxcompress.factorize.rank.ranks import checked
from jaxcompress.factorize.tucker_array import MOST_AXES, TuckerArray
from jaxcompress.solvers.tucker import TuckerFactors, mode_spectra, tucker_factors

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites

ModeRank: TypeAlias = int | float | RankRule
TuckerRank: TypeAlias = ModeRank | Sequence[ModeRank | None]
Modes: TypeAlias = Literal["channels", "all"] | Sequence[int]


def tucker(
    params: Any,
    *,
    rank: TuckerRank | Mapping[str, TuckerRank],
    modes: Modes = "channels",
    sweeps: int = 3,
    where: Where = None,
    sites: Sites | None = None,
) -> Any:
    """Replaces weights by a small core and a thin factor along some of their axes, the modes.

    Along the features of a convolution (Tucker-2, the default) that is a product per pixel, a smaller convolution and
    another product per pixel. Layers of a stack are decomposed one by one, at the same ranks. A mode that keeps its
    whole size has no factor; ranks above the product of the core's other sizes, which nothing could fill, are cut. Of a
    masked leaf the values are decomposed and the mask stays.

    Args:
        params: tree of float arrays or leaves. Not changed.
        rank: an integer for every mode (its size, where that is less); a fraction in ``(0, 1)``: ranks that hold at
            least this part of the sum of squares, what may be lost being shared evenly by the modes; a rule for each
            mode's unfolding such as `evbmf`, which Kim et al. take; a sequence with one of these, or None for the whole
            size, per mode; or a dict from globs over paths to any of them: the first glob that fits a path counts,
            paths that fit none stay as they are. Fractions and rules need concrete arrays.
        modes: ``"channels"``: the axes that no window slides along; ``"all"``; or axes counted after the stack. Axes
            of size 1 are never modes.
        sweeps: of HOOI after the HOSVD, see `jaxcompress.solvers.tucker.tucker_factors`.
        where: leaves to decompose: globs over paths or a predicate; by default those that ``sites`` show as contraction
            weights or embeddings, without ``sites`` the float leaves of two axes or more.
        sites: what `jaxcompress.sites` found. Without it only kernels of two axes are taken, read as (in, out).

    Returns:
        The tree with `TuckerArray` leaves.

    Raises:
        ValueError: if core and factors save nothing over a leaf (the break-even is named), a rank or ``modes`` is out
            of range, the axes of a leaf are not known, it has no mode or its stack axes do not lead, ``where`` or a
            glob fits nothing, a leaf is coded or factorized already, or holds NaN or infinity (seen only outside
            ``jit``).
        TypeError: if a chosen leaf is not float, or ranks are asked for under ``jit`` that need arrays.

    Example:
        >>> small = tucker({"w": jnp.ones((8, 6))}, rank=(2, 1))
        >>> small["w"].ranks, small["w"].factor0.shape, small["w"].factor1.shape
        ((1, 1), (8, 1), (6, 1))

    References:
        Kim et al., 2016. Compression of deep convolutional neural networks for fast and low power mobile applications,
        section 3. https://arxiv.org/abs/1511.06530
    """
    if isinstance(sweeps, bool) or not isinstance(sweeps, int) or sweeps < 0:
        raise ValueError(f"tucker: sweeps must be an integer from 0 on, got {sweeps!r}")
    parts = find_parts(params, where=where, sites=sites, settings=rank, method="tucker", whole=has_own_axes)
    kernels = [_kernel(part, modes) for part in parts]
    settings = [
        _settings(setting_at(rank, part.path), kernel, part) for part, kernel in zip(parts, kernels, strict=True)
    ]
    require_finite(parts, "tucker")
    groups: dict[Any, list[int]] = {}
    for i, (part, kernel, setting) in enumerate(zip(parts, kernels, settings, strict=True)):
        ranks = _ranks(part, kernel, setting)
        if ranks is not None:
            groups.setdefault((part.array.dtype, kernel, ranks), []).append(i)
    leaves: list[Any] = [part.array for part in parts]
    for (_, kernel, ranks), members in groups.items():
        arrays: list[Any] = [parts[i].array for i in members]
        found = _decomposed(arrays, kernel=kernel, ranks=ranks, sweeps=sweeps)
        for i, (core, factors) in zip(members, found, strict=True):
            held = dict(zip(kernel.thin(ranks), factors, strict=True))
            leaves[i] = TuckerArray.create(core, [held.get(axis) for axis in range(len(kernel.shape))])
    return with_parts(params, parts, leaves)


@dataclasses.dataclass(frozen=True)
class Tucker:
    """Recipe stage of `tucker`, with the same fields."""

    rank: TuckerRank | Mapping[str, TuckerRank]
    modes: Modes = "channels"
    sweeps: int = 3
    where: str | Sequence[str] | None = None

    version: ClassVar[int] = 1

    def __call__(self, params: Any, *, sites: Sites | None = None) -> Any:
        """Applies `tucker`."""
        options = {"modes": self.modes, "sweeps": self.sweeps, "where": self.where}
        return tucker(params, rank=self.rank, sites=sites, **options)


def has_own_axes(leaf: Any) -> bool:
    """Whether fields of a leaf have axes of their own: it is a factorization already."""
    return any(None in axes for axes in leaf.alignment().values())


@dataclasses.dataclass(frozen=True)
class _Kernel:
    """A weight as a stack of arrays of this shape with modes."""

    stack: tuple[int, ...]
    shape: tuple[int, ...]
    modes: tuple[int, ...]

    def thin(self, ranks: Sequence[int]) -> tuple[int, ...]:
        """The modes that get a factor."""
        return tuple(mode for mode, rank in zip(self.modes, ranks, strict=True) if rank < self.shape[mode])

    def core(self, ranks: Sequence[float]) -> list[float]:
        """Sizes of the core."""
        held = dict(zip(self.modes, ranks, strict=True))
        return [held.get(axis, size) for axis, size in enumerate(self.shape)]

    def entries(self, ranks: Sequence[float]) -> float:
        """Entries of core and factors."""
        thin = [(self.shape[mode], rank) for mode, rank in zip(self.modes, ranks, strict=True)]
        return math.prod(self.core(ranks)) + sum(size * rank for size, rank in thin if rank < size)

    def fillable(self, ranks: Sequence[int]) -> tuple[int, ...]:
        """Ranks cut to what the other sizes of the core can fill."""
        cut, before = list(ranks), None
        while cut != before:
            before = list(cut)
            for i, mode in enumerate(self.modes):
                others = [size for axis, size in enumerate(self.core(cut)) if axis != mode]
                cut[i] = min(cut[i], int(math.prod(others)))
        return tuple(cut)

    def break_even(self) -> list[float]:
        """The same fraction of every mode's size at which core and factors take as many entries as the array."""
        sizes = [self.shape[mode] for mode in self.modes]
        low, high = 0.0, 1 - 1e-9
        for _ in range(60):
            middle = (low + high) / 2
            more = self.entries([middle * size for size in sizes]) > math.prod(self.shape)
            low, high = (low, middle) if more else (middle, high)
        return [low * size for size in sizes]


def _kernel(part: Part, modes: Modes) -> _Kernel:
    if isinstance(part.array, CompressedArray):
        kind = part.array.kind
        raise ValueError(f"tucker: {part.name!r} is a {kind} leaf already: materialize it first (jc.materialize)")
    roles = part.known_roles("tucker")
    stack = len(roles.stack)
    shape = tuple(part.array.shape[stack:])
    if roles.stack != tuple(range(stack)):
        raise ValueError(f"tucker: the stack axes {roles.stack} of {part.name!r} do not lead: leave it out of where=")
    if len(shape) > MOST_AXES:
        raise ValueError(f"tucker: {part.name!r} has {len(shape)} axes after its stack, more than {MOST_AXES}")
    if modes == "channels":
        chosen = [axis - stack for axis in range(stack, part.array.ndim) if axis not in roles.spatial]
    elif modes == "all":
        chosen = list(range(len(shape)))
    else:
        chosen = sorted({*modes}) if not isinstance(modes, str) else []
        if not chosen or not 0 <= chosen[0] <= chosen[-1] < len(shape) or len(chosen) != len(modes):
            raise ValueError(
                f"tucker: modes must be 'channels', 'all' or axes from 0 to {len(shape) - 1} for {part.name!r} (axes "
                f"after the stack: {shape}), got {modes!r}"
            )
    chosen = [axis for axis in chosen if shape[axis] > 1]
    if not chosen:
        raise ValueError(f"tucker: {part.name!r} has no mode of more than one entry: leave it out of where=")
    return _Kernel(tuple(part.array.shape[:stack]), shape, tuple(chosen))


def _settings(rank: Any, kernel: _Kernel, part: Part) -> list[int | RankRule]:
    """A rank or rule for every mode."""
    sizes = [kernel.shape[mode] for mode in kernel.modes]
    if isinstance(rank, Sequence) and not isinstance(rank, str):
        if len(rank) != len(sizes):
            raise ValueError(
                f"tucker: rank must have one entry for each mode of {part.name!r}, its axes {kernel.modes} (after the "
                f"stack), got {rank!r}"
            )
        given = [size if own is None else own for own, size in zip(rank, sizes, strict=True)]
    else:
        given = [rank] * len(sizes)
    found = []
    for own, size in zip(given, sizes, strict=True):
        setting = checked(own, part.name, "tucker")
        if isinstance(setting, RankRule) and type(setting).rank_of_one is RankRule.rank_of_one:
            raise ValueError(f"tucker: rank={setting!r} ranks matrices against each other, and a mode is none of them")
        if isinstance(setting, Energy):
            setting = dataclasses.replace(setting, fraction=1 - (1 - setting.fraction) / len(sizes))
        found.append(setting if isinstance(setting, RankRule) else min(setting, size))
    return found


def _ranks(part: Part, kernel: _Kernel, settings: Sequence[int | RankRule]) -> tuple[int, ...] | None:
    """The rank of every mode, or None where rules leave the leaf dense."""
    rules = [setting for setting in settings if isinstance(setting, RankRule)]
    ranks = [setting if isinstance(setting, int) else 0 for setting in settings]
    if rules:
        if isinstance(part.array, Tracer):
            raise TypeError("tucker: a rule or a fraction as rank= needs concrete arrays: call tucker outside of jit")
        array: Any = part.array
        for i, s in enumerate(_spectra(array, kernel=kernel)):
            rule, size = settings[i], kernel.shape[kernel.modes[i]]
            if isinstance(rule, RankRule):
                candidate = Candidate(part.path, part.name, (size, math.prod(kernel.shape) // size), s.shape[0])
                ranks[i] = min(size, rule.rank_of_one(candidate, Spectrum(s), method="tucker") or size)
    found = kernel.fillable(ranks)
    if kernel.entries(found) < math.prod(kernel.shape):
        return found
    if rules and all(rule.keeps_dense for rule in rules):
        return None
    why = f", {rules[0].reason}," if rules else ""
    limits = ", ".join(f"{limit:.4g}" for limit in kernel.break_even())
    raise ValueError(
        f"tucker: ranks {found}{why} save nothing in {part.name!r}: core and factors take "
        f"{int(kernel.entries(found)):,} entries for {math.prod(kernel.shape):,}; along its axes {kernel.modes} (after "
        f"the stack) ranks in proportion break even at ({limits}). Ask for less, or leave the leaf out of where="
    )


@functools.partial(jax.jit, static_argnames="kernel")
def _spectra(array: jax.Array, *, kernel: _Kernel) -> list[jax.Array]:
    """Singular values of the unfolding along every mode, ``[layers, least side of the unfolding]``."""
    layers = array.reshape(-1, *kernel.shape)
    spectra = jax.vmap(lambda w: mode_spectra(w, kernel.modes))(layers)
    sizes = [kernel.shape[mode] for mode in kernel.modes]
    return [s[:, : math.prod(kernel.shape) // size] for s, size in zip(spectra, sizes, strict=True)]


@functools.partial(jax.jit, static_argnames=("kernel", "ranks", "sweeps"))
def _decomposed(
    arrays: Sequence[jax.Array], *, kernel: _Kernel, ranks: tuple[int, ...], sweeps: int
) -> list[tuple[jax.Array, list[jax.Array]]]:
    """Core and factors of every array; arrays of one shape are one batch, their stacks too."""
    dtype, thin = arrays[0].dtype, kernel.thin(ranks)
    layers = jnp.stack(arrays).reshape(-1, *kernel.shape)
    kept = [rank for mode, rank in zip(kernel.modes, ranks, strict=True) if mode in thin]

    def one(w: jax.Array) -> TuckerFactors:
        return tucker_factors(w, ranks=kept, modes=thin, sweeps=sweeps)

    core, factors = jax.vmap(one)(layers)
    lead = (len(arrays), *kernel.stack)
    core = core.reshape(*lead, *core.shape[1:]).astype(dtype)
    factors = [factor.reshape(*lead, *factor.shape[1:]).astype(dtype) for factor in factors]
    return [(core[i], [factor[i] for factor in factors]) for i in range(len(arrays))]
