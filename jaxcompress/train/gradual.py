"""Gradual magnitude pruning inside any `optax` optimizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jaxcompress.core.parts import setting_at
from jaxcompress.core.paths import Where
from jaxcompress.prune.layers import layer_size
from jaxcompress.prune.mask_state import MaskState
from jaxcompress.prune.masks import drop_smallest, drop_smallest_together
from jaxcompress.solvers.topk import kept_count
from jaxcompress.train.selection import Selection, beside, by_path, require_params
from jaxcompress.train.zeroing import summed, zero_dropped

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites


class GradualState(NamedTuple):
    """State of `gradual_pruning`: calls so far, the masks, the state of the wrapped optimizer."""

    step: jax.Array
    masks: MaskState
    inner: optax.OptState


def gradual_pruning(
    tx: optax.GradientTransformation,
    *,
    sparsity: ArrayLike | Mapping[str, ArrayLike],
    begin_step: int,
    end_step: int,
    every: int = 100,
    initial_sparsity: ArrayLike = 0.0,
    power: float = 3.0,
    scope: Literal["layer", "global"] = "layer",
    where: Where = None,
    sites: Sites | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Prunes the smallest weights step by step while ``tx`` trains.

    At ``begin_step``, every ``every`` steps after it, and at ``end_step``, the masks are chosen anew from the
    magnitudes that the step is about to produce, at the sparsity

        s(t) = sparsity + (initial_sparsity - sparsity) * (1 - (t - begin_step) / (end_step - begin_step)) ** power

    and stay as they are in between and afterwards. Parameters remain plain arrays: the masks live in the state, and
    the update of a dropped entry is ``-p``, so that it is exactly zero after every step under any optimizer. The
    gradient of dropped entries still reaches ``tx``: a weight returns at the next choice if its step outweighs others.

    Nothing may change the updates afterwards: in `optax.chain` it is the last link. `optax.MultiSteps`, `optax.masked`,
    `optax.partition` and `optax.inject_hyperparams` work around it and inside it.

    Args:
        tx: any optimizer.
        sparsity: final fraction to drop, in ``[0, 1]``, or a dict from globs over paths to fractions: the first that
            fits counts, leaves that fit none are not pruned.
        begin_step: number of updates before the first choice of masks.
        end_step: number of updates before the last choice.
        every: updates between choices.
        initial_sparsity: fraction dropped at ``begin_step``.
        power: exponent of the schedule.
        scope: ``"layer"`` prunes each leaf to the sparsity; ``"global"`` compares all leaves on one scale.
        where: leaves to prune; by default those that ``sites`` show as weights, or the float leaves of two axes or
            more.
        sites: what `jaxcompress.sites` found; then the layers of a stacked leaf are pruned one by one.

    Returns:
        A transformation around ``tx``. ``update`` needs ``params``.

    Raises:
        ValueError: if a fraction is outside ``[0, 1]``, the steps are not ``0 <= begin_step <= end_step``, ``every`` is
            below 1, or ``scope`` is another word or global with a sparsity per glob; at ``init``, if ``where`` or a
            glob fits nothing.
        TypeError: at ``init``, if a chosen leaf is compressed.

    Example:
        >>> import optax
        >>> tx = gradual_pruning(optax.adam(1e-3), sparsity=0.9, begin_step=0, end_step=1000, every=100)
        >>> state = tx.init({"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)})
        >>> {path: mask.shape for path, mask in jc.prune.masks_of(state).items()}
        {'kernel': (4, 4)}

    References:
        Zhu and Gupta, 2017, equation 1. https://arxiv.org/abs/1710.01878
    """
    if scope not in ("layer", "global"):
        raise ValueError(f"scope must be 'layer' or 'global', got {scope!r}")
    if isinstance(sparsity, Mapping) and scope == "global":
        raise ValueError("a sparsity per glob needs scope='layer': scope='global' takes one number for all leaves")
    schedule = _Schedule(begin_step, end_step, every, initial_sparsity, power)
    schedule.check(sparsity)
    selection = Selection("gradual_pruning", where, sites, sparsity)
    wrapped = optax.with_extra_args_support(tx)

    def init(params: Any) -> GradualState:
        masks = {part.path: jnp.ones_like(part.array, dtype=bool) for part in selection.parts(params)}
        return GradualState(jnp.int32(0), MaskState(beside(params, masks)), wrapped.init(params))

    def choose(params: Any, updates: Any, step: jax.Array) -> Any:
        """Masks of the magnitudes that ``params + updates`` will have."""
        parts, after = selection.parts(params), by_path(summed(params, updates))
        leaves, names = [after[part.path] for part in parts], [part.path for part in parts]
        if scope == "global" and not isinstance(sparsity, Mapping):
            keep = schedule.keep(sum(leaf.size for leaf in leaves), sparsity, step)
            chosen = drop_smallest_together(leaves, keep, names=names)
        else:
            stacks = [part.stack for part in parts]
            sizes = [layer_size(leaf.shape, stack) for leaf, stack in zip(leaves, stacks, strict=True)]
            keep = [schedule.keep(n, setting_at(sparsity, path), step) for n, path in zip(sizes, names, strict=True)]
            chosen = drop_smallest(leaves, keep, stacks=stacks, names=names)
        return beside(params, {path: leaf.mask for path, leaf in zip(names, chosen, strict=True)})

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, GradualState]:
        require_params(params, "gradual_pruning")
        updates, inner = wrapped.update(updates, state.inner, params, **extra)
        masks = jax.lax.cond(
            schedule.due(state.step),
            lambda: choose(params, updates, state.step),
            lambda: state.masks.masks,
        )
        step = jnp.asarray(optax.safe_increment(state.step))
        return zero_dropped(updates, params, masks), GradualState(step, MaskState(masks), inner)

    return optax.GradientTransformationExtraArgs(init, update)


@dataclasses.dataclass(frozen=True)
class _Schedule:
    begin: int
    end: int
    every: int
    initial: ArrayLike
    power: float

    def check(self, sparsity: ArrayLike | Mapping[str, ArrayLike]) -> None:
        if not 0 <= self.begin <= self.end:
            raise ValueError(f"steps must be 0 <= begin_step <= end_step, got {self.begin} and {self.end}")
        if self.every < 1:
            raise ValueError(f"every must be at least 1, got {self.every}")
        for fraction in (self.initial, *(sparsity.values() if isinstance(sparsity, Mapping) else (sparsity,))):
            kept_count(1, fraction)  # raises outside [0, 1]

    def due(self, step: jax.Array) -> jax.Array:
        regular = (step - self.begin) % self.every == 0
        return (step >= self.begin) & (step <= self.end) & (regular | (step == self.end))

    def keep(self, size: int, final: ArrayLike, step: jax.Array) -> jax.Array:
        """Entries of ``size`` that stay. The last count comes from ``final`` itself, not from float32 arithmetic."""
        left = 1 - (step - self.begin).astype(jnp.float32) / jnp.float32(max(1, self.end - self.begin))
        last, first = jnp.asarray(final, jnp.float32), jnp.asarray(self.initial, jnp.float32)
        now = kept_count(size, last + (first - last) * jnp.maximum(left, 0) ** jnp.float32(self.power))
        return jnp.where(step >= self.end, jnp.asarray(kept_count(size, final), jnp.int32), now)
