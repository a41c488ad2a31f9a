"""The proxies on arrays: what is computed from patterns, Jacobians and gradients."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxcompress.core.dtypes import wider
from jaxcompress.search.proxies.relus import Patterns, agreement

_OFFSET = 1e-5  # k of Mellor et al. 2020


def nwot_score(activations: Sequence[jax.Array] | jax.Array) -> jax.Array:
    """``log |K|`` of the kernel of activation patterns: ``K_ij`` counts the units in which two examples agree.

    That is ``N_A - d_H(c_i, c_j)`` with the Hamming distance of the patterns. Units that are exactly 0 in every example
    (masked) do not count. Minus infinity where two examples cannot be told apart.

    Args:
        activations: what is rectified, ``[batch, ...]``, one array or several.

    Returns:
        A float scalar; higher is better.

    Raises:
        ValueError: without activations.

    Example:
        >>> x = jnp.array([[1.0, -1.0, 2.0], [1.0, 1.0, -2.0]])
        >>> round(float(nwot_score(x)), 4)  # log(3 * 3 - 1 * 1)
        2.0794

    References:
        Mellor et al., Neural architecture search without training, ICML 2021, equation 2. https://arxiv.org/abs/2006.04647
    """
    listed = [activations] if isinstance(activations, jax.Array) else list(activations)
    if not listed:
        raise ValueError("nwot_score: no activations; give those of one layer at least")
    found = [agreement(x.reshape(len(x), -1)) for x in listed]
    return log_determinant(jax.tree.map(lambda first, *others: sum(others, first), *found))


def log_determinant(patterns: Patterns) -> jax.Array:
    """``log |K|``, of ``K`` over the number of units, whose entries are at most 1."""
    units = jnp.maximum(patterns.units, 1.0)
    sign, log = jnp.linalg.slogdet(patterns.agreement / units)
    return jnp.where(sign > 0, log + len(patterns.agreement) * jnp.log(units), -jnp.inf)


def jacobian_covariance_score(jacobian: jax.Array) -> jax.Array:
    """``-sum(log(s + k) + 1 / (s + k))`` over the eigenvalues ``s`` of the correlations between rows, ``k = 1e-5``.

    The eigenvalues are squares of singular values, and so nothing below zero or below the precision of float32 reaches
    ``1 / (s + k)``, as it does where they are taken from the matrix of correlations.

    Args:
        jacobian: ``[batch, ...]``: the derivative of the sum of the outputs by the input, of every example.

    Returns:
        A float scalar; higher is better. NaN if a row is constant (it has no correlations).

    References:
        Mellor et al., version 1 of https://arxiv.org/abs/2006.04647v1, section 3.
    """
    rows = jacobian.reshape(len(jacobian), -1)
    rows = rows.astype(wider(rows.dtype, jnp.float32))  # no decomposition takes less
    rows = rows / jnp.max(jnp.abs(rows), 1, keepdims=True)  # squares of small derivatives would underflow
    rows = rows - rows.mean(1, keepdims=True)
    rows = rows / jnp.sqrt(jnp.square(rows).sum(1, keepdims=True))
    short = max(0, len(rows) - rows.shape[1])  # eigenvalues that are zero
    values = jnp.square(jnp.linalg.svd(rows, compute_uv=False))
    values = jnp.concatenate([values, jnp.zeros(short, values.dtype)])
    return -jnp.sum(jnp.log(values + _OFFSET) + 1 / (values + _OFFSET))


def gradient_norm_score(gradients: Sequence[jax.Array]) -> jax.Array:
    """The sum of the Euclidean norms of the gradients of every leaf; without overflow of the squares.

    Example:
        >>> float(gradient_norm_score([jnp.array([3.0, 4.0]), jnp.array([[2.0]])]))
        7.0

    References:
        Abdelfattah et al., Zero-cost proxies for lightweight NAS, 2021, section 3.1. https://arxiv.org/abs/2101.08134
    """
    norms = [_norm(gradient) for gradient in gradients]
    return sum((norm.astype(float) for norm in norms), jnp.zeros((), float))


def _norm(x: jax.Array) -> jax.Array:
    x = x.astype(wider(x.dtype, jnp.float32))
    largest = jnp.max(jnp.abs(x))
    unit = jnp.where(largest > 0, largest, jnp.ones((), x.dtype))
    return largest * jnp.sqrt(jnp.square(x / unit).sum())
