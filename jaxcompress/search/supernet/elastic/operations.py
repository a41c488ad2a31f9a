"""One of several operations."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcompress.search.supernet.elastic.layer import Choice, is_static


class OperationChoice(nn.Module):
    """Applies the operation that is chosen; all of them share the input and the shape of their results.

    Attributes:
        operations: modules; ``lambda x: x`` as `flax.linen.Sequential` takes it is one too.
        conditional: at a runtime choice, ``lax.switch`` computes the chosen one alone (under `vmap` it does not), where
            False computes all and selects. On CPU gradients of convolutions are slow inside of ``switch``.

    Example:
        >>> layer = OperationChoice((nn.Dense(3), lambda x: x))
        >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 3)), 0)
        >>> layer.apply(variables, jnp.ones((1, 3)), jnp.int32(1)).tolist()
        [[1.0, 1.0, 1.0]]
    """

    operations: tuple[Any, ...]
    conditional: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, choice: Choice, *args: Any, **kwargs: Any) -> jax.Array:
        """Applies an operation.

        Args:
            x: the data.
            choice: position in ``operations``; a runtime int or a Python one.
            *args: of the operations, after the data.
            **kwargs: of the operations.
        """
        if is_static(choice) and not self.is_initializing():
            return self.operations[self._place(choice)](x, *args, **kwargs)
        if self.conditional and not self.is_initializing():
            branches = [lambda own, x, i=i: own.operations[i](x, *args, **kwargs) for i in range(len(self.operations))]
            return nn.switch(choice, branches, self, x)
        found = [operation(x, *args, **kwargs) for operation in self.operations]
        shapes = {(one.shape, one.dtype) for one in found}
        if len(shapes) > 1:
            raise ValueError(
                f"OperationChoice {self.name!r}: results differ in shape or dtype: {sorted(map(str, shapes))}"
            )
        return jnp.stack(found)[self._place(choice) if is_static(choice) else choice]

    def _place(self, choice: Any) -> int:
        if choice is None or not 0 <= choice < len(self.operations):
            raise ValueError(
                f"OperationChoice {self.name!r}: choice must be 0 to {len(self.operations) - 1}, got {choice}"
            )
        return int(choice)
