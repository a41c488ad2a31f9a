"""What the compressed tables share: lookups, tied heads and stacks, from three functions of one layer's fields."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress.core.leaf import ArrayOrLeaf, CompressedArray, FieldOp, is_compressed
from jaxcompress.core.lift import lift
from jaxcompress.core.roles import Roles

Axes = tuple[tuple[int, ...], tuple[int, ...]]
Fields = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Options:
    """Of `jax.lax.dot_general`, as one hashable argument."""

    precision: Any = None
    preferred_element_type: Any = None


class Table(CompressedArray):
    """A table ``stack + (rows, dim)`` whose rows follow from their number; the base class of the kinds of this folder.

    A kind gives functions of one layer's fields (arrays by name; a field that is absent is left out) and of its
    settings. They are plain `jax.numpy`, and run under `jaxcompress.lift` where a field is a leaf itself, so that a
    table inside may be int8 in turn.

    Attributes:
        main: name of a field ``stack + (two axes)``, which tells the stack and the dtype.
        take: ``take(fields, indices [n], **settings) -> [n, dim]``, of indices in range.
        head: ``head(fields, x [n, dim], options, **settings) -> [n, rows]``: ``x @ table.T``; None: it has no own way.
        mix: ``mix(fields, x [n, rows], options, **settings) -> [n, dim]``: ``x @ table``; or None.
    """

    main: ClassVar[str] = "table"
    free = True
    take: ClassVar[Callable[..., jax.Array]]
    head: ClassVar[Callable[..., jax.Array] | None] = None
    mix: ClassVar[Callable[..., jax.Array] | None] = None

    def settings(self) -> dict[str, Any]:
        """What the functions need to know besides the fields: hashable."""
        return {}

    def core_shape(self) -> tuple[int, int]:
        """Rows and dimensions of one layer."""
        raise NotImplementedError(f"{type(self).__name__} must define core_shape()")

    @property
    def stack_ndim(self) -> int:
        """Number of leading axes that hold separate tables."""
        return len(getattr(self, self.main).shape) - 2

    @property
    def shape(self) -> tuple[int, ...]:
        """Stack axes, rows, dimensions."""
        return (*getattr(self, self.main).shape[: self.stack_ndim], *self.core_shape())

    @property
    def dtype(self) -> np.dtype:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Dtype of the main field."""
        return getattr(self, self.main).dtype

    def field_roles(self, name: str, roles: Roles) -> Roles:
        """A field goes from its rows to its columns where the table goes from rows to dimensions, else back."""
        n = self.stack_ndim
        rows, columns = (n,), (n + 1,)
        forwards = n in roles.contracting
        return Roles(tuple(range(n)), rows if forwards else columns, columns if forwards else rows)

    def astype(self, dtype: Any) -> Self | None:
        """The same table with its float fields cast."""
        fields = {name: value for name, value in self.components().items() if name in type(self).trainable}
        cast = {name: value.astype(dtype) for name, value in fields.items()}
        return None if any(value is None for value in cast.values()) else self.replace(**cast)

    def map_axis(self, axis: int, fn: FieldOp) -> Self | None:
        """Axes that every field holds as they are; no slice of the fields gives rows that follow from their number."""
        held = any(axis in axes for axes in self.alignment().values())
        return super().map_axis(axis, fn) if held and axis != self.stack_ndim else None

    def materialize(self) -> jax.Array:
        """All rows."""
        return self._run(type(self).take, jnp.arange(self.shape[self.stack_ndim]), shared=True)

    def lookup(self, indices: jax.Array, axis: int) -> jax.Array | None:
        """The rows at some indices; no others are decoded."""
        if axis != self.stack_ndim:
            return None
        return self._run(type(self).take, jnp.clip(indices, 0, self.shape[axis] - 1), shared=True)

    def matmul(
        self, x: jax.Array, *, contract: Axes, batch: Axes, precision: Any = None, preferred_element_type: Any = None
    ) -> jax.Array | None:
        """A tied head (summed over dim) or a product with rows of weights (summed over rows), in the kind's own way."""
        n = self.stack_ndim
        product = self._product(contract, batch)
        if product is None or x.dtype != self.dtype:
            return None
        free = [axis for axis in range(x.ndim) if axis not in {*contract[0], *batch[0]}]
        stack = [batch[0][batch[1].index(axis)] for axis in range(n)]
        moved = lax.transpose(x, (*stack, *free, *contract[0]))
        sizes = moved.shape[n:-1]
        flat = moved.reshape(*moved.shape[:n], -1 if len(sizes) != 1 else sizes[0], moved.shape[-1])
        out = self._run(product, flat, Options(precision, preferred_element_type), shared=False)
        out = out.reshape(*moved.shape[:-1], out.shape[-1])
        return lax.transpose(out, (*batch[1], *range(n, out.ndim)))

    def how(self, x: Any, *, contract: Axes, batch: Axes) -> str:
        """Whether it is the head or the sum of rows."""
        del x, batch
        return f"{self.kind} {'sum of rows' if contract[1] == (self.stack_ndim,) else 'head'}"

    def _product(self, contract: Axes, batch: Axes) -> Callable[..., jax.Array] | None:
        n = self.stack_ndim
        if sorted(batch[1]) != list(range(n)) or contract[1] not in ((n,), (n + 1,)):
            return None
        return type(self).mix if contract[1] == (n,) else type(self).head

    def _run(self, fn: Callable[..., jax.Array], x: jax.Array, *options: Options, shared: bool) -> jax.Array:
        """A function of one layer's fields for every layer of the stack; ``shared``: they all get the same ``x``."""
        fields: dict[str, ArrayOrLeaf] = self.components()
        settings = self.settings()
        layer = _lifted(fn) if any(map(is_compressed, fields.values())) else fn
        run: Callable[..., jax.Array] = lambda fields, x: layer(fields, x, *options, **settings)  # noqa: E731
        for _ in range(self.stack_ndim):
            run = jax.vmap(run, in_axes=(0, None if shared else 0))
        return run(fields, x)


_lifted = functools.cache(lift)


def dot(x: jax.Array, y: jax.Array, options: Options, *, transposed: bool = False) -> jax.Array:
    """``x @ y``, or ``x @ y.T``."""
    numbers = (((1,), (1 if transposed else 0,)), ((), ()))
    return lax.dot_general(
        x, y, numbers, precision=options.precision, preferred_element_type=options.preferred_element_type
    )
