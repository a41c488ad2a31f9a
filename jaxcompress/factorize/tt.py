"""Tensor-train decomposition of weights, embeddings and kernels (TT-SVD)."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import jax
import jax.numpy as jnp

from jaxcompress.core.parts import Part, find_parts, require_finite, setting_at, with_parts
from jaxcompress.core.paths import Where
from jaxcompress.factorize.digits import Modes, modes_of, modes_of_window
from jaxcompress.factorize.tensor_train import TensorTrain
from jaxcompress.solvers.tt_svd import tt_ranks, tt_svd

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites

TTRank: TypeAlias = int | Sequence[int]
Digits: TypeAlias = Sequence[Sequence[int]]
Kernels: TypeAlias = Literal["chain", "matrix"]


def tt(
    params: Any,
    *,
    rank: TTRank | Mapping[str, TTRank] | None = None,
    error: float | None = None,
    cores: int = 3,
    digits: Digits | Mapping[str, Digits] | None = None,
    kernels: Kernels = "chain",
    where: Where = None,
    sites: Sites | None = None,
) -> Any:
    """Replaces weights by chains of small cores.

    A matrix from its contracted to its output axes becomes a TT-matrix: core ``k`` holds the ``k``-th digit of the row
    number and of the column number. The kernel of a convolution becomes a chain from the input features over each axis
    of the window to the output features, so that it convolves in thin steps. Rows of an embedding are decoded alone.
    Layers of a stack are decomposed one by one, at one rank. Of a masked leaf the values are decomposed and the mask
    stays.

    Args:
        params: tree of float arrays or leaves. Not changed.
        rank: of all bonds (none gets more than it can use), or a sequence for each; or a dict from globs over paths to
            either: the first glob that fits a path counts, paths that fit none stay as they are.
        error: instead of ``rank``: the least ranks that keep the relative error of every layer within this bound
            (needs concrete arrays).
        cores: how many, 2 to 8, of TT-matrices without ``digits``: sizes are split as `digits_of` does it, and padded
            with zeros where they do not split well.
        digits: for every axis after the stack its digits, the most significant first, ``((4, 7, 4, 7), (5, 5, 4, 3))``
            for 784 x 300; or a dict from globs to such; leaves that fit none are split into ``cores``.
        kernels: ``"chain"`` as above; ``"matrix"`` reads kernels of convolutions as TT-matrices too: these are
            multiplied out where they convolve.
        where: leaves to decompose: globs over paths or a predicate; by default those that ``sites`` show as contraction
            weights or embeddings, without ``sites`` the float leaves of two axes or more.
        sites: what `jaxcompress.sites` found. Without it only kernels of two axes are taken, read as (in, out).

    Returns:
        The tree with `TensorTrain` leaves.

    Raises:
        ValueError: if the rank of a leaf saves nothing (the break-even is named), a setting is out of range, the axes
            of a leaf are not known, or its stack axes do not come first, ``where`` or a glob fits nothing, a leaf is
            coded or decomposed already, or holds NaN or infinity (seen only outside ``jit``).
        TypeError: if a chosen leaf is not float, or ``error`` is asked for under ``jit``.

    Example:
        >>> thin = tt({"w": jnp.ones((784, 300))}, rank=6, digits=((4, 7, 4, 7), (5, 5, 4, 3)))
        >>> thin["w"].shape, thin["w"].stored_bits // 32
        ((784, 300), 2082)

    References:
        Oseledets, 2011. Tensor-train decomposition, algorithm 1. Novikov et al., 2015. Tensorizing neural networks.
        https://arxiv.org/abs/1509.06569; Khrulkov et al., 2020 (embeddings). https://arxiv.org/abs/1901.10787
    """
    if (rank is None) == (error is None):
        raise ValueError(f"tt: give either rank= or error=, got rank={rank!r} and error={error!r}")
    if error is not None and not 0 < error < 1:
        raise ValueError(f"tt: error must be in (0, 1), got {error!r}")
    if kernels not in ("chain", "matrix"):
        raise ValueError(f"tt: kernels must be 'chain' or 'matrix', got {kernels!r}")
    parts = find_parts(params, where=where, sites=sites, settings=rank, method="tt")
    layouts = [_layout(part, cores, _digits_at(digits, part.path), kernels) for part in parts]
    require_finite(parts, "tt")
    groups: dict[Any, list[int]] = {}
    for i, (part, layout) in enumerate(zip(parts, layouts, strict=True)):
        asked = setting_at(rank, part.path)
        groups.setdefault((part.array.dtype, layout, asked if asked is None else _hashable(asked)), []).append(i)
    leaves: dict[int, TensorTrain] = {}
    for (_, (stack, modes), asked), members in groups.items():
        arrays: list[Any] = [parts[i].array for i in members]
        for ranks, own in _ranks(arrays, stack, modes, asked, error, [parts[i].name for i in members]).items():
            _check_saving(parts[members[own[0]]].name, modes, ranks, asked, error)
            made = _decompose([arrays[j] for j in own], stack=stack, modes=modes, ranks=ranks)
            leaves.update((members[j], leaf) for j, leaf in zip(own, made, strict=True))
    return with_parts(params, parts, [leaves[i] for i in range(len(parts))])


@dataclasses.dataclass(frozen=True)
class TT:
    """Recipe stage of `tt`, with the same fields."""

    rank: TTRank | Mapping[str, TTRank] | None = None
    error: float | None = None
    cores: int = 3
    digits: Digits | Mapping[str, Digits] | None = None
    kernels: Kernels = "chain"
    where: str | Sequence[str] | None = None

    version: ClassVar[int] = 1

    def __call__(self, params: Any, *, sites: Sites | None = None) -> Any:
        """Applies `tt`."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return tt(params, **fields, sites=sites)


def _layout(part: Part, cores: int, digits: Digits | None, kernels: Kernels) -> tuple[tuple[int, ...], Modes]:
    if part.fields and part.fields[-1].startswith("core"):
        raise ValueError(f"tt: {part.path!r} is decomposed already: materialize it first (jc.materialize)")
    roles, shape = part.known_roles("tt"), part.array.shape
    n = len(roles.stack)
    if roles.stack != tuple(range(n)):
        raise ValueError(
            f"tt: the stack axes {roles.stack} of {part.name!r} (shape {shape}) must come first: leave it out of where="
        )
    rows, cols, window = (tuple(a - n for a in axes) for axes in (roles.contracting, roles.output, roles.spatial))
    try:
        if window and kernels == "chain" and digits is None:
            inputs = tuple(axis for axis in rows if axis not in window)
            return shape[:n], modes_of_window(shape[n:], (*inputs, *window, *cols))
        return shape[:n], modes_of(shape[n:], (rows, cols), digits=digits, cores=cores)
    except ValueError as error:
        raise ValueError(f"tt: {part.name!r} (shape {shape}): {error}") from error


def _digits_at(digits: Any, path: str) -> Digits | None:
    if not isinstance(digits, Mapping):
        return digits
    return setting_at({**digits, "**": None}, path)


def _hashable(rank: Any) -> Any:
    return tuple(rank) if isinstance(rank, list | tuple) else rank


def _ranks(
    arrays: Sequence[jax.Array],
    stack: tuple[int, ...],
    modes: Modes,
    asked: Any,
    error: float | None,
    names: Sequence[str],
) -> dict[tuple[int, ...], list[int]]:
    """The ranks of the bonds -> which of the arrays have them."""
    if error is None:
        try:
            return {modes.feasible(asked): list(range(len(arrays)))}
        except ValueError as problem:
            raise ValueError(f"tt: {names[0]!r}: {problem}") from problem
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, array in enumerate(arrays):
        try:
            needed = tt_ranks(modes.tensor(array.reshape(math.prod(stack), *modes.sizes)), error)
        except TypeError as problem:
            raise TypeError(f"tt: {names[i]!r}: {problem}") from problem
        groups.setdefault(needed, []).append(i)
    return groups


def _check_saving(name: str, modes: Modes, ranks: tuple[int, ...], asked: Any, error: float | None) -> None:
    held, whole = modes.parameters(ranks), math.prod(modes.sizes)
    if held >= whole:
        reason = f"rank {asked}" if error is None else f"an error of {error:g}, which takes the ranks {ranks},"
        raise ValueError(
            f"tt: {reason} saves nothing in {name!r}: its cores would hold {held} entries, the weight {whole}. At one "
            f"rank for all bonds, {modes.break_even()} is the largest that saves. Ask for less, or leave the leaf "
            "out of where="
        )


@functools.partial(jax.jit, static_argnames=("stack", "modes", "ranks"))
def _decompose(
    arrays: Sequence[jax.Array], *, stack: tuple[int, ...], modes: Modes, ranks: tuple[int, ...]
) -> list[TensorTrain]:
    w = jnp.stack(arrays).reshape(-1, *modes.sizes)
    cores = jax.vmap(functools.partial(tt_svd, rank=ranks))(modes.tensor(w))
    shapes = modes.core_shapes(ranks)
    cores = [core.reshape(len(arrays), *stack, *shape) for core, shape in zip(cores, shapes, strict=True)]
    return [TensorTrain.of_modes([core[i] for core in cores], modes) for i in range(len(arrays))]
