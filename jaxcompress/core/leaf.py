"""The leaf protocol: what a compressed array is, and all that a new kind of it has to say.

A compressed model is the same pytree in which some array leaves are a `CompressedArray`. A kind is one frozen
dataclass:

    @leaf_kind("masked", trainable=("values",))
    @dataclasses.dataclass(frozen=True, eq=False, repr=False)
    class Masked(CompressedArray):
        values: ArrayOrLeaf        # data fields: arrays, or leaves again (so that methods chain)
        mask: jax.Array
                                   # static fields: dataclasses.field(metadata={"static": True})

        def alignment(self): ...   # which axis of the dense array each axis of a field runs along
        def materialize(self): ... # the dense array

Shape, slicing, stacking, placement and sizes follow from `alignment`. A kind that can do better than `materialize` in a
contraction or convolution overrides `matmul` or `conv`.

Two invariants hold everywhere:

* Static fields speak of core axes only; stack axes lead every data field. `scan` and `vmap` may therefore slice or add
  leading axes without touching the static part.
* Constructors never validate: tree transformations build leaves out of placeholders. Validation lives in `create`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self, TypeAlias, TypeVar

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxcompress.core.fields import bit_width, data_fields, decode_static, encode_static, static_fields
from jaxcompress.core.roles import Roles

ArrayOrLeaf: TypeAlias = "jax.Array | CompressedArray"
FieldOp = Callable[[jax.Array, int], jax.Array]

_KINDS: dict[str, type[CompressedArray]] = {}
_Kind = TypeVar("_Kind", bound="type[CompressedArray]")


class CompressedArray:
    """An array held in another form; the base class of every leaf kind (see the module's docstring).

    Attributes:
        kind: the registered name, set by `leaf_kind`.
        trainable: names of the data fields that gradient steps may change.
        priority: at most one operand of a primitive stays compressed, the one of the highest priority.
        free: True for kinds whose trainable fields are free floats although no field holds every dense axis (rows that
            are hashed, cores over digits of a row's number); of other such kinds the fields are codes or tables.
        sealed: set by kinds whose fields no method may change one by one: what such a leaf is and what to do instead.
    """

    kind: ClassVar[str] = ""
    trainable: ClassVar[tuple[str, ...]] = ()
    priority: ClassVar[int] = 0
    free: ClassVar[bool] = False
    sealed: ClassVar[str] = ""

    dtype: np.dtype  # of the dense array: every kind has it, as a property or as a static field

    # What a kind must say ---------------------------------------------------------------------------------------

    def alignment(self) -> Mapping[str, tuple[int | None, ...]]:
        """Maps every data field to the dense axis that each of its axes runs along (``None``: an axis of its own).

        The promise: entries of the dense array at index ``i`` of axis ``a`` depend only on entries at index ``i`` of
        the field axes aligned with ``a`` (a field axis of size 1 serves every index). Hence slicing the aligned axes
        slices the dense array.
        """
        raise NotImplementedError(f"{type(self).__name__} must define alignment()")

    def materialize(self) -> jax.Array:
        """Returns the dense array: shape ``self.shape``, dtype ``self.dtype``. Traceable and differentiable."""
        raise NotImplementedError(f"{type(self).__name__} must define materialize()")

    # What a kind may say ----------------------------------------------------------------------------------------

    def matmul(
        self,
        x: jax.Array,
        *,
        contract: tuple[tuple[int, ...], tuple[int, ...]],
        batch: tuple[tuple[int, ...], tuple[int, ...]],
        precision: Any = None,
        preferred_element_type: Any = None,
    ) -> jax.Array | None:
        """Contracts ``x`` with this leaf without a dense copy, or returns ``None`` where it has no better way.

        Args:
            x: dense operand.
            contract: ``(axes of x, axes of the leaf)`` summed over.
            batch: ``(axes of x, axes of the leaf)`` kept in step.
            precision: as in `jax.lax.dot_general`.
            preferred_element_type: as in `jax.lax.dot_general`; the dtype of the result if given.

        Returns:
            ``lax.dot_general(x, materialize(self), (contract, batch))``: batch axes, free axes of ``x``, free axes of
            the leaf.
        """
        del x, contract, batch, precision, preferred_element_type
        return None

    def how(self, x: Any, *, contract: tuple[tuple[int, ...], tuple[int, ...]], batch: Any) -> str:
        """How `matmul` computes this product, in words for `jaxcompress.explain`; ``x`` may be abstract."""
        del x, contract, batch
        return f"{self.kind} matmul"

    def conv(self, x: jax.Array, **params: Any) -> jax.Array | None:
        """Convolves ``x`` with this leaf as the kernel, or returns ``None``.

        Args:
            x: the dense input (the left operand of `jax.lax.conv_general_dilated`).
            **params: every parameter of `jax.lax.conv_general_dilated`, dimension numbers as `ConvDimensionNumbers`.
        """
        del x, params
        return None

    def lookup(self, indices: jax.Array, axis: int) -> jax.Array | None:
        """Entries along one dense axis, decoding no others, or ``None``: for kinds that no slice of their fields gives.

        Asked only where `map_axis` gives ``None`` (rows that are hashed, or products over digits of their number).

        Args:
            indices: integers ``[n]``; those out of range take the nearest entry there is.
            axis: dense axis.

        Returns:
            ``jnp.take(materialize(), indices, axis=axis, mode="clip")``, dense.
        """
        del indices, axis
        return None

    def at_site(self, index: int) -> Self:
        """The leaf as it is at one of the places where it meets data; `matmul` and `conv` are those of the result.

        Most kinds are the same everywhere. One that holds something per site (ranges of activations) selects it here.

        Args:
            index: how many uses of the leaf were met before: its place in ``jc.sites(...).at(path)``.
        """
        held = {name: value for name, value in self.components().items() if isinstance(value, CompressedArray)}
        return self.replace(**{name: value.at_site(index) for name, value in held.items()}) if held else self

    def astype(self, dtype: Any) -> Self | None:
        """The same leaf with a dense array of ``dtype``, or ``None`` where the kind cannot say it compressed."""
        del dtype
        return None

    def divides(self, axis: int) -> bool:
        """Whether parts of the fields along a dense axis are leaves of the parts of the array, as `alignment` promises.

        A kind whose scales follow from all of its values says False where they would follow from those of a part.
        """
        del axis
        return True

    def field_roles(self, name: str, roles: Roles) -> Roles | None:
        """What the axes of a data field mean where the dense ones have ``roles``; ``None`` where that is not known.

        An axis of its own (``None`` in `alignment`) counts as the other end of a product with the rest of the leaf. A
        kind says more where that is not enough: the core of a Tucker leaf is a smaller kernel.
        """
        return roles.of_field(self.alignment()[name])

    def field_bits(self, name: str) -> int:
        """Bits that one element of a data field needs (its dtype's width unless a kind knows better)."""
        return bit_width(getattr(self, name).dtype)

    def support(self) -> jax.Array | None:
        """A bool array of ``self.shape``: where False, entries are zero and need not be stored. ``None``: store all."""
        return None

    def for_file(self) -> Self:
        """The leaf with its fields in the form that files hold: one that compresses well. `from_file` is the inverse.

        Its data fields may be of any shape, and it is good for nothing else.
        """
        return self

    def from_file(self) -> Self:
        """The leaf of fields that came from a file."""
        return self

    # What follows -----------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the dense array, derived from the fields."""
        sizes: dict[int, int] = {}
        for name, axes in self.alignment().items():
            for size, axis in zip(getattr(self, name).shape, axes, strict=True):
                if axis is not None:
                    sizes[axis] = max(size, sizes.get(axis, 0))
        return tuple(sizes[axis] for axis in range(len(sizes)))

    @property
    def ndim(self) -> int:
        """Number of dense axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of dense elements."""
        return math.prod(self.shape)

    @property
    def stored_bits(self) -> int:
        """Bits that the fields need when packed, before any entropy coding. Needs concrete values where they matter."""
        return sum(
            value.stored_bits if isinstance(value, CompressedArray) else math.prod(value.shape) * self.field_bits(name)
            for name, value in self.components().items()
        )

    def components(self) -> dict[str, ArrayOrLeaf]:
        """The data fields by name, in the order of declaration, without those that are None (a kind may have such)."""
        held = {name: getattr(self, name) for name in data_fields(type(self))}
        return {name: value for name, value in held.items() if value is not None}

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed (`dataclasses.replace`)."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]  # every kind is a dataclass

    def component_paths(self) -> tuple[str, ...]:
        """Paths of the arrays inside, ``/``-joined: ``("values/codes", "values/codebook", "mask")``."""
        paths: list[str] = []
        for name, value in self.components().items():
            inner = value.component_paths() if isinstance(value, CompressedArray) else ("",)
            paths += [f"{name}/{path}".rstrip("/") for path in inner]
        return tuple(paths)

    def axis_positions(self, axis: int) -> dict[str, int] | None:
        """Where each field holds dense axis ``axis``, or ``None`` unless every field holds it whole (a stack axis)."""
        size = self.shape[axis]
        positions: dict[str, int] = {}
        for name, axes in self.alignment().items():
            value = getattr(self, name)
            if axis not in axes or value.shape[axes.index(axis)] != size:
                return None
            position = axes.index(axis)
            if isinstance(value, CompressedArray) and value.axis_positions(position) is None:
                return None
            positions[name] = position
        return positions

    def move_to_front(self, axis: int) -> Self | None:
        """The leaf whose fields all lead with stack axis ``axis`` (ready for `scan` or `vmap`), or ``None``."""
        positions = self.axis_positions(axis)
        if positions is None:
            return None
        moved = {}
        for name, position in positions.items():
            value = getattr(self, name)
            moved[name] = (
                value.move_to_front(position)
                if isinstance(value, CompressedArray)
                else jnp.moveaxis(value, position, 0)
            )
        return self.replace(**moved)

    def unstack(self) -> list[Self]:
        """Splits a stacked leaf along its first axis: ``[leaf of materialize()[0], leaf of materialize()[1], ...]``.

        Raises:
            ValueError: if some field does not carry axis 0 (the leaf is not stacked).
        """
        if not self.shape or self.axis_positions(0) is None:
            raise ValueError(f"unstack: axis 0 of a {self.kind} leaf of shape {self.shape} is not a stack axis")
        return [jax.tree.map(lambda field, i=i: field[i], self) for i in range(self.shape[0])]

    def map_axis(self, axis: int, fn: FieldOp) -> Self | None:
        """Applies an indexing operation along one dense axis to every field that holds it.

        Args:
            axis: dense axis.
            fn: ``fn(array, array_axis) -> array``, a slice, gather, reversal or dynamic slice along that axis alone.

        Returns:
            The leaf of the indexed dense array, or ``None`` when some field holds the axis in coarser steps (groups).
        """
        size = self.shape[axis]
        changes: dict[str, Any] = {}
        for name, axes in self.alignment().items():
            value = getattr(self, name)
            if axis not in axes or value.shape[axes.index(axis)] == 1 != size:
                continue
            position = axes.index(axis)
            if value.shape[position] != size:
                return None
            changed = value.map_axis(position, fn) if isinstance(value, CompressedArray) else fn(value, position)
            if changed is None:
                return None
            changes[name] = changed
        return self.replace(**changes)

    def partition_specs(self, spec: PartitionSpec | None) -> Self:
        """The leaf with each field replaced by its `PartitionSpec`, given the one of the dense array."""
        entries = tuple(spec or ()) + (None,) * (self.ndim - len(tuple(spec or ())))
        specs: dict[str, Any] = {}
        for name, axes in self.alignment().items():
            value = getattr(self, name)
            own = PartitionSpec(
                *(
                    entries[axis] if axis is not None and size == self.shape[axis] else None
                    for size, axis in zip(value.shape, axes, strict=True)
                )
            )
            specs[name] = value.partition_specs(own) if isinstance(value, CompressedArray) else own
        return self.replace(**specs)

    def __repr__(self) -> str:
        """One line: kind, fields with shapes and dtypes. Safe on placeholders."""
        parts = [f"{name}={_brief(getattr(self, name))}" for name in data_fields(type(self))]
        parts += [f"{name}={getattr(self, name)!r}" for name in static_fields(type(self))]
        return f"{type(self).__name__}({', '.join(parts)})"


def leaf_kind(name: str, *, trainable: tuple[str, ...] = (), priority: int = 0) -> Callable[[_Kind], _Kind]:
    """Registers a frozen dataclass as a leaf kind: as a pytree with keys, for `jax.export`, and for the artifact.

    Args:
        name: unique and stable; it is written into files.
        trainable: data fields that gradient steps may change.
        priority: see `CompressedArray`.

    Raises:
        ValueError: if another class holds the name.
    """

    def register(cls: _Kind) -> _Kind:
        held = _KINDS.get(name)
        if held is not None and held.__qualname__ != cls.__qualname__:
            raise ValueError(f"leaf_kind: the name {name!r} is taken by {held.__module__}.{held.__qualname__}")
        cls.kind, cls.trainable, cls.priority = name, trainable, priority
        jax.tree_util.register_dataclass(cls, list(data_fields(cls)), list(static_fields(cls)))
        jax.export.register_pytree_node_serialization(
            cls,
            serialized_name=f"jaxcompress.{name}",
            serialize_auxdata=lambda static: json.dumps([encode_static(v) for v in static]).encode(),
            deserialize_auxdata=lambda raw: tuple(decode_static(v) for v in json.loads(raw)),
        )
        _KINDS[name] = cls
        return cls

    return register


def kind_class(name: str) -> type[CompressedArray]:
    """Returns the class registered under ``name``.

    Raises:
        KeyError: with the names there are.
    """
    if name not in _KINDS:
        raise KeyError(f"unknown leaf kind {name!r}; registered: {sorted(_KINDS)} (import the module that defines it)")
    return _KINDS[name]


def is_compressed(x: object) -> bool:
    """True for a leaf of any kind. Use as ``is_leaf`` of the `jax.tree` functions."""
    return isinstance(x, CompressedArray)


def dense(x: ArrayOrLeaf) -> jax.Array:
    """The dense array of a leaf; anything else as it is."""
    return x.materialize() if isinstance(x, CompressedArray) else x


def kind_name(leaf: CompressedArray) -> str:
    """The kind of a leaf with the kinds inside it: ``masked(codebook)``."""
    inner = [kind_name(part) for part in leaf.components().values() if isinstance(part, CompressedArray)]
    return leaf.kind + (f"({', '.join(inner)})" if inner else "")


def _brief(value: Any) -> str:
    if isinstance(value, CompressedArray):
        return repr(value)
    shape = getattr(value, "shape", None)
    return repr(value) if shape is None else f"{value.dtype}[{','.join(map(str, shape))}]"
