"""The trace of the Hessian, weight by weight, from products with random signs."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress.core.paths import Where
from jaxcompress.core.table import html_table, text_table
from jaxcompress.quantize.second_order.differentiable import Arrays, Loss, Objective, objectives, require_finite, wide

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites


@dataclasses.dataclass(frozen=True, eq=False)
class HessianTrace:
    """Mean diagonal entries of the Hessian, by path; prints as a table. A curvature for `sensitivity`.

    Attributes:
        mean: estimated trace of the leaf's block of the Hessian, divided by its number of weights.
        error: standard error of that estimate over the probes (noise of the data is not in it).
        probes: how many there were.
    """

    mean: Mapping[str, float]
    error: Mapping[str, float]
    probes: int

    name = "mean Hessian trace x squared error"

    def score(self, path: str, difference: jax.Array) -> jax.Array:
        """The mean trace times the squared length of a difference (HAWQ-V2, equation 11).

        A trace that is not positive counts as its standard error: the leaf is flat as far as the probes can tell.
        """
        trace = self.mean[path] if self.mean[path] > 0 else self.error[path]
        return trace * jnp.sum(jnp.square(difference))

    def __contains__(self, path: object) -> bool:
        return path in self.mean

    def __repr__(self) -> str:
        """The table as text."""
        return text_table(*self._table())

    def _repr_html_(self) -> str:
        return html_table(*self._table())

    def _table(self) -> tuple[list[str], list[list[str]], list[str]]:
        rows = [[path, f"{self.mean[path]:.4g}", f"{self.error[path]:.2g}"] for path in self.mean]
        return ["path", "mean trace", "standard error"], rows, [f"{self.probes} probes"]


def hessian_trace(
    loss: Loss,
    params: Any,
    batches: Iterable[Any],
    *,
    key: jax.Array,
    probes: int = 32,
    where: Where = None,
    sites: Sites | None = None,
) -> HessianTrace:
    """Estimates the trace of every weight's block of the Hessian of the mean loss, by Hutchinson's method.

    A probe is a vector ``v`` of random signs over all chosen weights; ``v * (H v)``, summed over a leaf, has that
    leaf's trace as its mean. The product is the derivative of the gradient along ``v``: a probe costs about two
    gradients, and no Hessian is formed. The same probes meet every batch, and all of them run in one program.

    Args:
        loss: ``(params, batch) -> scalar``, a function that ``jit`` accepts; twice differentiable.
        params: tree of float arrays or leaves; compressed ones arrive dense. Not changed.
        batches: the data, iterated once; every batch counts the same.
        key: from `jax.random.key`.
        probes: how many, 2 or more. The standard error falls with their square root.
        where: leaves to probe: globs over paths or a predicate; by default those that ``sites`` show as contraction
            weights or embeddings, without ``sites`` the float leaves of two axes or more.
        sites: what `jaxcompress.sites` found.

    Returns:
        The mean traces with their standard errors.

    Raises:
        ValueError: if ``probes`` is below 2, there is no batch, ``where`` fits nothing, or a result is not finite.
        TypeError: if a chosen leaf is not float.

    Example:
        >>> loss = lambda p, x: jnp.sum(x * p["w"] ** 2)  # a Hessian with the diagonal 2 x
        >>> x = jnp.array([[1.0, 2.0], [3.0, 4.0]])
        >>> hessian_trace(loss, {"w": jnp.ones((2, 2))}, [x], key=jax.random.key(0)).mean
        {'w': 5.0}

    References:
        Dong et al., 2020 (HAWQ-V2), section 3.2. https://arxiv.org/abs/1911.03852
    """
    if isinstance(probes, bool) or not isinstance(probes, int) or probes < 2:
        raise ValueError(f"hessian_trace: probes must be an integer of 2 or more (one has no error), got {probes!r}")
    keys = jax.random.split(key, probes)
    totals: dict[str, np.ndarray] = {}
    count, sizes = 0, {}
    for count, (objective, weights, arrays, batch) in enumerate(
        objectives(loss, params, batches, where, sites, "hessian_trace"), 1
    ):
        found = _products(objective, weights, arrays, batch, keys)
        require_finite(found, count - 1, "hessian_trace")
        sizes = {path: math.prod(weight.shape) for path, weight in weights.items()}
        totals = {path: totals.get(path, 0) + np.asarray(values, np.float64) for path, values in found.items()}
    mean = {path: float(total.mean() / count / sizes[path]) for path, total in totals.items()}
    spread = {
        path: float(total.std(ddof=1) / math.sqrt(probes) / count / sizes[path]) for path, total in totals.items()
    }
    return HessianTrace(mean, spread, probes)


def trace_probes(gradient: Callable[[Arrays], Arrays], weights: Arrays, keys: jax.Array) -> dict[str, jax.Array]:
    """``v * (H v)`` summed over each array, for a vector ``v`` of random signs per key: `hessian_trace` without data.

    Args:
        gradient: from weights to the gradient by them, a traceable function.
        weights: arrays by name.
        keys: from `jax.random.split`, ``[probes]``.

    Returns:
        By name ``[probes]``, in float32 at least; each has the trace of the array's block of the Hessian as its mean.

    Example:
        >>> gradient = jax.grad(lambda w: jnp.sum(w["a"] ** 2 * jnp.array([1.0, 2.0])))
        >>> trace_probes(gradient, {"a": jnp.ones(2)}, jax.random.split(jax.random.key(0), 3))["a"].tolist()
        [6.0, 6.0, 6.0]
    """

    def probe(key: jax.Array) -> dict[str, jax.Array]:
        own = jax.random.split(key, len(weights))
        signs = {
            path: jax.random.rademacher(k, weight.shape, weight.dtype)
            for k, (path, weight) in zip(own, weights.items(), strict=True)
        }
        _, products = jax.jvp(gradient, (weights,), (signs,))
        return {path: jnp.sum(wide(signs[path]) * wide(products[path])) for path in weights}

    return lax.map(probe, keys)


@functools.partial(jax.jit, static_argnums=0)
def _products(objective: Objective, weights: Arrays, params: Any, batch: Any, keys: jax.Array) -> dict[str, jax.Array]:
    return trace_probes(lambda weights: jax.grad(objective)(weights, params, batch), weights, keys)
