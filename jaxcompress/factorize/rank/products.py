"""The products that weights meet in a function, at the shapes of a call: what is timed alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax import lax

from jaxcompress.core.interpreter import Interpreter, Use
from jaxcompress.core.lift import evaluate, split_static
from jaxcompress.core.tag import tagged
from jaxcompress.factorize.lowrank import LowRank


@dataclasses.dataclass(frozen=True)
class Product:
    """One product of a weight: the shape of the data, of the weight as it arrives, and how they meet."""

    x: tuple[int, ...]
    dtype: Any
    shape: tuple[int, ...]
    axes: tuple[int, ...]  # of the parameter, for each axis of the weight as it arrives
    contract: Any
    batch: Any
    conv: tuple[tuple[str, Any], ...] | None

    def dense(self, x: jax.Array, w: jax.Array) -> jax.Array:
        """The product with a dense weight as it arrives."""
        if self.conv is None:
            return lax.dot_general(x, w, (self.contract, self.batch))
        return lax.conv_general_dilated_p.bind(x, w, **dict(self.conv))

    def thin(self, x: jax.Array, leaf: LowRank) -> jax.Array | None:
        """The product with factors; None if the leaf does not serve it."""
        if self.conv is None:
            return leaf.matmul(x, contract=self.contract, batch=self.batch)
        return leaf.conv(x, **dict(self.conv))


class _Listener:
    """Notes the products of every weight; gathers no statistics."""

    def __init__(self) -> None:
        self.found: dict[str, dict[int, Product]] = {}

    def combine(self, a: Any, b: Any) -> Any:
        return a

    def empty(self, like: Any) -> Any:
        return like

    def across(self, found: Any, axes: tuple[str, ...]) -> Any:
        return found

    def lookup(self, run: Interpreter, use: Use, indices: jax.Array) -> None:
        return None

    def contraction(self, run: Interpreter, use: Use, x: jax.Array, out: jax.Array, axes: dict[str, Any]) -> None:
        self._note(use, x, axes["contract"], axes["batch"], None)

    def convolution(self, run: Interpreter, use: Use, x: jax.Array, out: jax.Array, params: dict[str, Any]) -> None:
        self._note(use, x, None, None, tuple(params.items()))

    def _note(self, use: Use, x: jax.Array, contract: Any, batch: Any, conv: Any) -> None:
        product = Product(x.shape, x.dtype, use.shape, tuple(use.origin.axes), contract, batch, conv)
        self.found.setdefault(use.origin.path or "", {})[use.ordinal] = product


def products_of(fn: Callable[..., Any], params: Any, inputs: Any, kwargs: Any) -> dict[str, list[Product]]:
    """The products of every weight of a call, by path; nothing is computed.

    Args:
        fn: the model.
        params: its first argument.
        inputs: the arguments after it; may be abstract.
        kwargs: its keyword arguments.

    Example:
        >>> found = products_of(lambda p, x: x @ p["w"], {"w": jnp.ones((3, 2))}, (jnp.ones((5, 3)),), {})
        >>> found["w"][0].x, found["w"][0].axes
        ((5, 3), (0, 1))
    """
    listener = _Listener()
    static, arrays = split_static(fn, (tagged(params), *inputs), kwargs)
    jax.eval_shape(lambda values: evaluate(Interpreter(listener), fn, static, values), arrays)
    return {path: list(products.values()) for path, products in listener.found.items()}
