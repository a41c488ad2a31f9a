"""What is lost when mixtures become single operations, with the weights they were trained with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jaxcompress.search.darts.discretize import one_hot
from jaxcompress.search.darts.relaxation import doubt, relax


class Gap(NamedTuple):
    """Scalars.

    Attributes:
        relaxed: the error of the mixture.
        discrete: the error of the discrete network with the same weights.
        doubt: how undecided the mixtures were, from 1 down to 0 (`jaxcompress.search.darts.doubt`).
    """

    relaxed: jax.Array
    discrete: jax.Array
    doubt: jax.Array

    @property
    def gap(self) -> jax.Array:
        """How much more error the discrete network makes."""
        return self.discrete - self.relaxed


def discretization_gap(
    apply: Callable[..., Any],
    params: Any,
    alphas: Any,
    codes: Any,
    data: tuple[Any, Any],
    *,
    error: Callable[[Any, Any], jax.Array],
    kept: Any = None,
) -> Gap:
    """Compares the mixture with the network that was read off it, before that is trained anew.

    A large gap says that the search optimized something else than what it delivers.

    Args:
        apply: ``(params, mixture, inputs) -> outputs``, as in `search`.
        params: the shared weights.
        alphas: the architecture parameters.
        codes: a tree like ``alphas``, int32 without the last axis: the operation of every edge.
        data: ``(inputs, targets)``, evaluated as one batch.
        error: ``(outputs, targets) -> scalar``.
        kept: a tree like ``codes``, bool: which edges stay; None: all.
    """
    inputs, targets = data

    def hard(alpha: jax.Array, code: jax.Array, stays: jax.Array | None = None) -> jax.Array:
        return one_hot(code, alpha.shape[-1], stays)

    mixture = jax.tree.map(hard, alphas, codes) if kept is None else jax.tree.map(hard, alphas, codes, kept)
    return Gap(
        error(apply(params, relax(alphas), inputs), targets),
        error(apply(params, mixture, inputs), targets),
        doubt(alphas),
    )
