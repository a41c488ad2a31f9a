"""Which labels hang together: connected components, kept up to date while ties are added."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from jaxcompress.core.groups.labels import Graph


class Components:
    """Connected components of the labels of a graph.

    Attributes:
        of: component of every label.
        pinned: for every component, whether one of its labels is pinned.
    """

    def __init__(self, graph: Graph) -> None:
        """Connects what the graph ties."""
        self.of = _connect(graph.count, graph.ties)
        self.pinned = np.zeros(int(self.of.max(initial=-1)) + 1, bool)
        for pin in graph.pins:
            self.pinned[self.of[pin.labels]] = True

    def free(self, labels: np.ndarray) -> bool:
        """True if any of the labels can be removed."""
        return not self.pinned[self.of[labels]].all()

    def add(self, ties: Sequence[tuple[np.ndarray, np.ndarray]], pins: Sequence[np.ndarray]) -> None:
        """Adds ties and pins."""
        for labels in pins:
            self.pinned[self.of[labels]] = True
        merged = _connect(len(self.pinned), [(self.of[a], self.of[b]) for a, b in ties])
        pinned = np.zeros(int(merged.max(initial=-1)) + 1, bool)
        pinned[merged[self.pinned]] = True
        self.of, self.pinned = merged[self.of], pinned


def _connect(count: int, ties: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    if not ties:
        return np.arange(count)
    a, b = (np.concatenate([np.ravel(tie[side]) for tie in ties]) for side in (0, 1))
    edges = coo_array((np.ones(len(a), np.int8), (a, b)), shape=(count, count))
    return connected_components(edges, directed=False)[1]
