"""Milliseconds of every variant: the products of each leaf timed at the shapes that they meet, once, and summed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress.core.leaf import is_compressed
from jaxcompress.core.lift import lift
from jaxcompress.core.paths import flatten_with_paths
from jaxcompress.core.timing import filled, interleaved_ms, median_ms
from jaxcompress.factorize.rank.products import Product, products_of
from jaxcompress.search.policies.costs import Costs
from jaxcompress.search.policies.table import VariantTable

Program = tuple[Any, ...]
_SAMPLES = 5
_TOGETHER = 16  # programs that are timed in turn


def with_latency(table: VariantTable, inputs: Sequence[Any] | None) -> Costs:
    """The costs of a table and ``latency_ms``: predicted milliseconds of one call.

    Every product of every weight that is decided, or cut, is compiled and timed alone, with the leaf that the real
    methods made, at the shapes of ``inputs``; equal programs once. What the call of the network as it is takes beyond
    its products is fixed. Products of cut weights are not timed but taken in proportion to their operations. So this is
    a prediction: what XLA fuses, and what a policy really takes, the result tells (`PolicyResult.real`).

    Args:
        table: the variants.
        inputs: example arguments after the parameters.

    Raises:
        ValueError: if there are no inputs.
    """
    if inputs is None:
        raise ValueError("policy: a budget of latency_ms needs inputs= (example arguments of fn after the parameters)")
    products = products_of(table.fn, table.params, tuple(inputs), {})
    decided = {decision.path: own for decision, own in zip(table.leaves, table.variants, strict=True)}
    whole = dict(zip(*flatten_with_paths(table.params)[:2], strict=True))
    variants = {item.path: decided.get(item.path, (whole[item.path],)) for item in table.costs.items}
    wanted = {
        (path, variant): [(product, _missing(product, leaf), leaf) for product in products.get(path, ())]
        for path, own in variants.items()
        for variant, leaf in enumerate(own)
    }
    known = _timed({_name(product, leaf): (product, leaf) for calls in wanted.values() for product, _, leaf in calls})
    alone = {place: sum(times * known[_name(p, leaf)] for p, times, leaf in calls) for place, calls in wanted.items()}
    tables = {}
    for item in table.costs.items:
        flops = item.tables["flops"].astype(np.float64)
        flops = flops if item.path in decided else flops[None]  # the first axis is that of the variants
        along = (-1, *[1] * (flops.ndim - 1))
        ms = np.array([alone[item.path, variant] for variant in range(len(flops))])
        uncut = flops.reshape(len(flops), -1)[:, 0]
        tables[item.path] = (ms.reshape(along) * flops / np.maximum(uncut, 1.0).reshape(along)).reshape(
            item.tables["flops"].shape
        )
    run = jax.jit(lift(table.fn))
    given = jax.tree.map(filled, tuple(inputs))
    total = median_ms(lambda arguments: run(table.params, *arguments), given)
    dense = sum(alone[path, 0] for path in variants)
    return table.costs.with_table("latency_ms", tables, max(0.0, total - dense))


@dataclasses.dataclass(frozen=True)
class _Call:
    """One product of a weight, given the whole parameter."""

    product: Product

    def __call__(self, weight: Any, x: jax.Array) -> jax.Array:
        gone = [axis for axis in range(weight.ndim) if axis not in self.product.axes]
        for axis in reversed(gone):  # a layer of a stack
            weight = lax.index_in_dim(weight, 0, axis, keepdims=False)
        left = [axis for axis in range(weight.ndim + len(gone)) if axis not in gone]
        return self.product.dense(x, jnp.transpose(weight, [left.index(axis) for axis in self.product.axes]))


def _missing(product: Product, leaf: Any) -> int:
    """How often a product runs: once for every layer of the stack that it is one of."""
    return math.prod(size for axis, size in enumerate(leaf.shape) if axis not in product.axes)


def _name(product: Product, leaf: Any) -> Program:
    """Equal for equal programs."""
    kinds = tuple((x.shape, str(x.dtype)) for x in jax.tree.leaves(leaf))
    return product, jax.tree.structure(leaf) if is_compressed(leaf) else None, kinds


def _timed(calls: dict[Program, tuple[Product, Any]]) -> dict[Program, float]:
    """Milliseconds of every program, some of them in turn."""
    found: dict[Program, float] = {}
    names = list(calls)
    for start in range(0, len(names), _TOGETHER):
        some = names[start : start + _TOGETHER]
        runs = []
        for name in some:
            product, leaf = calls[name]
            run, x = jax.jit(lift(_Call(product))), jnp.zeros(product.x, product.dtype)
            runs.append(lambda run=run, leaf=leaf, x=x: run(leaf, x))
        found.update(zip(some, interleaved_ms(runs, samples=_SAMPLES), strict=True))
    return found
