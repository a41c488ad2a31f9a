"""`shard_map`: every field of a leaf is split along the axes that its dense axes are split along.

`jax.extend.core.primitives` does not export this primitive: it is matched by name and rebuilt through `jax.shard_map`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax.extend.core import JaxprEqn
from jax.sharding import PartitionSpec

from jaxcompress.core.interpreter import Interpreter, Sink
from jaxcompress.core.leaf import CompressedArray, is_compressed
from jaxcompress.core.rules.control import body_of, densify
from jaxcompress.core.view import Value, View, dense_value, view_of


def shard_map(run: Interpreter, eqn: JaxprEqn, values: Sequence[Value]) -> Sequence[Value]:
    """Enters the manual region with leaves whose fields are sharded alongside their dense axes."""
    params = eqn.params
    body = body_of(run, eqn, params["jaxpr"])
    _refuse_sharded_weights(run, values, params["in_specs"])
    entering: list[Any] = []
    specs: list[Any] = []
    for value, spec in zip(values, params["in_specs"], strict=True):
        if isinstance(value, View) and splits_evenly(value, spec, params["mesh"]):
            entering.append(value.leaf)
            specs.append(value.leaf.partition_specs(spec))
        else:
            run.record_dense(eqn, value, f"the leaf cannot be split as {spec}")
            entering.append(dense_value(value))
            specs.append(spec)
    axes = tuple(params["newly_manual_axes"])

    def inside(*args: Any) -> tuple[list[jax.Array], Sink]:
        local = [
            _local(value, arg) if isinstance(value, View) and is_compressed(arg) else arg
            for value, arg in zip(values, args, strict=True)
        ]
        outs, sink = body(*local)
        return [densify(run, eqn, out, "it leaves the manual region") for out in outs], _merged(
            run, sink, axes, params["check_vma"]
        )

    outs, sink = jax.shard_map(
        inside,
        mesh=params["mesh"],
        in_specs=tuple(specs),
        out_specs=(list(params["out_specs"]), PartitionSpec()),
        axis_names=set(axes),
        check_vma=params["check_vma"],
    )(*entering)
    run.absorb(sink)
    return outs


def _merged(run: Interpreter, sink: Sink, axes: tuple[str, ...], check_vma: bool) -> Sink:
    """Statistics of all devices: merged over the axes along which the data differs, where JAX keeps track of that."""
    if run.listener is None:
        return {}
    merged: Sink = {}
    for key, stats in sink.items():
        varying = {axis for value in jax.tree.leaves(stats) for axis in _varying(value)} if check_vma else set(axes)
        merged[key] = run.listener.across(stats, tuple(axis for axis in axes if axis in varying))
    return merged


def _varying(value: jax.Array) -> frozenset[str]:
    """The manual mesh axes along which a value differs; the attribute was called ``vma`` before JAX 0.10."""
    kind = getattr(jax.typeof(value), "manual_axis_type", None)
    return kind.varying if kind is not None else jax.typeof(value).vma


def splits_evenly(view: View, spec: PartitionSpec, mesh: Any) -> bool:
    """True if the view is a whole, untransformed leaf and every field can be split where the dense array is."""
    if view.scale is not None or view.leaf_axes() != tuple(range(view.ndim)) or not _holds_whole(view.leaf, spec):
        return False
    fits = jax.tree.map(
        lambda own, field: all(size % _devices(entry, mesh) == 0 for size, entry in zip(field.shape, own, strict=True)),
        view.leaf.partition_specs(spec),
        view.leaf,
    )
    return all(jax.tree.leaves(fits))


def _holds_whole(leaf: CompressedArray, spec: PartitionSpec) -> bool:
    """False if a field holds a split axis in coarser steps (groups): its parts would serve other rows."""
    entries = (*spec, *(None,) * (leaf.ndim - len(spec)))
    if not all(entry is None or leaf.divides(axis) for axis, entry in enumerate(entries)):
        return False
    for name, axes in leaf.alignment().items():
        field = leaf.components()[name]
        own = [
            None if axis is None or size == 1 else entries[axis] for size, axis in zip(field.shape, axes, strict=True)
        ]
        sizes = [size if axis is None else leaf.shape[axis] for size, axis in zip(field.shape, axes, strict=True)]
        if any(entry is not None for entry, a, b in zip(own, field.shape, sizes, strict=True) if a != b):
            return False
        if isinstance(field, CompressedArray) and not _holds_whole(field, PartitionSpec(*own)):
            return False
    return True


def _refuse_sharded_weights(run: Interpreter, values: Sequence[Value], specs: Sequence[PartitionSpec]) -> None:
    for value, spec in zip(values, specs, strict=True):
        if run.listener is not None and isinstance(value, View) and value.origin.path is not None and any(spec):
            raise ValueError(
                f"observe: the parameter {value.origin.path!r} is split over devices inside shard_map ({spec}); "
                "statistics of its parts do not add up. Observe with replicated parameters (data parallel)."
            )


def _devices(entry: Any, mesh: Any) -> int:
    names = () if entry is None else (entry,) if isinstance(entry, str) else entry
    count = 1
    for name in names:
        count *= mesh.shape[name]
    return count


def _local(value: View, leaf: Any) -> View:
    return View(leaf, None, view_of(leaf, value.origin.path).layout, value.origin)


RULES = {"shard_map": shard_map}
