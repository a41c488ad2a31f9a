"""Dynamic network surgery: masks that prune and splice while the dense weights behind them keep training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcompress.core.dtypes import wider
from jaxcompress.core.parts import Part, setting_at
from jaxcompress.core.paths import Where
from jaxcompress.prune.mask_state import MaskState
from jaxcompress.train.selection import Selection, beside, by_path, require_params
from jaxcompress.train.zeroing import is_hole, sum_dtype, summed

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites


class SurgeryState(NamedTuple):
    """State of `network_surgery`.

    Attributes:
        step: calls so far.
        key: data of the key that decides when masks change.
        masks: the masks.
        dense: the weights that train behind the masks; `optax.MaskedNode` at leaves that are not pruned.
        thresholds: per pruned leaf the magnitude around which it is decided, one per layer.
        inner: state of the wrapped optimizer.
    """

    step: jax.Array
    key: jax.Array
    masks: MaskState
    dense: Any
    thresholds: Any
    inner: optax.OptState


def network_surgery(
    tx: optax.GradientTransformation,
    *,
    c: float | Mapping[str, float],
    end_step: int,
    key: jax.Array,
    margin: float = 0.1,
    gamma: float = 1e-4,
    power: float = 1.0,
    where: Where = None,
    sites: Sites | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Learns masks while ``tx`` trains the dense weights behind them.

    Every layer has two thresholds around ``t = max(mean + c * std, 0)`` of the magnitudes that it has at ``init``:
    a weight below ``a = (1 - margin) * t`` is pruned, one of at least ``b = (1 + margin) * t`` is spliced in, what lies
    between keeps its mask. At call k (from 0) the masks change with probability

        sigma(k) = (1 + gamma * k) ** -power        (0 from ``end_step`` on)

    so that they settle. The model sees masked weights; the gradient at the masked weights moves *all* dense ones, so
    that a connection that was pruned by mistake comes back with the value that it would have. The parameters are the
    masked weights, plain arrays with exact zeros; the dense ones live in the state (one more copy of what is pruned).

    Start from trained weights, as the thresholds come from them. How sparse the network gets is up to ``c``: of
    normal weights the first cut takes about 53 % at ``c = 0``, 79 % at 1 and 93 % at 2.

    ``tx`` is given the dense weights as its parameters, so that weight decay acts on them. Nothing may change the
    updates afterwards: in `optax.chain` it is the last link. `optax.MultiSteps` works around it and inside it.

    Args:
        tx: any optimizer.
        c: standard deviations above the mean magnitude at which to cut; or a dict from globs over paths to numbers: the
            first that fits counts, leaves that fit none are not pruned.
        end_step: the masks stay from this call on, for fine-tuning.
        key: draws at which calls the masks change; its data lies in the state.
        margin: half the width of the band in which masks stay, relative to ``t``. The authors' code has 0.1.
        gamma: how fast changes become rare.
        power: exponent of the same.
        where: leaves to prune; by default those that ``sites`` show as weights, or the float leaves of two axes or
            more.
        sites: what `jaxcompress.sites` found; then the layers of a stacked leaf have thresholds of their own.

    Returns:
        A transformation around ``tx``. ``update`` needs ``params``.

    Raises:
        ValueError: if ``margin`` is outside ``[0, 1]``, or ``gamma``, ``power`` or ``end_step`` are negative; at
            ``init``, if ``where`` or a glob fits nothing.
        TypeError: at ``init``, if a chosen leaf is compressed.

    Example:
        >>> import optax
        >>> tx = network_surgery(optax.sgd(0.0), c=0.0, end_step=10, key=jax.random.key(0))
        >>> params = {"w": jnp.array([[1.0, -6.0], [2.0, 7.0]])}
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> optax.apply_updates(params, updates)["w"].tolist(), state.dense["w"].tolist()
        ([[0.0, -6.0], [0.0, 7.0]], [[1.0, -6.0], [2.0, 7.0]])

    References:
        Guo et al., 2016, equations 3 and 4, algorithm 1. https://arxiv.org/abs/1608.04493
    """
    if not 0 <= margin <= 1:
        raise ValueError(f"margin must lie in [0, 1], got {margin}")
    for name, value in (("gamma", gamma), ("power", power), ("end_step", end_step)):
        if value < 0:
            raise ValueError(f"{name} must be 0 or more, got {value}")
    selection = Selection("network_surgery", where, sites, c)
    wrapped = optax.with_extra_args_support(tx)
    key = key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)
    impl = jax.random.key_impl(key)

    def init(params: Any) -> SurgeryState:
        parts = selection.parts(params)
        return SurgeryState(
            jnp.int32(0),
            jax.random.key_data(key),
            MaskState(beside(params, {part.path: jnp.ones_like(part.array, dtype=bool) for part in parts})),
            beside(params, {part.path: jnp.array(part.array) for part in parts}),
            beside(params, {part.path: _threshold(part, setting_at(c, part.path)) for part in parts}),
            wrapped.init(params),
        )

    def cut_now(state: SurgeryState) -> jax.Array:
        drawn = jax.random.uniform(jax.random.fold_in(jax.random.wrap_key_data(state.key, impl=impl), state.step))
        chance = (1 + jnp.float32(gamma) * state.step.astype(jnp.float32)) ** -jnp.float32(power)
        return (drawn < chance) & (state.step < end_step)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, SurgeryState]:
        require_params(params, "network_surgery")
        whole = _with_dense(params, state.dense)
        updates, inner = wrapped.update(updates, state.inner, whole, **extra)
        dense, now = by_path(summed(whole, updates)), cut_now(state)
        before, thresholds = by_path(state.masks.masks), by_path(state.thresholds)
        masks = {p: jnp.where(now, _surgery(dense[p], m, thresholds[p], margin), m) for p, m in before.items()}
        new = SurgeryState(
            jnp.asarray(optax.safe_increment(state.step)),
            state.key,
            MaskState(beside(params, masks)),
            beside(params, {path: dense[path] for path in masks}),
            state.thresholds,
            inner,
        )
        return _to_masked(updates, params, new.dense, state.masks.masks, new.masks.masks), new

    return optax.GradientTransformationExtraArgs(init, update)


def _threshold(part: Part, c: float) -> jax.Array:
    """``max(mean + c * std, 0)`` of the magnitudes of each layer, with the axes of a layer kept at size 1."""
    size = jnp.abs(jnp.asarray(part.array, wider(part.array.dtype, jnp.float32)))
    axes = tuple(axis for axis in range(size.ndim) if axis not in part.stack)
    return jnp.maximum(size.mean(axes, keepdims=True) + c * size.std(axes, keepdims=True), 0)


def _surgery(dense: jax.Array, mask: jax.Array, threshold: jax.Array, margin: float) -> jax.Array:
    """The function h of equation 3."""
    size = jnp.abs(dense).astype(threshold.dtype)
    return jnp.where(mask, size >= threshold * (1 - margin), size >= threshold * (1 + margin))


def _with_dense(params: Any, dense: Any) -> Any:
    """The parameters with the weights behind the masks in place of the masked ones."""
    leaves, treedef = jax.tree.flatten(params)
    columns = zip(leaves, treedef.flatten_up_to(dense), strict=True)
    return jax.tree.unflatten(treedef, [p if is_hole(d) else d for p, d in columns])


def _to_masked(updates: Any, params: Any, dense: Any, before: Any, after: Any) -> Any:
    """Updates under which the parameters become ``where(after, dense, 0)`` exactly.

    Where a weight was in and stays in, the parameter is the dense weight already, and the update that moved the one
    moves the other to the same float. Where it comes in, the parameter is 0.
    """
    leaves, treedef = jax.tree.flatten(params)

    def update(u: jax.Array, p: jax.Array, d: Any, was: Any, now: Any) -> jax.Array:
        if is_hole(d):
            return u
        dtype = sum_dtype(u, p)
        return jnp.where(now, jnp.where(was, u.astype(dtype), d.astype(dtype)), -p.astype(dtype))

    columns = [treedef.flatten_up_to(tree) for tree in (updates, dense, before, after)]
    return jax.tree.unflatten(
        treedef, [update(u, p, d, was, now) for p, u, d, was, now in zip(leaves, *columns, strict=True)]
    )
