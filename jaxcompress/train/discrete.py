"""Discrete gradient descent: weights move from grid point to grid point, and nothing finer is kept of them."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from jaxcompress.quantize.training.on_grid import OnGrid
from jaxcompress.solvers.grid import largest_code, spread
from jaxcompress.train.selection import require_params

Transition: TypeAlias = Literal["unbiased", "tanh"]
_TRANSITIONS = ("unbiased", "tanh")


class DiscreteState(NamedTuple):
    """State of `discrete`: nothing per weight but what the wrapped optimizer holds.

    Attributes:
        step: calls so far.
        key: data of the key that draws the transitions.
        inner: state of the wrapped optimizer.
    """

    step: jax.Array
    key: jax.Array
    inner: optax.OptState


def discrete(
    tx: optax.GradientTransformation, *, key: jax.Array, transition: Transition = "unbiased", m: float = 3.0
) -> optax.GradientTransformationExtraArgs:
    """Trains weights that are on a grid after every step, without a float copy of them.

    What ``tx`` wants a weight to move by, ``d``, is cut where the grid ends and counted in steps of the grid: ``k``
    whole ones (rounded towards zero) and a rest ``v``. The weight moves by ``k`` steps, and with probability ``p`` by
    one more in the direction of ``d``:

        unbiased:  p = |v| / step             so that the mean move is ``d`` (stochastic rounding, Gupta 2015)
        tanh:      p = tanh(m |v| / step)     the transitions of GXNOR-Net (Deng 2018), which favour moving

    Acts on the `OnGrid` leaves that ``jc.quantize.prepare(params, jc.quantize.QAT(method="on_grid"))`` makes; other
    parameters train as ``tx`` has it. Steps of the grid are powers of two, so that ``values + update`` is exact.
    Nothing may change the updates afterwards: in `optax.chain` it is the last link. `optax.MultiSteps` works around it
    and inside it.

    Args:
        tx: any optimizer. What it holds per weight (moments) is its own affair: plain SGD holds nothing.
        key: draws the transitions; its data lies in the state.
        transition: one of the above.
        m: of ``"tanh"``; 3 in the paper.

    Returns:
        A transformation around ``tx``. ``update`` needs ``params``.

    Raises:
        ValueError: if ``transition`` is not one of the above or ``m`` not positive; at ``init``, if the parameters hold
            no `OnGrid` leaf.

    Example:
        >>> import optax
        >>> params = jc.quantize.prepare({"w": jnp.array([[1.0], [-0.5], [1.5]])}, jc.quantize.QAT(3, "on_grid"))
        >>> tx = discrete(optax.sgd(0.5), key=jax.random.key(0))
        >>> updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
        >>> optax.apply_updates(params, updates)["w"].values.tolist()
        [[0.5], [-1.0], [1.0]]

    References:
        Deng et al., 2018 (GXNOR-Net), the discrete state transition of weights. https://arxiv.org/abs/1705.09283
        Gupta et al., 2015, section 3. https://arxiv.org/abs/1502.02551
        Li et al., 2017 (what such training can reach). https://arxiv.org/abs/1706.02379
    """
    if transition not in _TRANSITIONS:
        raise ValueError(f"discrete: transition must be 'unbiased' or 'tanh', got {transition!r}")
    if not m > 0:
        raise ValueError(f"discrete: m must be positive, got {m}")
    wrapped = optax.with_extra_args_support(tx)

    def init(params: Any) -> DiscreteState:
        if jax.tree.leaves(params) and not any(map(is_on_grid, jax.tree.leaves(params, is_leaf=is_on_grid))):
            raise ValueError(
                "discrete: the parameters hold no weights on a grid; make them with "
                "jc.quantize.prepare(params, jc.quantize.QAT(method='on_grid', ...))"
            )
        return DiscreteState(jnp.int32(0), jax.random.key_data(key), wrapped.init(params))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, DiscreteState]:
        require_params(params, "discrete")
        updates, inner = wrapped.update(updates, state.inner, params, **extra)
        now = jax.random.fold_in(jax.random.wrap_key_data(state.key, impl=jax.random.key_impl(key)), state.step)
        leaves, treedef = jax.tree.flatten(params, is_leaf=is_on_grid)
        keys = jax.random.split(now, max(1, len(leaves)))
        moves = [
            _moved(move, leaf, own, transition, m) if is_on_grid(leaf) else move
            for move, leaf, own in zip(treedef.flatten_up_to(updates), leaves, keys, strict=True)
        ]
        step = jnp.asarray(optax.safe_increment(state.step))
        return jax.tree.unflatten(treedef, moves), DiscreteState(step, state.key, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def is_on_grid(leaf: Any) -> bool:
    """True for a leaf that `discrete` moves."""
    return isinstance(leaf, OnGrid)


def discrete_move(
    move: jax.Array,
    values: jax.Array,
    scale: jax.Array,
    key: jax.Array,
    *,
    bits: int,
    transition: Transition = "unbiased",
    m: float = 3.0,
) -> jax.Array:
    """The move of weights on a grid, in whole steps: see `discrete`.

    Args:
        move: what the weights shall move by.
        values: the weights, on the grid.
        scale: its steps, powers of two (see `jaxcompress.solvers.grid`).
        key: consumed.
        bits: width of the symmetric codes, static.
        transition: static.
        m: of ``"tanh"``.

    Returns:
        Array of the shape of ``values``: ``values`` plus this is on the grid.

    Example:
        >>> move = discrete_move(jnp.array([0.5, 9.0]), jnp.zeros(2), jnp.array([0.25]), jax.random.key(0), bits=4)
        >>> move.tolist()
        [0.5, 1.75]
    """
    step = spread(scale, values.shape)
    code, top = values.astype(scale.dtype) / step, jnp.asarray(largest_code(bits), scale.dtype)
    wanted = jnp.clip(move.astype(scale.dtype) / step, -top - code, top - code)
    whole = jnp.trunc(wanted)
    rest = jnp.abs(wanted - whole)
    probability = rest if transition == "unbiased" else jnp.tanh(m * rest)
    further = jax.random.uniform(key, values.shape, scale.dtype) < probability
    return ((whole + jnp.where(further, jnp.sign(wanted), jnp.zeros_like(wanted))) * step).astype(values.dtype)


def _moved(move: OnGrid, leaf: OnGrid, key: jax.Array, transition: Transition, m: float) -> OnGrid:
    taken = discrete_move(move.values, leaf.values, leaf.scale, key, bits=leaf.bits, transition=transition, m=m)
    return move.replace(values=taken, scale=jnp.zeros_like(leaf.scale))
