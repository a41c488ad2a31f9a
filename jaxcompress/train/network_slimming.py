"""Network slimming: an L1 penalty on normalization scales, as a proximal step."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcompress.core.paths import Where, flatten_with_paths, select
from jaxcompress.train.selection import require_params
from jaxcompress.train.zeroing import sum_dtype


class SlimmingState(NamedTuple):
    """State of `network_slimming`: calls so far, and the state of the wrapped optimizer."""

    step: jax.Array
    inner: optax.OptState


def network_slimming(
    tx: optax.GradientTransformation,
    *,
    strength: float | jax.Array,
    learning_rate: optax.ScalarOrSchedule,
    where: Where = "**/scale",
) -> optax.GradientTransformationExtraArgs:
    """Drives the scales of normalization layers to exact zeros while ``tx`` trains.

    The loss gets ``strength * sum(|scale|)``. After each update of ``tx`` the scales take the proximal step of that
    penalty, which shrinks them towards zero and stops there:

        scale <- sign(s) * max(|s| - learning_rate * strength, 0),    s = scale + update

    The paper adds the subgradient ``strength * sign(scale)`` instead, under which scales oscillate around zero and
    never are zero; and an optimizer such as Adam would divide it by the size of the gradient. With plain SGD the
    proximal step is ISTA, exact for this penalty; with others it acts beside the optimizer, as AdamW's decay does.

    A channel whose scale is zero puts out a constant, its shift; `jaxcompress.prune` chooses channels by the scales.
    `optax.MultiSteps` belongs around it (inside, the calls that only accumulate would shrink too). Nothing may change
    the updates afterwards: in `optax.chain` it is the last link.

    Args:
        tx: any optimizer, with its learning rate.
        strength: of the penalty, 0 or more; 1e-4 and 1e-5 in the paper. May be traced.
        learning_rate: that of ``tx``, a number or an `optax` schedule of the calls.
        where: the scales; by default what Flax calls so, which takes those of LayerNorm too.

    Returns:
        A transformation around ``tx``. ``update`` needs ``params``.

    Raises:
        ValueError: if ``strength`` is negative; at ``init``, if ``where`` fits nothing.

    Example:
        >>> import optax
        >>> tx = network_slimming(optax.sgd(0.5), strength=0.2, learning_rate=0.5, where="scale")
        >>> params = {"scale": jnp.array([1.0, 0.05, -1.0])}
        >>> updates, _ = tx.update({"scale": jnp.zeros(3)}, tx.init(params), params)
        >>> optax.apply_updates(params, updates)["scale"].round(3).tolist()
        [0.9..., 0.0, -0.9...]

    References:
        Liu et al., 2017, equation 1. https://arxiv.org/abs/1708.06519
        Beck and Teboulle, 2009 (the proximal step). https://doi.org/10.1137/080716542
    """
    if not isinstance(strength, jax.Array) and not strength >= 0:
        raise ValueError(f"strength must be 0 or more, got {strength}")
    wrapped = optax.with_extra_args_support(tx)

    def chosen(params: Any) -> frozenset[str]:
        return frozenset(select(params, where)) if jax.tree.leaves(params) else frozenset()

    def init(params: Any) -> SlimmingState:
        chosen(params)
        return SlimmingState(jnp.int32(0), wrapped.init(params))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, SlimmingState]:
        require_params(params, "network_slimming")
        updates, inner = wrapped.update(updates, state.inner, params, **extra)
        rate = learning_rate(state.step) if callable(learning_rate) else learning_rate
        scales = chosen(params)
        paths, leaves, treedef = flatten_with_paths(params)
        columns = zip(paths, leaves, treedef.flatten_up_to(updates), strict=True)
        updates = [_shrunk(u, p, rate, strength) if path in scales else u for path, p, u in columns]
        step = jnp.asarray(optax.safe_increment(state.step))
        return jax.tree.unflatten(treedef, updates), SlimmingState(step, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def _shrunk(update: jax.Array, param: jax.Array, rate: Any, strength: Any) -> jax.Array:
    """The update followed by soft thresholding; exactly ``-param`` where the result is zero."""
    dtype = sum_dtype(update, param)
    update, param = update.astype(dtype), param.astype(dtype)
    after, threshold = param + update, jnp.asarray(rate, dtype) * jnp.asarray(strength, dtype)
    return jnp.where(jnp.abs(after) <= threshold, -param, update - jnp.sign(after) * threshold)
