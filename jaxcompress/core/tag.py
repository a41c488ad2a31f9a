"""A leaf kind that holds a dense array as it is, so that the interpreter follows dense parameters too."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress.core.leaf import CompressedArray, is_compressed, leaf_kind


@leaf_kind("dense", trainable=("value",), priority=-1)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Dense(CompressedArray):
    """A dense array that is watched."""

    value: jax.Array

    def alignment(self) -> dict[str, tuple[int | None, ...]]:
        """Every axis is its own."""
        return {"value": tuple(range(len(self.value.shape)))}

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the array."""
        return self.value.dtype

    def materialize(self) -> jax.Array:
        """The array."""
        return self.value

    def matmul(self, x: jax.Array, *, contract: Any, batch: Any, **options: Any) -> jax.Array:
        """The plain product."""
        return lax.dot_general(x, self.value, (contract, batch), **options)

    def conv(self, x: jax.Array, **params: Any) -> jax.Array:
        """The plain convolution."""
        return lax.conv_general_dilated_p.bind(x, self.value, **params)

    def astype(self, dtype: Any) -> Dense:
        """The cast array."""
        return Dense(self.value.astype(dtype))


def tagged(tree: Any) -> Any:
    """The tree with every dense float array (or abstract one) wrapped; compressed leaves stay."""

    def wrap(leaf: Any) -> Any:
        is_float = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
        return Dense(leaf) if is_float and not is_compressed(leaf) else leaf

    return jax.tree.map(wrap, tree, is_leaf=is_compressed)
