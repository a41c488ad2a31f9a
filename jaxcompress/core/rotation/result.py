"""What `rotations` returns: which axes of parameters an orthogonal matrix may turn, and the matrix applied."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxcompress.core.dtypes import wider
from jaxcompress.core.leaf import is_compressed
from jaxcompress.core.paths import flatten_with_paths, replace_at
from jaxcompress.core.rotation.values import Slice, Vector
from jaxcompress.core.table import html_table, text_table


@dataclasses.dataclass(frozen=True)
class Fold:
    """A gain that moves into a parameter before anything is turned.

    Attributes:
        gain: what data is multiplied by; all its entries become equal.
        taker: the entries of the parameter that are multiplied instead, or divided.
        power: 1 for a kernel that contracts what was multiplied, -1 for a bias that was added to it.
    """

    gain: Vector
    taker: Slice
    power: int


@dataclasses.dataclass(frozen=True)
class Rotation:
    """Axes of parameters that one orthogonal matrix turns together.

    Attributes:
        size: length of the axes.
        members: ``(path, axis)`` of every parameter that is turned, along all its layers.
        gains: ``(path, axis)`` of the gains along the same axis; they stay, with equal entries.
        folds: gains whose entries are not seen to be equal, and what takes them: `fold_gains`.
        ones: why the matrix has to map the vector of ones to itself (a mean is subtracted, a number added); None if it
            need not.
    """

    size: int
    members: tuple[tuple[str, int], ...]
    gains: tuple[tuple[str, int], ...] = ()
    folds: tuple[Fold, ...] = ()
    ones: str | None = None

    @property
    def axes(self) -> tuple[tuple[str, int], ...]:
        """Members and gains: every axis that is cut when directions are deleted."""
        return (*self.members, *self.gains)

    def __repr__(self) -> str:
        """One line."""
        listed = ", ".join(f"{path}[{axis}]" for path, axis in self.members)
        return f"Rotation({self.size}: {listed})"


@dataclasses.dataclass(frozen=True)
class Excluded:
    """An axis of a parameter that is not turned.

    Attributes:
        path: path of the leaf.
        axis: its axis.
        reason: what fixes it, and where.
    """

    path: str
    axis: int
    reason: str


class Rotations(Sequence[Rotation]):
    """The rotations of a function, those that turn the most entries first; prints as a table.

    Attributes:
        excluded: axes that are not turned, and why.
    """

    def __init__(self, entries: Sequence[Rotation], excluded: Sequence[Excluded]) -> None:
        """Holds what `rotations` found."""
        self._entries = tuple(entries)
        self.excluded = tuple(excluded)

    def __len__(self) -> int:
        """Number of rotations."""
        return len(self._entries)

    def __getitem__(self, index: Any) -> Any:
        """A rotation, or a tuple of them for a slice."""
        return self._entries[index]

    def __iter__(self) -> Iterator[Rotation]:
        """Iterates over the rotations."""
        return iter(self._entries)

    def at(self, path: str, axis: int | None = None) -> Rotation:
        """The rotation that turns an axis of a leaf; without ``axis``, the only axis of it that is turned.

        Raises:
            KeyError: if none does, or several do; says why.
        """
        found = [r for r in self for p, a in r.members if p == path and axis in (None, a)]
        if len(found) == 1:
            return found[0]
        why = [f"axis {e.axis}: {e.reason}" for e in self.excluded if e.path == path and axis in (None, e.axis)]
        raise KeyError(f"{len(found)} rotations turn {path!r}" + ("; " + "; ".join(why) if why else ""))

    def __repr__(self) -> str:
        """The table as text."""
        return text_table(_COLUMNS, self._rows(), self._notes())

    def _repr_html_(self) -> str:
        return html_table(_COLUMNS, self._rows(), self._notes())

    def _rows(self) -> list[tuple[str, ...]]:
        rows = []
        for number, rotation in enumerate(self):
            folded = {fold.gain.slice.path for fold in rotation.folds}
            listed = [(*member, "") for member in rotation.members]
            listed += [(*gain, "gain, folded" if gain[0] in folded else "gain") for gain in rotation.gains]
            for i, (path, axis, what) in enumerate(listed):
                head = (str(number), str(rotation.size)) if i == 0 else ("", "")
                rows.append((*head, path, str(axis), what))
        return rows

    def _notes(self) -> list[str]:
        notes = [f"{i} keeps the vector of ones: {r.ones}" for i, r in enumerate(self) if r.ones]
        return notes + [f"excluded: {e.path} axis {e.axis}: {e.reason}" for e in self.excluded]


_COLUMNS = ("rotation", "size", "member", "axis", "")


def fold_gains(params: Any, rotation: Rotation) -> Any:
    """Moves the gains of a rotation into what consumes them; the function computes the same.

    Args:
        params: the tree. Not changed. May be traced.
        rotation: one of `rotations`.

    Returns:
        The tree, the gains so that they multiply by 1.

    Raises:
        TypeError: if a parameter is a compressed leaf.
        ValueError: if a bias would be divided by a gain of 0 (seen only outside ``jit``).

    Example:
        >>> from jaxcompress.core.rotation import rotations
        >>> def fn(p, x):
        ...     h = p["emb"][x]
        ...     return h * jax.lax.rsqrt((h * h).mean(-1, keepdims=True)) * p["gain"][None] @ p["head"]
        >>> params = {"emb": jnp.eye(4), "gain": jnp.arange(1.0, 5.0), "head": jnp.ones((4, 2))}
        >>> folded = fold_gains(params, rotations(fn, params, jnp.arange(3))[0])
        >>> folded["gain"].tolist(), folded["head"][:, 0].tolist()
        ([1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0])
    """
    known = _known(params, {path for fold in rotation.folds for path in (fold.gain.slice.path, fold.taker.path)})
    changed = dict(known)
    for fold in rotation.folds:
        gain, taker = fold.gain, fold.taker
        factor = known[gain.slice.path] * gain.scale + gain.offset
        if fold.power < 0 and not isinstance(factor, Tracer) and bool((factor == 0).any()):
            raise ValueError(
                f"fold_gains: the gain {gain.slice.path!r} is 0 in places, and the bias {taker.path!r} that is added "
                "after it would be divided by it: give those entries a small number"
            )
        leaf = changed[taker.path]
        names = _names(taker, leaf.ndim), _names(gain.slice, factor.ndim)
        changed[taker.path] = _taken(leaf, factor, (_picks(taker), _picks(gain.slice)), names, fold.power)
    for gain in dict.fromkeys(fold.gain for fold in rotation.folds):
        leaf = changed[gain.slice.path]
        index = _index(_names(gain.slice, leaf.ndim), _picks(gain.slice))
        changed[gain.slice.path] = leaf.at[index].set(jnp.asarray((1 - gain.offset) / gain.scale, leaf.dtype))
    return replace_at(params, changed)


def apply(params: Any, rotation: Rotation, matrix: ArrayLike) -> Any:
    """Turns the members of a rotation by an orthogonal matrix; the function that it was found for computes the same.

    Every data vector ``x`` along the axes becomes ``x @ matrix``. Gains are folded first (`fold_gains`), for which an
    orthogonal matrix cannot pass them.

    Args:
        params: the tree. Not changed. May be traced.
        rotation: one of `rotations`.
        matrix: orthogonal, ``[size, size]``; where `Rotation.ones` is set, ``matrix @ ones == ones`` too. May be
            traced: then neither is checked.

    Returns:
        The tree with other members, of the same dtypes.

    Raises:
        ValueError: if the matrix has another shape, is not orthogonal, or does not keep the vector of ones.
        TypeError: if a member is a compressed leaf.

    Example:
        >>> from jaxcompress.core.rotation import rotations
        >>> params = {"a": jnp.ones((3, 2)), "b": jnp.ones((2, 1))}
        >>> (found,) = rotations(lambda p, x: x @ p["a"] @ p["b"], params, jnp.ones((5, 3)))
        >>> turned = apply(params, found, jnp.array([[0.6, -0.8], [0.8, 0.6]]))
        >>> [round(float(entry), 1) for entry in turned["a"][0]], (turned["a"] @ turned["b"]).round(3).tolist()
        ([1.4, -0.2], [[2.0], [2.0], [2.0]])

    References:
        Ashkboos et al., 2024, section 3 (computational invariance). https://arxiv.org/abs/2401.15024
    """
    turn = matrix if isinstance(matrix, Tracer) else np.asarray(matrix)
    if turn.shape != (rotation.size, rotation.size):
        raise ValueError(f"apply: matrix must have the shape {(rotation.size, rotation.size)}, got {turn.shape}")
    if isinstance(turn, np.ndarray):
        _check(turn, rotation)
    params = fold_gains(params, rotation)
    changed = _known(params, {path for path, _ in rotation.members})
    for path, axis in rotation.members:
        changed[path] = _turned(changed[path], jnp.asarray(turn, wider(changed[path].dtype, jnp.float32)), axis)
    return replace_at(params, changed)


_TOLERANCE = 1e-4  # of the entries of Q.T @ Q: what rounding leaves of a float32 matrix of a few thousand rows


def _check(matrix: np.ndarray, rotation: Rotation) -> None:
    wide = matrix.astype(np.float64)
    error = np.abs(wide.T @ wide - np.eye(len(wide))).max(initial=0)
    if not error <= _TOLERANCE:
        raise ValueError(f"apply: matrix is not orthogonal: matrix.T @ matrix differs from the identity by {error:.1e}")
    if rotation.ones is not None and not np.abs(wide.sum(1) - 1).max(initial=0) <= _TOLERANCE * len(wide) ** 0.5:
        raise ValueError(f"apply: matrix must keep the vector of ones (matrix @ ones == ones): {rotation.ones}")


def _known(params: Any, wanted: set[str]) -> dict[str, Any]:
    paths, leaves, _ = flatten_with_paths(params)
    known = {path: leaf for path, leaf in zip(paths, leaves, strict=True) if path in wanted}
    for path, leaf in known.items():
        if is_compressed(leaf):
            raise TypeError(f"rotation: {path!r} is a {leaf.kind} leaf: rotate before compressing")
    return {path: jnp.asarray(leaf) for path, leaf in known.items()}


@functools.partial(jax.jit, static_argnames="axis")
def _turned(leaf: jax.Array, matrix: jax.Array, axis: int) -> jax.Array:
    out = jnp.tensordot(leaf.astype(matrix.dtype), matrix, axes=((axis,), (0,)), precision=jax.lax.Precision.HIGHEST)
    return jnp.moveaxis(out, -1, axis).astype(leaf.dtype)


@functools.partial(jax.jit, static_argnames=("names", "power"))
def _taken(
    taker: jax.Array,
    gain: jax.Array,
    picks: tuple[tuple[int, ...], tuple[int, ...]],
    names: tuple[tuple[Any, ...], tuple[Any, ...]],
    power: int,
) -> jax.Array:
    """The parameter with its entries multiplied, or divided, by a gain; one program for all of the same shapes."""
    index, own = (_index(axes, at) for axes, at in zip(names, picks, strict=True))
    rest, part = gain[own], taker[index]
    here, there = ([name for name in axes if name != PICKED] for axes in names)
    placed = [name for name in here if name in there]
    order = [there.index(name) for name in placed]
    rest = rest.transpose(order + [axis for axis in range(rest.ndim) if axis not in order])
    factor = rest.reshape([part.shape[i] if name in there else 1 for i, name in enumerate(here)])
    wide = wider(taker.dtype, gain.dtype)
    part, factor = part.astype(wide), factor.astype(wide)
    return taker.at[index].set((part * factor if power > 0 else part / factor).astype(taker.dtype))


PICKED = "picked"


def _names(entries: Slice, ndim: int) -> tuple[Any, ...]:
    """What each axis is: picked by an index, the step of a scan, the axis itself, or another."""
    picks = dict(entries.picks)
    found: list[Any] = []
    for axis in range(ndim):
        pick = picks.get(axis)
        found.append(PICKED if isinstance(pick, int) else pick or ("own" if axis == entries.axis else None))
    return tuple(found)


def _picks(entries: Slice) -> tuple[int, ...]:
    return tuple(pick for _, pick in entries.picks if isinstance(pick, int))


def _index(names: Sequence[Any], picks: Sequence[int]) -> tuple[Any, ...]:
    left = iter(picks)
    return tuple(next(left) if name == PICKED else slice(None) for name in names)
