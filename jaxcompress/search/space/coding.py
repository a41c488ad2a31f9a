"""Between genes and what they mean: decoded arrays inside of programs, plain values outside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.search.genes import Genes
from jaxcompress.search.space.layout import Branch, Layout, Node, Stack, join
from jaxcompress.search.space.variables import Choice, IntRange


def decode(layout: Layout, genes: Genes) -> dict[str, Any]:
    """The arrays of canonical genes: batch axes first, then an axis for every `Repeated`."""
    positions = layout.positions()

    def of(node: Node) -> Any:
        if isinstance(node, Branch):
            return {name: of(child) for name, child in node.children.items()}
        if isinstance(node, Stack):
            inside = of(node.inside)
            if node.count is None:
                return inside
            return {"count": of(node.count), **(inside if isinstance(node.inside, Branch) else {"values": inside})}
        at = positions[node.places]
        if isinstance(node.variable, Choice | IntRange):
            return jnp.asarray(node.variable.table())[genes.codes[..., at]]
        return node.variable.from_unit(genes.values[..., at])

    return of(layout.root)


def config(layout: Layout, codes: np.ndarray, values: np.ndarray, exists: np.ndarray) -> dict[str, Any]:
    """Plain values of one candidate; what does not exist is left out. ``exists``: codes, then values."""
    positions = layout.positions()
    is_there = dict(zip((*layout.codes, *layout.values), exists.tolist(), strict=True))

    def there(node: Node, index: tuple[int, ...]) -> bool:
        if isinstance(node, Branch):
            return any(there(child, index) for child in node.children.values())
        if isinstance(node, Stack):
            return there(node.count, index) if node.count is not None else there(node.inside, (*index, 0))
        return is_there[int(node.places[index])]

    def of(node: Node, index: tuple[int, ...]) -> Any:
        if isinstance(node, Branch):
            return {name: of(child, index) for name, child in node.children.items() if there(child, index)}
        if isinstance(node, Stack):
            times = node.times.most if node.count is None else of(node.count, index)
            return [of(node.inside, (*index, i)) for i in range(times)]
        at = positions[node.places[index]]
        if isinstance(node.variable, Choice | IntRange):
            return node.variable.value(int(codes[at]))
        return node.variable.at(float(values[at]))

    return of(layout.root, ())


def given(layout: Layout, values: Mapping[str, Any]) -> dict[int, Any]:
    """Of each slot that a config speaks of, its value; the names and the numbers of times must fit."""
    found: dict[int, Any] = {}

    def of(node: Node, value: Any, index: tuple[int, ...], name: str) -> None:
        if isinstance(node, Branch):
            if not isinstance(value, Mapping):
                raise TypeError(f"encode: {name or 'config'!r} must be a dict, got {value!r}")
            if unknown := [key for key in value if key not in node.children]:
                wrong = join(name, str(unknown[0]))
                raise ValueError(f"encode: there is no {wrong!r}; there are {list(node.children)}")
            for key, inner in value.items():
                of(node.children[key], inner, index, join(name, key))
        elif isinstance(node, Stack):
            if not isinstance(value, list | tuple | np.ndarray | jax.Array):
                raise TypeError(f"encode: {name!r} must be a list with an entry for every time, got {value!r}")
            if len(value) not in node.times.counts:
                raise ValueError(f"encode: {name!r} has {len(value)} entries; it is repeated {node.times.times} times")
            if node.count is not None:
                found[int(node.count.places[index])] = len(value)
            for i, inner in enumerate(value):
                of(node.inside, inner, (*index, i), join(name, str(i)))
        else:
            found[int(node.places[index])] = value

    of(layout.root, values, (), "")
    return found


def encode(layout: Layout, values: Mapping[str, Any]) -> Genes:
    """The genes of one config; whether exactly those that exist were given is checked by the caller."""
    positions = layout.positions()
    codes, units = np.zeros(len(layout.codes), np.int32), np.zeros(len(layout.values), np.float32)
    for i, value in given(layout, values).items():
        slot = layout.slots[i]
        try:
            if isinstance(slot.variable, Choice | IntRange):
                codes[positions[i]] = slot.variable.code(value)
            else:
                units[positions[i]] = slot.variable.to_unit(value)
        except ValueError as error:
            raise ValueError(f"encode: {slot.name!r}: {error}") from None
    return Genes(jnp.asarray(codes), jnp.asarray(units))


def check_existing(layout: Layout, values: Mapping[str, Any], exists: np.ndarray) -> None:
    """A config must speak of exactly the variables that exist in it."""
    told = given(layout, values)
    for i, is_there in zip((*layout.codes, *layout.values), exists.tolist(), strict=True):
        slot = layout.slots[i]
        if is_there and i not in told:
            raise ValueError(f"encode: {slot.name!r} is missing; give one of {slot.variable}")
        if not is_there and i in told:
            raise ValueError(f"encode: {slot.name!r} does not exist in this config (see its condition); leave it out")
