"""Closed-form update of factors: the one that makes the outputs is fitted anew to the data that now come."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jaxcompress.core.dtypes import wider
from jaxcompress.core.leaf import is_compressed
from jaxcompress.core.moments import Matrices, Statistics, observed_paths
from jaxcompress.core.paths import Where, flatten_with_paths, replace_at, select
from jaxcompress.core.targets import Target, find_targets, require_solved
from jaxcompress.factorize.lowrank import LowRank
from jaxcompress.solvers.sparse_fit import damped


def refit(params: Any, factorized: Any, stats: Statistics, *, damping: ArrayLike = 1e-6, where: Where = None) -> Any:
    """Fits the factor on the side of the outputs, the other one being as it is: ``argmin_V E |x W - x U V|^2``.

    The least-squares optimum ``V = (U^T S U)^-1 U^T S W`` with the second moment ``S`` of the data: SVD-LLM's update
    after truncation. It makes up for an input factor that was found in another way (by `svd`, `asvd`, from other data)
    or was changed since (quantized and made dense again, pruned). In turns every layer is fitted to what the updated
    ones before it let through::

        jc.sequential(fn, factorized, batches, functools.partial(jc.factorize.refit, params))

    What `whitened_svd` found from the same statistics it leaves as it is: that is optimal in both factors. So is
    `whitened_svd` in turns, which errs less on every layer than truncating first and updating in turns.

    Args:
        params: the dense tree.
        factorized: the tree with `LowRank` leaves of arrays. Not changed.
        stats: of `jaxcompress.observe`, with ``second_moment``, of the model as it is now.
        damping: what is added to the diagonal of ``S``, as a fraction of its mean. May be traced.
        where: leaves to update; by default the `LowRank` leaves that have a second moment.

    Returns:
        ``factorized`` with other output factors.

    Raises:
        ValueError: if ``where`` fits nothing or a leaf that is no `LowRank` one of arrays, there is no such leaf, one
            was not observed, or its equations are singular in spite of the damping (seen only outside ``jit``).

    Example:
        >>> params = {"w": jnp.eye(4) + 0.1}
        >>> x = jnp.diag(jnp.array([1.0, 2.0, 3.0, 4.0]))
        >>> stats = jc.observe(lambda p, x: x @ p["w"], params, [x])
        >>> thin = jc.factorize.svd(params, rank=1)
        >>> error = lambda tree: float(jnp.linalg.norm(x @ (params["w"] - tree["w"].materialize())))
        >>> error(refit(params, thin, stats)) < error(thin)
        True

    References:
        Wang et al., 2024, section 3.2 (layer-wise closed-form update). https://arxiv.org/abs/2403.07378
    """
    held = dict(zip(*flatten_with_paths(factorized)[:2], strict=True))
    known = set(observed_paths(stats, "second_moment"))
    chosen = [p for p, leaf in held.items() if p in known and _plain(leaf)] if where is None else select(params, where)
    for path in chosen:
        if not _plain(held[path]):
            raise ValueError(f"refit: {path!r} is no LowRank leaf of plain arrays: leave it out with where=")
    if not chosen:
        raise ValueError(f"refit: no LowRank leaf of plain arrays was observed; observed were {sorted(known)}")
    targets = find_targets(params, stats, where=lambda path, leaf: path in chosen, method="refit")
    changed, solved = {}, []
    for target in targets:
        leaf = held[target.path]
        factor, finite = _fit(
            target.weight,
            leaf,
            target.statistic("second_moment"),
            damping,
            layout=target.layout,
            inputs_are_rows=_inputs_are_rows(target),
        )
        changed[target.path] = factor
        solved.append(finite)
    require_solved(targets, solved)
    return replace_at(factorized, changed)


def _plain(leaf: Any) -> bool:
    return isinstance(leaf, LowRank) and not is_compressed(leaf.u) and not is_compressed(leaf.v)


def _inputs_are_rows(target: Target) -> bool:
    """Whether ``u`` is the factor that meets the data."""
    roles = target.layout.roles
    return bool(roles.output) and min(roles.contracting) < min(roles.output)


@functools.partial(jax.jit, static_argnames=("layout", "inputs_are_rows"))
def _fit(
    weight: jax.Array,
    leaf: LowRank,
    moment: jax.Array,
    damping: ArrayLike,
    *,
    layout: Matrices,
    inputs_are_rows: bool,
) -> tuple[LowRank, jax.Array]:
    """The leaf with another output factor, and whether that is finite."""
    wide = wider(weight.dtype, jnp.float32)
    u: Any = leaf.u
    v: Any = leaf.v
    rank, own = leaf.rank, u if inputs_are_rows else jnp.moveaxis(v, leaf.stack_ndim, -1)
    # The factor of the inputs as a weight of `rank` outputs, laid out as the moments are.
    stack, contracting = layout.roles.stack, layout.roles.contracting
    shifted = {axis: len(stack) + i for i, axis in enumerate(contracting)}
    roles = dataclasses.replace(
        layout.roles,
        stack=tuple(range(len(stack))),
        contracting=tuple(shifted.values()),
        output=(len(stack) + len(contracting),),
        spatial=tuple(shifted[axis] for axis in layout.roles.spatial),
    )
    basis = Matrices((*own.shape[:-1], rank), roles).split(own.astype(wide))
    seen = _product(jax.vmap(lambda m: damped(m, damping))(moment.astype(wide)), basis)
    gram, target = _product(seen.mT, basis), _product(seen.mT, layout.split(weight.astype(wide)))
    unit = jnp.sqrt(jnp.diagonal(gram, axis1=-2, axis2=-1))[..., None]  # columns of factors differ much in scale
    unit = jnp.where(unit > 0, unit, jnp.ones_like(unit))
    found = jnp.linalg.solve(gram / (unit * unit.mT), target / unit) / unit
    finite = jnp.isfinite(found).all()
    out = found.astype(leaf.dtype)
    if inputs_are_rows:
        return leaf.replace(v=out.reshape(leaf.v.shape)), finite
    return leaf.replace(u=out.mT.reshape(leaf.u.shape)), finite


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)
