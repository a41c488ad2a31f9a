"""Contractions: `dot_general` with a lazy operand on either side."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.extend.core import JaxprEqn

from jaxcompress.core.interpreter import Interpreter, bind, contraction_macs
from jaxcompress.core.view import BROADCAST, Atom, Concat, Value, View, dense_value, is_lazy

Axes = tuple[tuple[int, ...], tuple[int, ...]]


def dot_general(run: Interpreter, eqn: JaxprEqn, values: Sequence[Value]) -> list[Value] | None:
    """The rule of `dot_general`: at most one operand stays compressed, the one of higher priority."""
    lhs, rhs = values
    (lhs_contract, rhs_contract), (lhs_batch, rhs_batch) = eqn.params["dimension_numbers"]
    leaf_is_lhs = is_lazy(lhs) and not (is_lazy(rhs) and _priority(rhs) >= _priority(lhs))
    leaf, other = (lhs, rhs) if leaf_is_lhs else (rhs, lhs)
    contract: Axes = (tuple(lhs_contract), tuple(rhs_contract))
    batch: Axes = (tuple(lhs_batch), tuple(rhs_batch))
    if leaf_is_lhs:
        contract, batch = (contract[1], contract[0]), (batch[1], batch[0])
    if is_lazy(other):
        _record_other(run, eqn, other, contract[0], batch[0])
    sharding = eqn.params.get("out_sharding")
    x = dense_value(other)
    if sharding is None:
        return [_product(run, eqn, x, leaf, contract, batch, leaf_is_lhs)]
    if run.listener is not None:  # statistics may not leave the region below
        return [jax.sharding.reshard(_product(run, eqn, x, leaf, contract, batch, leaf_is_lhs), sharding)]
    # The products of a kind do not know of explicit shardings: the compiler chooses theirs, the result has this one.
    product = functools.partial(_product, run, eqn, contract=contract, batch=batch, leaf_is_lhs=leaf_is_lhs)
    automatic: Any = jax.sharding.auto_axes(product, out_sharding=sharding)
    return [automatic(x, leaf)]


def _product(
    run: Interpreter, eqn: JaxprEqn, x: jax.Array, leaf: Value, contract: Axes, batch: Axes, leaf_is_lhs: bool
) -> jax.Array:
    """The result of the equation, whose axes depend on the side the leaf is on."""
    out = _contract(run, eqn, x, leaf, contract, batch)
    if leaf_is_lhs:  # we computed batch, x free, leaf free; the equation wants batch, leaf free, x free
        batches, x_free = len(batch[0]), x.ndim - len(batch[0]) - len(contract[0])
        order = [*range(batches), *range(batches + x_free, out.ndim), *range(batches, batches + x_free)]
        out = out if order == sorted(order) else lax.transpose(out, order)
    return out


def _record_other(
    run: Interpreter, eqn: JaxprEqn, other: Value, contract: tuple[int, ...], batch: tuple[int, ...], why: str = ""
) -> None:
    """Notes, with its roles, a leaf that a product consumes dense."""
    why = why or "the other operand of the product is the one that stays compressed"
    axes = other.leaf_axes() if isinstance(other, View) else None
    if not isinstance(other, View) or axes is None:
        return run.record_dense(eqn, other, why)
    roles = {"contract": tuple(axes[i] for i in contract), "batch": tuple(axes[i] for i in batch)}
    run.record(eqn, other, served=False, reason=why, **roles)
    return None


def ragged_dot_general(run: Interpreter, eqn: JaxprEqn, values: Sequence[Value]) -> Sequence[Value]:
    """A grouped product takes its operands dense; the roles of the weights' axes are noted."""
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    (_, contract), (_, batch) = numbers.dot_dimension_numbers
    why = "a ragged product has no compressed way"
    _record_other(run, eqn, values[1], tuple(contract), (*batch, *numbers.rhs_group_dimensions), why)
    for value in (values[0], *values[2:]):
        run.record_dense(eqn, value, why)
    return bind(eqn, [dense_value(value) for value in values])


def _priority(value: Value) -> int:
    if isinstance(value, View):
        return value.leaf.priority
    return max((_priority(part) for part in value.parts), default=-1) if isinstance(value, Concat) else -1


def _contract(run: Interpreter, eqn: JaxprEqn, x: jax.Array, leaf: Value, contract: Axes, batch: Axes) -> jax.Array:
    """``dot_general(x, leaf)`` for a leaf in any state."""
    if isinstance(leaf, Concat):
        return _contract_parts(run, eqn, x, leaf, contract, batch)
    if isinstance(leaf, View):
        plan = plan_contraction(leaf, x.shape, contract, batch)
        if plan is not None:
            return _contract_view(run, eqn, x, leaf, plan)
        run.record(eqn, leaf, served=False, reason="an axis was split between contracted and kept")
        leaf = leaf.materialize()
    return lax.dot_general(x, leaf, (contract, batch), **_options(eqn))


def _contract_parts(
    run: Interpreter, eqn: JaxprEqn, x: jax.Array, join: Concat, contract: Axes, batch: Axes
) -> jax.Array:
    """A product with joined leaves: a sum over parts where the joined axis is contracted, else a join of products."""
    pairs = dict(zip((*contract[1], *batch[1]), (*contract[0], *batch[0]), strict=True))
    at, outs = 0, []
    for index, part in enumerate(join.parts):
        width = part.shape[join.axis]
        own = x
        if join.axis in pairs:
            own = lax.slice_in_dim(x, at, at + width, axis=pairs[join.axis])
            at += width
        with run.part(index):
            outs.append(_contract(run, eqn, own, part, contract, batch))
    if join.axis in contract[1]:
        return sum(outs[1:], start=outs[0])
    if join.axis in batch[1]:
        return lax.concatenate(outs, batch[1].index(join.axis))
    free = [axis for axis in range(join.ndim) if axis not in {*contract[1], *batch[1]}]
    return lax.concatenate(outs, outs[0].ndim - len(free) + free.index(join.axis))


class Plan(NamedTuple):
    """How a product with a view becomes one with its leaf: rearrange ``x``, `matmul`, rearrange the result."""

    split: tuple[int, ...]
    order: tuple[int, ...]
    merged: tuple[int, ...]
    contract: Axes
    batch: Axes
    out_split: tuple[int, ...]
    out_order: tuple[int, ...]
    out_shape: tuple[int, ...]


def plan_contraction(view: View, x_shape: tuple[int, ...], contract: Axes, batch: Axes) -> Plan | None:
    """Translates a product with a view into one on the leaf's own axes, or ``None`` where an axis is cut in between."""
    roles = {axis: "c" for axis in contract[1]} | {axis: "b" for axis in batch[1]}
    role_of: dict[int, set[str]] = {}
    for axis, atoms in enumerate(view.layout):
        for atom in atoms:
            role_of.setdefault(atom.axis, set()).add(roles.get(axis, "f"))
    copies = role_of.pop(BROADCAST, set())
    if "c" in copies or any(len(found) > 1 for found in role_of.values()):
        return None
    x_axis = dict(zip((*contract[1], *batch[1]), (*contract[0], *batch[0]), strict=True))
    view_axis = {axis: v for v, axis in x_axis.items()}
    pieces: list[tuple[int, Atom | None, int]] = []  # (x axis, atom, size), in the order of x
    for axis, size in enumerate(x_shape):
        atoms = view.layout[view_axis[axis]] if axis in view_axis else ()
        pieces += [(axis, atom, atom.size) for atom in atoms] if atoms else [(axis, None, size)]
    leaf_axes = {role: sorted(a for a, found in role_of.items() if found == {role}) for role in "cb"}

    def of_axis(leaf_axis: int) -> list[int]:
        held = [i for i, (_, atom, _) in enumerate(pieces) if atom is not None and atom.axis == leaf_axis]
        return sorted(held, key=lambda i: -pieces[i][1].inner)  # type: ignore[union-attr]

    groups = [of_axis(a) for a in leaf_axes["b"]]
    plain = [i for i, (axis, atom, _) in enumerate(pieces) if atom is None or atom.axis == BROADCAST]
    # Axes of x paired with a view axis of size 1 are of size 1 themselves: contracted ones are summed out by the merge.
    free = [i for i in plain if not (pieces[i][1] is None and pieces[i][0] in contract[0])]
    idle = [i for i in plain if i not in free]
    groups += [[i] for i in free] + [of_axis(a) for a in leaf_axes["c"]]
    order = tuple(i for group in groups for i in group)
    sizes = [size for _, _, size in pieces]
    merged = tuple(math.prod(sizes[i] for i in group) for group in groups)
    n_batch, n_free = len(leaf_axes["b"]), len(free)
    plan_batch = (tuple(range(n_batch)), tuple(leaf_axes["b"]))
    plan_contract = (tuple(range(n_batch + n_free, len(groups))), tuple(leaf_axes["c"]))
    out = _plan_output(view, contract, batch, pieces, groups, n_batch, free)
    return Plan(tuple(sizes), (*order, *idle), merged, plan_contract, plan_batch, *out)


def _plan_output(
    view: View,
    contract: Axes,
    batch: Axes,
    pieces: list[tuple[int, Atom | None, int]],
    groups: list[list[int]],
    n_batch: int,
    free: list[int],
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Where each piece of the result (batch, free of x, free of the leaf) goes: ``(split, order, shape)``."""
    labels: list[tuple[str, Any]] = []  # of the split result, in matmul's order
    sizes: list[int] = []
    for group in groups[:n_batch]:
        labels += [("x", i) for i in group]
        sizes += [pieces[i][2] for i in group]
    labels += [("x", i) for i in free]
    sizes += [pieces[i][2] for i in free]
    kept_atoms = sorted(
        {
            atom
            for axis, atoms in enumerate(view.layout)
            if axis not in {*contract[1], *batch[1]}
            for atom in atoms
            if atom.axis != BROADCAST
        },
        key=lambda atom: (atom.axis, -atom.inner),
    )
    labels += [("leaf", atom) for atom in kept_atoms]
    sizes += [atom.size for atom in kept_atoms]
    order: list[int] = []
    shape: list[int] = []

    def from_x(axis: int) -> None:
        held = [i for i, piece in enumerate(pieces) if piece[0] == axis]
        order.extend(labels.index(("x", i)) for i in held)
        shape.append(math.prod(pieces[i][2] for i in held))

    for axis in batch[0]:
        from_x(axis)
    for axis in sorted({piece[0] for piece in pieces} - {*batch[0], *contract[0]}):
        from_x(axis)
    for axis, atoms in enumerate(view.layout):
        if axis in {*contract[1], *batch[1]}:
            continue
        for atom in atoms:
            if atom.axis == BROADCAST:
                labels.append(("copy", axis))
                sizes.append(-atom.size)  # negative: to be broadcast
                order.append(len(labels) - 1)
            else:
                order.append(labels.index(("leaf", atom)))
        shape.append(math.prod(atom.size for atom in atoms))
    return tuple(sizes), tuple(order), tuple(shape)


def _contract_view(run: Interpreter, eqn: JaxprEqn, x: jax.Array, view: View, plan: Plan) -> jax.Array:
    x = lax.reshape(x, plan.split) if x.shape != plan.split else x
    x = lax.transpose(x, plan.order) if plan.order != tuple(range(x.ndim)) else x
    x = lax.reshape(x, plan.merged) if x.shape != plan.merged else x
    leaf = view.leaf.at_site(run.ordinal(eqn, view))
    out = leaf.matmul(x, contract=plan.contract, batch=plan.batch, **_options(eqn))
    served = out is not None
    use = run.record(
        eqn,
        view,
        served=served,
        reason=leaf.how(x, contract=plan.contract, batch=plan.batch)
        if served
        else f"a {view.leaf.kind} leaf has no compressed form of this product",
        contract=plan.contract[1],
        batch=plan.batch[1],
        macs=contraction_macs(x, view.leaf, plan.contract[1], plan.batch[1]),
    )
    if out is None:
        out = lax.dot_general(x, view.leaf.materialize(), (plan.contract, plan.batch), **_options(eqn))
    if run.listener is not None:
        run.listener.contraction(run, use, x, view.scaled(out), {"contract": plan.contract, "batch": plan.batch})
    return view.scaled(_place(out, plan))


def _place(out: jax.Array, plan: Plan) -> jax.Array:
    """Brings the leaf's product into the order and shape that the equation promised."""
    real = tuple(size for size in plan.out_split if size >= 0)
    out = lax.reshape(out, real) if out.shape != real else out
    if len(real) != len(plan.out_split):
        full = tuple(abs(size) for size in plan.out_split)
        out = lax.broadcast_in_dim(out, full, tuple(range(len(real))))
    out = lax.transpose(out, plan.out_order) if plan.out_order != tuple(range(out.ndim)) else out
    return lax.reshape(out, plan.out_shape) if out.shape != plan.out_shape else out


def _options(eqn: JaxprEqn) -> dict[str, Any]:
    return {name: eqn.params[name] for name in ("precision", "preferred_element_type")}


RULES = {"dot_general": dot_general, "ragged_dot_general": ragged_dot_general}
