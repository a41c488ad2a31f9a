"""A cell: nodes of which each is the sum of what its incoming edges make of earlier nodes."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.search.cells.operations import NAS_BENCH_201, Operation
from jaxcompress.search.checks import whole
from jaxcompress.search.darts.relaxation import mixed


@dataclasses.dataclass(frozen=True)
class Cell:
    """A densely connected cell; what its edges do is data.

    The first node is the input, the last one the output. Edges are counted as NAS-Bench-201 does: those into node 1,
    into node 2, ..., each from the earliest node on.

    Args:
        nodes: of which the input is one.
        operations: what an edge can be.

    Example:
        >>> Cell().edges
        ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))

    References:
        Dong & Yang, 2020. https://arxiv.org/abs/2001.00326
    """

    nodes: int = 4
    operations: tuple[Operation, ...] = NAS_BENCH_201

    def __post_init__(self) -> None:
        """Raises ValueError for a cell without edges, or edges without operations."""
        whole(self, least=2, nodes=self.nodes)
        if not self.operations:
            raise ValueError("Cell(operations=) must name what an edge can be, got ()")

    @property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """``(from, to)`` of every edge."""
        return tuple((source, target) for target in range(1, self.nodes) for source in range(target))

    def init(self, key: jax.Array, channels: int) -> dict[str, Any]:
        """Parameters by operation, those of the edges stacked along axis 0."""
        keys = jax.random.split(key, (len(self.operations), len(self.edges)))
        drawn = {
            op.name: jax.vmap(lambda k, op=op: op.init(k, channels))(own)
            for op, own in zip(self.operations, keys, strict=True)
        }
        return {name: params for name, params in drawn.items() if params}

    def apply(self, params: dict[str, Any], choice: jax.Array, x: jax.Array) -> jax.Array:
        """What the cell makes of ``x``.

        A loop over the edges: the program is that of one edge, and compiles as fast.

        Args:
            params: as `init` gives them.
            choice: int ``[edges]``, the operation of every edge: only that one is computed (under `vmap` over choices
                all are; `lax.map` over choices is the faster way on CPU). Or float ``[edges, operations]``: a mixture,
                in which all are computed and weighed.
            x: ``[batch, height, width, channels]``.

        Raises:
            ValueError: for a choice of another shape.
        """
        discrete = jnp.issubdtype(choice.dtype, jnp.integer)
        expected = (len(self.edges),) if discrete else (len(self.edges), len(self.operations))
        if choice.shape != expected:
            raise ValueError(
                f"choice has shape {choice.shape}; this cell takes int [{len(self.edges)}], an operation per edge, "
                f"or float [{len(self.edges)}, {len(self.operations)}], a mixture per edge"
            )
        edge = self._discrete if discrete else self._mixture
        sources, targets = jnp.asarray(self.edges, jnp.int32).T

        def step(nodes, own):
            source, target, params, choice = own
            return nodes.at[target].add(edge(params, choice, nodes[source])), None

        nodes = jnp.zeros((self.nodes, *x.shape), x.dtype).at[0].set(x)
        nodes, _ = lax.scan(step, nodes, (sources, targets, params, choice))
        return nodes[-1]

    def _discrete(self, params: dict[str, Any], code: jax.Array, x: jax.Array) -> jax.Array:
        branches = [lambda p, x, op=op: op.apply(p.get(op.name, {}), x) for op in self.operations]
        return lax.switch(code, branches, params, x)

    def _mixture(self, params: dict[str, Any], weights: jax.Array, x: jax.Array) -> jax.Array:
        return mixed(weights, [op.apply(params.get(op.name, {}), x) for op in self.operations])
