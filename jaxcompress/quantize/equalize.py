"""Cross-layer equalization: channels get equal ranges in neighbouring layers, and the function stays as it is."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.dtypes import wider
from jaxcompress.core.leaf import is_compressed
from jaxcompress.core.paths import Where, flatten_with_paths, replace_at, select
from jaxcompress.core.rescaling import Member, Symmetry, apply, spread, symmetries

_WEIGHT = ("output", "contracting")


def equalize(
    fn: Callable[..., Any],
    params: Any,
    *inputs: Any,
    iterations: int = 50,
    tolerance: float = 1e-3,
    where: Where = None,
    clips: Literal["fix", "pass"] = "fix",
    **kwargs: Any,
) -> Any:
    """Rescales channels between layers until what one layer gives and what the next takes have equal ranges.

    One scale for a whole tensor wastes most of its grid where a few channels are large. But a channel may be divided in
    one layer and multiplied in the next, as long as what lies between is homogeneous (a ReLU, a pooling, a linear map):
    which channels of which parameters, `jaxcompress.core.rescaling.symmetries` tells from the trace. Each is scaled by
    ``s = sqrt(r1 * r2) / r1``, with ``r1`` and ``r2`` the largest absolute weights of the channel before and behind, so
    that both become ``sqrt(r1 * r2)``; biases follow. Where several layers give or take a channel (residual streams,
    query, key and value), the largest of their ranges counts. All pairs are gone through again and again until no scale
    differs from 1 by more than ``tolerance``.

    The promise: ``fn`` computes the same up to rounding. Fold batch normalizations first (`fold_batchnorm`): then the
    kernels are those that count. The absorption of high biases (section 4.1.3 of the paper) is left out: it holds for
    most inputs, not for all.

    Args:
        fn: a function that ``jit`` accepts; non-array arguments are static.
        params: its first argument: all variables of the model; concrete arrays, dense where they are to be equalized.
            Not changed.
        *inputs: further positional arguments; may be `jax.ShapeDtypeStruct`.
        iterations: rounds over all pairs, at most.
        tolerance: what counts as converged.
        where: weights that may change: globs over paths or a predicate; by default all. A pair is left alone unless
            each of its weights may.
        clips: ``"pass"`` equalizes through a ReLU6 too, as the paper does after it replaced it by a ReLU: then the
            promise holds only if the function has been changed so, or where no activation reaches the bound.
        **kwargs: keyword arguments of ``fn``.

    Returns:
        The tree with rescaled leaves.

    Raises:
        ValueError: if no pair of weights can be equalized (says what is in the way), a weight holds NaN or infinity,
            or ``iterations`` is not positive.

    Example:
        >>> params = {"a": jnp.array([[8.0, 1.0]]), "b": jnp.array([[2.0], [4.0]])}
        >>> even = equalize(lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"], params, jnp.ones((1, 1)))
        >>> jnp.round(even["a"], 2).tolist(), jnp.round(even["b"], 2).tolist()
        ([[4.0, 2.0]], [[4.0], [2.0]])

    References:
        Nagel et al., 2019, section 4.1, equation 11. https://arxiv.org/abs/1906.04721
    """
    if iterations < 1:
        raise ValueError(f"equalize: iterations must be at least 1, got {iterations}")
    found = symmetries(fn, params, *inputs, clips=clips, **kwargs)
    weights = {member.path for pair in found.pairs for member in pair.members if member.role in _WEIGHT}
    allowed = weights if where is None else set(select(params, where))
    pairs = [pair for pair in found.pairs if all(m.path in allowed for m in pair.members if m.role in _WEIGHT)]
    if not pairs:
        why = "\n  ".join(f"{e.path} axes {e.axes}: {e.reason}" for e in found.excluded)
        raise ValueError(
            f"equalize: where={where!r} holds no weights that can be rescaled against each other. Those that can: "
            f"{sorted(weights)}. In the way of others:\n  {why}"
        )
    paths, leaves, _ = flatten_with_paths(params)
    known = dict(zip(paths, leaves, strict=True))
    changing = {member.path: known[member.path] for pair in pairs for member in pair.members}
    for path, leaf in changing.items():
        if is_compressed(leaf):
            raise TypeError(f"equalize: {path!r} is a {leaf.kind} leaf: equalize before compressing")
        if not bool(jnp.isfinite(leaf).all()):
            raise ValueError(f"equalize: {path!r} holds NaN or infinity")
    wide = {path: jnp.asarray(leaf).astype(wider(leaf.dtype, jnp.float32)) for path, leaf in changing.items()}
    for pair, scales in zip(pairs, _totals(wide, pairs, iterations, tolerance), strict=True):
        wide |= apply({member.path: wide[member.path] for member in pair.members}, pair, scales)
    return replace_at(params, {path: leaf.astype(known[path].dtype) for path, leaf in wide.items()})


def equalizing_scales(before: jax.Array, behind: jax.Array) -> jax.Array:
    """What channels are multiplied by before, and divided by behind, so that both have the range ``sqrt(r1 * r2)``.

    Args:
        before: largest absolute weights of every channel in the layer that gives it.
        behind: largest absolute weights in the layer that takes it; of the same shape.

    Returns:
        Positive factors; 1 for channels that are zero on one side: no factor makes those ranges equal.

    Example:
        >>> equalizing_scales(jnp.array([8.0, 1.0, 0.0]), jnp.array([2.0, 4.0, 3.0])).tolist()
        [0.5, 2.0, 1.0]
    """
    alive = (before > 0) & (behind > 0)
    return jnp.where(alive, jnp.sqrt(jnp.where(alive, behind, 1)) / jnp.sqrt(jnp.where(alive, before, 1)), 1)


class _Form(NamedTuple):
    """What is static of a weight in a pair; ``plain`` if its indices are the units, in order."""

    axes: tuple[int, ...]
    exponent: float
    plain: bool

    @classmethod
    def of(cls, member: Member, size: int) -> _Form:
        return cls(member.axes, member.exponent, np.array_equal(member.units.ravel(), np.arange(size)))

    def ranges(self, magnitudes: jax.Array, units: jax.Array, size: int) -> jax.Array:
        """The largest magnitude of every unit."""
        others = tuple(axis for axis in range(magnitudes.ndim) if axis not in self.axes)
        largest = magnitudes.max(axis=others).ravel()
        if self.plain:
            return largest
        at = jnp.where(units.ravel() < 0, size, units.ravel())
        return jnp.zeros(size + 1, largest.dtype).at[at].max(largest)[:-1]


def _totals(
    leaves: Mapping[str, jax.Array], pairs: Sequence[Symmetry], iterations: int, tolerance: float
) -> list[jax.Array]:
    """By what every pair is scaled in the end. Pairs of the same shapes share a program."""
    members = [[m for m in pair.members if m.role in _WEIGHT] for pair in pairs]
    units = [[jnp.asarray(m.units) for m in some] for some in members]
    forms = [tuple(_Form.of(m, pair.size) for m in some) for some, pair in zip(members, pairs, strict=True)]
    now = {m.path: jnp.abs(leaves[m.path]) for some in members for m in some}
    totals = [jnp.ones(pair.size, jnp.float32) for pair in pairs]
    for _ in range(iterations):
        moves = []
        for number, (some, at, form) in enumerate(zip(members, units, forms, strict=True)):
            paths = list(dict.fromkeys(m.path for m in some))
            which = tuple(paths.index(m.path) for m in some)
            scaled, totals[number], move = _balanced([now[path] for path in paths], at, totals[number], form, which)
            now |= dict(zip(paths, scaled, strict=True))
            moves.append(move)
        if float(jnp.max(jnp.stack(moves))) <= tolerance:
            break
    return totals


@functools.partial(jax.jit, static_argnames=("form", "which"))
def _balanced(
    magnitudes: list[jax.Array],
    units: Sequence[jax.Array],
    total: jax.Array,
    form: tuple[_Form, ...],
    which: tuple[int, ...],
) -> tuple[list[jax.Array], jax.Array, jax.Array]:
    """One pair: magnitudes and total scales after it, and how far the largest scale moved, as a logarithm."""
    sides = []
    for sign in (1, -1):
        own = [i for i, member in enumerate(form) if member.exponent * sign > 0]
        ranges = [form[i].ranges(magnitudes[which[i]], units[i], total.size) for i in own]
        sides.append(functools.reduce(jnp.maximum, ranges))
    scales = equalizing_scales(*sides)
    magnitudes = list(magnitudes)
    for i, member in enumerate(form):
        leaf = magnitudes[which[i]]
        factor = spread(scales, units[i], member.axes, member.exponent, leaf.ndim)
        magnitudes[which[i]] = leaf * factor.astype(leaf.dtype)
    return magnitudes, total * scales.astype(total.dtype), jnp.abs(jnp.log(scales)).max().astype(total.dtype)
