"""PCA of data that do not fit into memory, or that never end: a state that takes batches."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxcompress.factorize.data_rows import checked_count, or_one
from jaxcompress.factorize.pca import PCA, over_thresholds, pca_of_covariance, with_signs
from jaxcompress.solvers.lowrank import truncated_svd
from jaxcompress.solvers.running_covariance import Running, merged, no_rows, of_rows


class RunningCovariance(NamedTuple):
    """What an exact incremental PCA has seen: mean and covariance, in ``features**2`` numbers whatever comes.

    A pytree of arrays that keep their shapes: `update` runs under ``jit``, in `lax.scan`, and under ``vmap``; what
    several devices saw is joined by `merge`. The result does not depend on how rows are split into batches, beyond
    rounding. It counts up to 2^31 - 1 rows.

    Attributes:
        seen: count, mean and scatter.
    """

    seen: Running

    def update(self, x: jax.Array, rows: jax.Array | None = None) -> RunningCovariance:
        """With the rows of one batch.

        Args:
            x: ``[n, features]``, float. In ``jit`` nothing says so if it holds NaN: `pca` then does.
            rows: bool ``[n]``: the rows that count, so that a last batch can be filled up to the shape of the others.

        Raises:
            ValueError: if the shape does not fit.
        """
        x = _checked(x, rows, self.seen.mean)
        return RunningCovariance(_with_rows(self.seen, x, rows))

    def merge(self, other: RunningCovariance) -> RunningCovariance:
        """What both have seen."""
        return RunningCovariance(merged(self.seen, other.seen))

    def pca(
        self,
        *,
        components: int | None = None,
        explained: ArrayLike | None = None,
        eigenvalue: ArrayLike | None = None,
        standardize: bool = False,
        whiten: bool = False,
        masked: bool = False,
    ) -> PCA:
        """The PCA of all rows seen; arguments, result and errors as those of `jaxcompress.factorize.pca`."""
        _require_rows(self.seen.count)
        count = checked_count(components, len(self.seen.mean), "incremental_pca", "components")
        fitted = _of_running(self.seen, components=count, standardize=standardize, whiten=whiten)
        _require_finite(fitted)
        return over_thresholds(fitted, explained, eigenvalue, masked=masked, method="incremental_pca")


class RunningSubspace(NamedTuple):
    """What an incremental PCA of few components has seen: ``components * features`` numbers, for many features.

    Each batch is joined with the components so far, and what falls below the leading ones is lost: the result is exact
    only while the data have no more directions than there are components.

    Attributes:
        count: rows seen, int32.
        mean: of each feature.
        squares: the sum of squared differences from the mean, of each feature.
        directions: orthonormal rows times their singular values, ``[components, features]``.
    """

    count: jax.Array
    mean: jax.Array
    squares: jax.Array
    directions: jax.Array

    def update(self, x: jax.Array, rows: jax.Array | None = None) -> RunningSubspace:
        """With the rows of one batch; as `RunningCovariance.update`."""
        x = _checked(x, rows, self.mean)
        return _with_directions(self, x, rows)

    def pca(self, *, components: int | None = None, whiten: bool = False) -> PCA:
        """The leading components of all rows seen; as `jaxcompress.factorize.pca`."""
        _require_rows(self.count)
        count = checked_count(components, self.directions.shape[0], "incremental_pca", "components")
        fitted = _of_subspace(self, components=count, whiten=whiten)
        _require_finite(fitted)
        return fitted


def incremental_pca(
    features: int, *, components: int | None = None, dtype: jax.typing.DTypeLike = "float32"
) -> RunningCovariance | RunningSubspace:
    """An incremental PCA that has seen nothing yet.

    ``state = state.update(batch)`` for every batch, then ``state.pca(components=...)``.

    Args:
        features: entries of a row, 1 or more.
        components: None for the exact form, which holds the covariance; or how many directions to hold in its place,
            for rows so long that ``features**2`` numbers are too many.
        dtype: float32, or float64 where JAX has it.

    Returns:
        `RunningCovariance`, or with ``components`` `RunningSubspace`.

    Raises:
        ValueError: if ``features`` or ``components`` is out of range, or ``dtype`` is another one.

    Example:
        >>> batches = jnp.array([[[0.0, 0.0], [2.0, 2.0]], [[4.0, 4.0], [6.0, 6.0]]])
        >>> state, _ = jax.lax.scan(lambda state, x: (state.update(x), None), incremental_pca(2), batches)
        >>> state.pca(components=1).variances.round(3).tolist()
        [13.333...]

    References:
        Chan, Golub and LeVeque, 1979 (exact). Ross et al., 2008, section 2.1 (few components).
        https://doi.org/10.1007/s11263-007-0075-7
    """
    if isinstance(features, bool) or not isinstance(features, int) or features < 1:
        raise ValueError(f"incremental_pca: features must be an integer of 1 or more, got {features!r}")
    if jnp.dtype(dtype) not in (jnp.float32, jnp.float64):
        raise ValueError(f"incremental_pca: dtype must be float32 or float64, got {jnp.dtype(dtype)}")
    if components is None:
        return RunningCovariance(no_rows(features, jnp.dtype(dtype)))
    count = checked_count(components, features, "incremental_pca", "components")
    zeros = jnp.zeros((count, features), dtype)
    return RunningSubspace(jnp.int32(0), zeros[0], zeros[0], zeros)


@jax.jit
def _with_rows(seen: Running, x: jax.Array, rows: jax.Array | None) -> Running:
    return merged(seen, of_rows(x, rows))


@jax.jit
def _with_directions(state: RunningSubspace, x: jax.Array, rows: jax.Array | None) -> RunningSubspace:
    if rows is not None:
        x = jnp.where(rows[:, None], x, jnp.zeros_like(x))
    new = jnp.int32(x.shape[0]) if rows is None else jnp.sum(rows, dtype=jnp.int32)
    count = state.count + new
    before, added, total = (n.astype(x.dtype) for n in (state.count, new, jnp.maximum(count, 1)))
    mean = jnp.sum(x, axis=0) / jnp.maximum(added, 1)
    centred = x - mean[None, :]
    if rows is not None:
        centred = jnp.where(rows[:, None], centred, jnp.zeros_like(x))
    apart = jnp.sqrt(before * added / total) * (mean - state.mean)
    stacked = jnp.concatenate([state.directions, centred, apart[None, :]])
    _, s, vt = truncated_svd(stacked, rank=state.directions.shape[0])
    squares = state.squares + jnp.sum(centred * centred, axis=0) + apart * apart
    return RunningSubspace(count, state.mean + added / total * (mean - state.mean), squares, s[:, None] * vt)


@functools.partial(jax.jit, static_argnames=("components", "standardize", "whiten"))
def _of_running(seen: Running, *, components: int, standardize: bool, whiten: bool) -> PCA:
    freedom = jnp.maximum(seen.count - 1, 1).astype(seen.mean.dtype)
    return pca_of_covariance(
        seen.mean, seen.scatter / freedom, components=components, standardize=standardize, whiten=whiten
    )


@functools.partial(jax.jit, static_argnames=("components", "whiten"))
def _of_subspace(state: RunningSubspace, *, components: int, whiten: bool) -> PCA:
    freedom = jnp.maximum(state.count - 1, 1).astype(state.mean.dtype)
    directions = state.directions[:components]
    s = jnp.linalg.norm(directions, axis=1)
    real = s > s[0] * directions.shape[1] * jnp.finfo(s.dtype).eps  # the others are rounding: fewer directions so far
    return PCA(
        state.mean,
        jnp.ones_like(state.mean),
        jnp.where(real[:, None], with_signs(directions / or_one(s)[:, None]), 0),
        jnp.where(real, s * s / freedom, 0),
        jnp.sum(state.squares) / freedom,
        whiten,
    )


def _checked(x: jax.Array, rows: jax.Array | None, mean: jax.Array) -> jax.Array:
    x = jnp.asarray(x)
    if x.ndim != 2 or x.shape[1] != mean.shape[-1]:
        raise ValueError(f"incremental_pca: a batch must be [rows, {mean.shape[-1]}], got the shape {x.shape}")
    if rows is not None and (rows.shape != x.shape[:1] or rows.dtype != jnp.bool_):
        raise ValueError(f"incremental_pca: rows must be bool of shape {x.shape[:1]}, got {rows.dtype}{rows.shape}")
    return x.astype(mean.dtype)


def _require_rows(count: jax.Array) -> None:
    if not isinstance(count, Tracer) and (count < 2).any():
        raise ValueError(f"incremental_pca: has seen {count} rows, two are needed: call update(batch) first")


def _require_finite(fitted: PCA) -> None:
    finite = jnp.isfinite(fitted.total_variance).all()
    if not isinstance(finite, Tracer) and not finite:
        raise ValueError(
            "incremental_pca: the batches held NaN or infinity, or numbers whose squares are: drop or fill such rows, "
            "or multiply the data by a constant first"
        )
