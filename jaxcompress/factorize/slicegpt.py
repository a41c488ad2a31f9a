"""SliceGPT: the residual stream turned to its principal directions, and those with the least data deleted."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxcompress.core.observe import Observations, observe
from jaxcompress.core.rotation import Rotation, Rotations, apply, fold_gains, rotations
from jaxcompress.core.shrink.keep import leaf_shapes
from jaxcompress.core.sites import sites


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Sliced:
    """What `slice_residual` returns; ``jaxcompress.shrink(fn, sliced.params, sliced.keep)`` is the smaller model.

    Attributes:
        params: the whole tree, turned: with it ``fn`` computes what it did before.
        keep: kept indices by ``(path, axis)``: the first directions of every axis along the stream.
        rotation: the axes that were turned.
        matrix: ``[n, n]`` float64, orthogonal: columns are the directions, those with the most data first.
        energies: ``[n]``: mean square of the data along each direction, as the sites were weighed.
    """

    params: Any
    keep: Mapping[tuple[str, int], np.ndarray]
    rotation: Rotation
    matrix: np.ndarray
    energies: np.ndarray

    @property
    def kept(self) -> int:
        """Number of directions kept."""
        return len(next(iter(self.keep.values())))

    @property
    def lost(self) -> float:
        """Share of the mean square of the data that is deleted."""
        total = float(self.energies.sum())
        return float(self.energies[self.kept :].sum()) / total if total else 0.0

    def __repr__(self) -> str:
        """What is kept."""
        return f"Sliced({self.kept} of {self.rotation.size} directions kept, {self.lost:.2%} of the energy lost)"


def slice_residual(
    fn: Callable[..., Any],
    params: Any,
    batches: Iterable[Any],
    *,
    fraction: float | None = None,
    keep: int | None = None,
    round_to: int = 8,
    at: str | Rotation | None = None,
    weights: Mapping[str, float] | None = None,
    inputs: Callable[[Any], tuple[Any, ...]] | None = None,
    leaves_per_pass: int | None = None,
    **kwargs: Any,
) -> Sliced:
    """Turns a model's residual stream to the principal directions of its data, and says which to delete.

    The promise: ``fn`` on the turned parameters computes what it computed before, up to rounding; deleting directions
    along which the data is zero changes nothing either. The stream is found from the trace (`jaxcompress.rotations`),
    gains of its norms are folded into the kernels behind them, and the matrix of principal directions is that of the
    second moments of the data that meets the kernels which read the stream. Norms divide by the dense number of
    channels in the shrunk model too.

    One matrix turns the whole stream. The paper has one for each block, with products in the shortcuts between them;
    parameters alone cannot put these there. Its moments are the mean over all kernels that read the stream, layers of
    a stack one by one; ``weights`` weighs them.

    A tied head behind a gain cannot be turned as it is: `jaxcompress.untie` puts a matrix of its own before the head.
    Beside deleting, the kernels that read the stream may be fitted to what they gave: ``jaxcompress.prune.reconstruct``
    with ``keep`` and statistics of the turned parameters.

    Args:
        fn: a function that ``jit`` accepts, with the parameters first.
        params: its parameters: concrete arrays. Not changed.
        batches: the data to calibrate with, as for `jaxcompress.observe`.
        fraction: share of the directions to delete, in ``(0, 1)``; or
        keep: how many to keep.
        round_to: with ``fraction``, what is kept is rounded up to a multiple of this.
        at: which stream: a path that it turns, or one of the rotations. By default the one that turns the most entries.
        weights: by path of a kernel that reads the stream, what its moments count; 1 where not named.
        inputs: turns a batch into the positional arguments after ``params``; as for `jaxcompress.observe`.
        leaves_per_pass: bounds the memory of calibration, as for `jaxcompress.observe`.
        **kwargs: keyword arguments of ``fn``.

    Returns:
        The turned parameters, and ``keep`` for `jaxcompress.shrink`, `jaxcompress.verify`, `jaxcompress.prune`.

    Raises:
        ValueError: if not exactly one of ``fraction`` and ``keep`` is given, a number is out of range or deletes
            nothing, no batch came, nothing can be turned (says what fixes it, and where), a mean is subtracted from the
            stream (a layer norm), no kernel reads it, or data was not finite.

    Example:
        >>> def fn(p, x):
        ...     return jax.nn.relu(x @ p["in"] @ p["up"]) @ p["out"]
        >>> params = {"in": jnp.ones((3, 8)), "up": jnp.ones((8, 4)), "out": jnp.ones((4, 2))}
        >>> sliced = slice_residual(fn, params, [jnp.eye(3)], keep=1)
        >>> small = jc.shrink(fn, sliced.params, sliced.keep)
        >>> small.params["up"].shape, bool(jnp.allclose(small.fn(small.params, jnp.eye(3)), fn(params, jnp.eye(3))))
        ((1, 4), True)

    References:
        Ashkboos et al., 2024, sections 3.2 and 3.3. https://arxiv.org/abs/2401.15024
    """
    batches = list(batches)
    if not batches:
        raise ValueError("slice_residual: batches= gave no batch; there is nothing to calibrate with")
    spread = inputs or (lambda batch: batch if isinstance(batch, tuple) else (batch,))
    example = spread(batches[0])
    rotation = _chosen(rotations(fn, params, *example, **kwargs), at)
    kept = _count(rotation.size, fraction, keep, round_to)
    if rotation.ones is not None:
        raise ValueError(
            f"slice_residual: the stream's mean counts ({rotation.ones}): its directions cannot be deleted apart from "
            "it. Turn it with jaxcompress.core.rotation.apply, or use RMS norms"
        )
    folded = fold_gains(params, rotation)
    readers = _readers(fn, folded, rotation, example, kwargs)
    unknown = sorted(set(weights or ()) - {path for path, _ in readers})
    if unknown:
        raise ValueError(f"slice_residual: weights= names {unknown[0]!r}; the stream is read by {readers}")
    where = list(dict.fromkeys(path for path, _ in readers))
    options: dict[str, Any] = dict(inputs=inputs, leaves_per_pass=leaves_per_pass, **kwargs)
    stats = observe(fn, folded, batches, what="second_moment", where=where, **options)
    moment = combined_moment(stats, readers, leaf_shapes(params), weights or {})
    energies, matrix = principal_directions(moment)
    chosen = np.arange(kept)
    return Sliced(apply(folded, rotation, matrix), dict.fromkeys(rotation.axes, chosen), rotation, matrix, energies)


def principal_directions(moment: Any) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and orthonormal eigenvectors (columns) of a second moment, the largest first, in float64.

    Args:
        moment: symmetric ``[n, n]``, positive semi-definite up to rounding.

    Returns:
        ``(energies [n], matrix [n, n])``; of every direction the entry of largest magnitude is positive.

    Raises:
        ValueError: if the moment is no square matrix, or not finite.

    Example:
        >>> energies, matrix = principal_directions(np.array([[1.0, 0.0], [0.0, 4.0]]))
        >>> energies.tolist(), matrix.tolist()
        ([4.0, 1.0], [[0.0, 1.0], [1.0, 0.0]])
    """
    square = np.asarray(moment, np.float64)
    if square.ndim != 2 or square.shape[0] != square.shape[1]:
        raise ValueError(f"principal_directions: moment must be a square matrix, got the shape {square.shape}")
    if not np.isfinite(square).all():
        raise ValueError("principal_directions: moment holds NaN or infinity")
    energies, matrix = np.linalg.eigh((square + square.T) / 2)
    energies, matrix = np.maximum(energies[::-1], 0), matrix[:, ::-1]
    signs = np.sign(matrix[np.abs(matrix).argmax(0), np.arange(len(matrix))])
    return energies, matrix * np.where(signs == 0, 1, signs)


def combined_moment(
    stats: Observations,
    readers: Sequence[tuple[str, int]],
    shapes: Mapping[str, tuple[int, ...]],
    weights: Mapping[str, float],
) -> np.ndarray:
    """The weighted mean of the second moments of what meets some axes: every kernel, and every layer, counts alike.

    Args:
        stats: of `jaxcompress.observe`, with ``second_moment``.
        readers: ``(path, axis)`` of contracted axes, all of one length.
        shapes: of the parameters, by path.
        weights: by path; 1 where not named.

    Returns:
        ``[n, n]``, float64. Of axes contracted together with others the trace over the others.
    """
    total, count = np.zeros(()), 0.0
    for path, axis in readers:
        for entry in stats[path]:
            if axis not in entry.contracting or "second_moment" not in entry.values:
                continue
            sizes = [shapes[path][a] for a in entry.contracting]
            place, size = entry.contracting.index(axis), shapes[path][axis]
            before, after = math.prod(sizes[:place]), math.prod(sizes[place + 1 :])
            moment = np.asarray(entry["second_moment"], np.float64)
            reached = np.asarray(entry.count).reshape(-1) > 0
            layers = moment.reshape(-1, before, size, after, before, size, after)[reached]
            weight = weights.get(path, 1.0)
            total = total + weight * np.einsum("laibajb->ij", layers)
            count += weight * len(layers)
    if not count > 0:
        raise ValueError(f"slice_residual: the weights of what reads the stream must be positive, got {dict(weights)}")
    return total / count


def _chosen(found: Rotations, at: str | Rotation | None) -> Rotation:
    if isinstance(at, Rotation):
        return at
    if at is not None:
        return found.at(at)
    if not found:
        reasons = "\n  ".join(f"{e.path} axis {e.axis}: {e.reason}" for e in found.excluded)
        raise ValueError(f"slice_residual: no axis of the parameters can be turned:\n  {reasons}")
    return found[0]


def _count(size: int, fraction: float | None, keep: int | None, round_to: int) -> int:
    """How many directions are kept."""
    if (fraction is None) == (keep is None):
        raise ValueError(f"slice_residual: give fraction= or keep=, got fraction={fraction} and keep={keep}")
    if round_to < 1:
        raise ValueError(f"slice_residual: round_to must be positive, got {round_to}")
    if fraction is not None:
        if not 0 < fraction < 1:
            raise ValueError(f"slice_residual: fraction must be between 0 and 1, got {fraction}")
        wanted = size - round(fraction * size)
        keep = max(round_to, -(-wanted // round_to) * round_to)
        if keep >= size:
            raise ValueError(
                f"slice_residual: fraction={fraction} of {size} directions, rounded to multiples of {round_to}, "
                f"deletes none: take fraction={round_to / size:.3g} or more, or a smaller round_to"
            )
    assert keep is not None  # one of them is given
    if not 1 <= keep < size:
        raise ValueError(
            f"slice_residual: keep must be from 1 to {size - 1}, got {keep}; of {size} directions {size} save nothing"
        )
    return keep


def _readers(
    fn: Callable[..., Any], params: Any, rotation: Rotation, example: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[tuple[str, int]]:
    """Members of a rotation that contract the stream's data."""
    met = {(site.path, axis) for site in sites(fn, params, *example, **kwargs) for axis in site.contracting}
    readers = [member for member in rotation.members if member in met]
    if not readers:
        raise ValueError(f"slice_residual: no kernel contracts the stream of {rotation}: there is no data to go by")
    return readers
