"""Which candidates of an archive are the best: under bounds, and where metrics are traded against each other."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jaxcompress.search.archive import Archive, Candidate


def best(archive: Archive, metric: str | None, bounds: Mapping[str, float]) -> Candidate:
    """The eligible candidate within the bounds that has the least of a metric; see `Run.best`."""
    objectives = archive.problem.objectives
    within = eligible(archive)
    for name, at in bounds.items():
        if not np.issubdtype(np.asarray(at).dtype, np.number):
            raise TypeError(f"best({name}={at!r}): a bound is a number")
        within &= archive.values(name) <= at
    if not within.any():
        least = {name: archive.values(name)[eligible(archive)].min() for name in bounds}
        told = ", ".join(f"{name}={at:g} (the least seen: {least[name]:.4g})" for name, at in bounds.items())
        raise ValueError(f"best: no candidate keeps {told}")
    if metric is None:
        metric = next((name for name in objectives if name not in bounds), objectives[0])
    order = [archive.values(metric), *(archive.values(name) for name in objectives if name != metric)]
    order.append(np.arange(len(archive)))
    return archive[int(np.lexsort([np.where(within, values, np.inf) for values in reversed(order)])[0])]


def eligible(archive: Archive) -> np.ndarray:
    """`Archive.eligible`, of which there must be one.

    Raises:
        ValueError: if there is none; says what the others are.
    """
    good = archive.eligible
    if not good.any():
        lost, least = int(archive.failed.sum()), float(archive.columns.violation[~archive.failed].min(initial=np.inf))
        raise ValueError(
            f"none of {len(archive)} candidates keeps the constraints of the space and limits=: {lost} failed, the "
            f"least violation of the others is {least:.3g} (relative to the limits)"
        )
    return good


def front(values: np.ndarray) -> np.ndarray:
    """The rows of ``[n, metrics]`` that no other row dominates, ordered by the first metric, then the second, ...

    A row dominates another if it is nowhere larger and somewhere smaller. Of equal rows the first is kept.

    Example:
        >>> front(np.array([[1.0, 5.0], [2.0, 2.0], [3.0, 3.0], [2.0, 2.0], [4.0, 1.0]])).tolist()
        [0, 1, 4]
    """
    order = np.lexsort([np.arange(len(values)), *values.T[::-1]])
    kept: list[int] = []
    so_far = np.empty_like(values)
    for row in order:  # no row dominates one before it in this order
        if not np.all(so_far[: len(kept)] <= values[row], axis=1).any():
            so_far[len(kept)] = values[row]
            kept.append(int(row))
    return np.array(kept, np.int64)
