"""The curvature that training has left behind: Adam's second moments."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxcompress.core.leaf import CompressedArray, is_compressed
from jaxcompress.core.paths import flatten_with_paths
from jaxcompress.quantize.second_order.diagonal import Diagonal
from jaxcompress.quantize.second_order.differentiable import wide


def second_moments(opt_state: Any, params: Any, *, b2: float | None = None) -> Diagonal:
    """The running mean of squared gradients that an optimizer of Adam's kind holds for every weight.

    Taken for free where training has just ended. They are squares of the gradients of *batches*, so that they are
    smaller than Fisher information by about the size of a batch; within one optimizer's state that is a common factor,
    and so is the correction of their bias: neither changes what is more sensitive than what.

    Args:
        opt_state: state of any optimizer, however wrapped: every node in it with fields ``nu`` and ``count`` is read
            (`optax.scale_by_adam` and all that is built on it).
        params: the parameters that it trained, or those to quantize: says which shape belongs to which path.
        b2: decay of the second moment as the optimizer was given it; then each is divided by ``1 - b2 ** count``. None
            leaves them as they are.

    Returns:
        The diagonal by path: of every float leaf whose second moment has the leaf's shape. Of a compressed leaf, the
        moment of the field that has its dense shape (fake-quantized weights, the values under a mask).

    Raises:
        ValueError: if the state holds no second moments of these parameters, two of one path, none of a step yet
            taken, or ``b2`` is not in ``(0, 1)``.

    Example:
        >>> import optax
        >>> tx, params = optax.adam(0.1), {"w": jnp.ones((2, 1))}
        >>> _, state = tx.update({"w": jnp.array([[2.0], [0.0]])}, tx.init(params))
        >>> second_moments(state, params, b2=0.999)["w"].round(3).tolist()
        [[4.0], [0.0]]

    References:
        Kingma and Ba, 2015, sections 2 and 3. https://arxiv.org/abs/1412.6980
    """
    if b2 is not None and not 0 < b2 < 1:
        raise ValueError(f"second_moments: b2 must be in (0, 1), got {b2!r}")
    states = [node for node in jax.tree.leaves(opt_state, is_leaf=_is_adam) if _is_adam(node)]
    if not states:
        raise ValueError(
            "second_moments: the optimizer's state has no node with the fields nu and count: it is none of Adam's kind "
            "(sgd and lion keep no second moments, adafactor only those of rows and columns)"
        )
    paths, leaves, _ = flatten_with_paths(params)
    shapes = {path: tuple(jnp.shape(leaf)) for path, leaf in zip(paths, leaves, strict=True)}
    found: dict[str, jax.Array] = {}
    for state in states:
        if int(state.count) < 1:
            raise ValueError("second_moments: the optimizer has taken no step yet: its moments are all zero")
        correction = 1.0 if b2 is None else 1 - b2 ** int(state.count)
        moments = dict(zip(*flatten_with_paths(state.nu)[:2], strict=True))
        for path in [path for path in moments if path in shapes]:
            array = _of_shape(moments[path], shapes[path])
            if array is None:
                continue
            if path in found:
                raise ValueError(f"second_moments: two states hold moments of {path!r}: give one of them")
            found[path] = wide(array) / correction
    if not found:
        raise ValueError(f"second_moments: none of the moments belongs to the parameters {paths}")
    return Diagonal(found, name="Adam's second moments")


def _is_adam(node: Any) -> bool:
    return hasattr(node, "nu") and hasattr(node, "count") and not is_compressed(node)


def _of_shape(moment: Any, shape: tuple[int, ...]) -> jax.Array | None:
    if isinstance(moment, CompressedArray):
        fields = (_of_shape(field, shape) for field in moment.components().values())
        return next((field for field in fields if field is not None), None)
    return moment if hasattr(moment, "dtype") and tuple(moment.shape) == shape else None
