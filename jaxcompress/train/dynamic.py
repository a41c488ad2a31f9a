"""Sparse training from random masks: what `rigl`, `sparse_evolutionary` and `static_sparse` share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcompress.core.dtypes import wider
from jaxcompress.core.parts import Part
from jaxcompress.prune.layers import layer_count, over_layers
from jaxcompress.prune.mask_state import MaskState
from jaxcompress.solvers.placement import keeping_placement
from jaxcompress.solvers.topk import kept_count, topk_mask
from jaxcompress.train.moments import reset_moments
from jaxcompress.train.random_masks import Allocation, layer_keys, layer_sparsities, random_masks
from jaxcompress.train.selection import Selection, beside, by_path, require_params
from jaxcompress.train.zeroing import is_hole, zero_dropped

DropSchedule = Literal["cosine", "constant"]


class DynamicState(NamedTuple):
    """State of sparse training: calls so far, the data of the key, the masks, the state of the wrapped optimizer."""

    step: jax.Array
    key: jax.Array
    masks: MaskState
    inner: optax.OptState


@dataclasses.dataclass(frozen=True)
class Rewiring:
    """When connections move, how many, and where they may grow.

    Attributes:
        every: calls between two rewirings; the first is at call ``every``.
        end: no rewiring at this call or later.
        fraction: of the active weights that move at first.
        schedule: ``"cosine"`` anneals the fraction to 0 at ``end``, ``"constant"`` keeps it.
        growth: what is grown where.
    """

    every: int
    end: int
    fraction: float
    schedule: DropSchedule
    growth: Literal["gradient", "random"]

    def check(self) -> None:
        """Raises ValueError for what cannot be carried out."""
        if self.every < 1:
            raise ValueError(f"every must be at least 1, got {self.every}")
        if self.end < 0:
            raise ValueError(f"end_step must be 0 or more, got {self.end}")
        if not 0 <= self.fraction <= 1:
            raise ValueError(f"drop_fraction must lie in [0, 1], got {self.fraction}")
        if self.schedule not in ("cosine", "constant"):
            raise ValueError(f"schedule must be 'cosine' or 'constant', got {self.schedule!r}")

    def due(self, step: jax.Array) -> jax.Array:
        """True at the calls that rewire."""
        return (step > 0) & (step < self.end) & (step % self.every == 0)

    def fraction_at(self, step: jax.Array) -> jax.Array:
        """The fraction of the active weights that moves."""
        if self.schedule == "constant":
            return jnp.float32(self.fraction)
        phase = step.astype(jnp.float32) / jnp.float32(max(self.end, 1))
        return jnp.float32(self.fraction / 2) * (1 + jnp.cos(jnp.float32(jnp.pi) * phase))


def sparse_training(
    tx: optax.GradientTransformation,
    *,
    selection: Selection,
    sparsity: float | Mapping[str, float],
    allocation: Allocation,
    key: jax.Array,
    rewiring: Rewiring | None,
) -> optax.GradientTransformationExtraArgs:
    """Trains under random masks with ``tx``, and rewires them.

    ``tx`` sees gradients that are zero where the masks drop. A call that rewires takes no gradient step.
    """
    wrapped = optax.with_extra_args_support(tx)
    key = key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)
    impl = jax.random.key_impl(key)
    if allocation not in ("erk", "uniform"):
        raise ValueError(
            f"allocation must be 'erk' or 'uniform', got {allocation!r}: or give sparsity= a dict of paths"
        )
    for fraction in sparsity.values() if isinstance(sparsity, Mapping) else (sparsity,):
        kept_count(1, fraction)  # raises outside [0, 1]
    if rewiring is not None:
        rewiring.check()

    def init(params: Any) -> DynamicState:
        sparsities = layer_sparsities(params, selection, sparsity=sparsity, allocation=allocation)
        masks = random_masks(selection.parts(params), sparsities, key)
        # The data of the key, not the key: every checkpoint library can write it.
        return DynamicState(
            jnp.int32(0), jax.random.key_data(key), MaskState(beside(params, masks)), wrapped.init(params)
        )

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, DynamicState]:
        require_params(params, selection.method)
        masks = state.masks.masks

        def train() -> tuple[Any, Any, Any]:
            stepped, inner = wrapped.update(_masked(updates, masks), state.inner, params, **extra)
            return zero_dropped(stepped, params, masks), masks, inner

        def rewire() -> tuple[Any, Any, Any]:
            assert rewiring is not None
            step_key = jax.random.fold_in(jax.random.wrap_key_data(state.key, impl=impl), state.step)
            new = _rewired(selection.parts(params), by_path(updates), by_path(masks), rewiring, state.step, step_key)
            new = beside(params, new)
            staying = jax.tree.map(jnp.logical_and, masks, new)
            still = zero_dropped(jax.tree.map(jnp.zeros_like, params), params, staying)
            still = jax.tree.map(lambda u, like: u.astype(like.dtype), still, jax.eval_shape(train)[0])
            return still, new, reset_moments(state.inner, wrapped.init(params), params, staying)

        after = train() if rewiring is None else jax.lax.cond(rewiring.due(state.step), rewire, train)
        step = jnp.asarray(optax.safe_increment(state.step))
        return after[0], DynamicState(step, state.key, MaskState(after[1]), after[2])

    return optax.GradientTransformationExtraArgs(init, update)


def _masked(gradients: Any, masks: Any) -> Any:
    """Gradients that are zero where the masks drop."""
    leaves, treedef = jax.tree.flatten(gradients)
    columns = zip(leaves, treedef.flatten_up_to(masks), strict=True)
    return jax.tree.unflatten(treedef, [g if is_hole(m) else jnp.where(m, g, jnp.zeros_like(g)) for g, m in columns])


def _rewired(
    parts: Sequence[Part],
    gradients: Mapping[str, jax.Array],
    masks: Mapping[str, jax.Array],
    rewiring: Rewiring,
    step: jax.Array,
    key: jax.Array,
) -> dict[str, jax.Array]:
    """The masks after a rewiring, by path."""
    if not parts:
        return {}
    stacks = tuple(part.stack for part in parts)
    counts = [layer_count(part.array.shape, part.stack) for part in parts]
    active = [masks[part.path] for part in parts]
    weights: list[Any] = [part.array for part in parts]
    extras: list[list[jax.Array]] = [[jnp.broadcast_to(rewiring.fraction_at(step), (n,)) for n in counts]]
    if rewiring.growth == "gradient":
        move, columns = _move_by_gradient, [active, [gradients[part.path] for part in parts]]
    else:
        move, columns = _move_at_random, [active]
        extras.append(layer_keys(key, counts))

    def rewire(weights: list[jax.Array], others: Any, extras: Any) -> list[jax.Array]:
        return over_layers(move, [weights, *others], extras, stacks=stacks)

    new = keeping_placement(rewire, weights, columns, extras)
    return {part.path: mask for part, mask in zip(parts, new, strict=True)}


def _move_by_gradient(weights: jax.Array, mask: jax.Array, gradient: jax.Array, fraction: jax.Array) -> jax.Array:
    return _move(weights, mask, jnp.abs(gradient), fraction)


def _move_at_random(weights: jax.Array, mask: jax.Array, fraction: jax.Array, key: jax.Array) -> jax.Array:
    return _move(weights, mask, jax.random.uniform(key, weights.shape), fraction)


def _move(weights: jax.Array, mask: jax.Array, wanted: jax.Array, fraction: jax.Array) -> jax.Array:
    """Drops the smallest active weights of a flat layer; as many of the most wanted grow among all the others.

    What was just dropped may grow again; it then keeps its value. The two choices are one loop: compiled once.
    """
    active = jnp.sum(mask, dtype=jnp.int32)
    moving = jnp.minimum(jnp.round(fraction * active.astype(jnp.float32)).astype(jnp.int32), active)
    dtype = wider(weights.dtype, wanted.dtype)
    last = jnp.asarray(-1, dtype)
    scores = jnp.stack([jnp.where(mask, jnp.abs(weights).astype(dtype), last), wanted.astype(dtype)])

    def choose(chosen: jax.Array, turn: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        scores, count = turn
        return chosen | topk_mask(jnp.where(chosen, last, scores), count), None

    return jax.lax.scan(choose, jnp.zeros_like(mask), (scores, jnp.stack([active - moving, moving])))[0]
