"""Disjoint parts of a data set: one to learn from, one to search on, one to report on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np


def split(arrays: Any, fractions: Sequence[float], key: jax.Array) -> tuple[Any, ...]:
    """Shuffles rows and deals them into parts that have none in common.

    Args:
        arrays: a tree of arrays whose first axes are the same rows.
        fractions: of the rows, for each part; they sum to 1. Every row goes to exactly one part.
        key: of the shuffling, consumed.

    Returns:
        For each fraction a tree of NumPy arrays like ``arrays``.

    Raises:
        ValueError: if the numbers of rows differ, or a fraction leaves a part without rows.

    Example:
        >>> x = np.arange(10)
        >>> train, judge, report = split({"x": x}, (0.6, 0.2, 0.2), jax.random.key(0))
        >>> len(judge["x"]), sorted(np.concatenate([train["x"], judge["x"], report["x"]]).tolist()) == x.tolist()
        (2, True)
    """
    lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(arrays)}
    if len(lengths) != 1 or () in lengths:
        raise ValueError(
            f"split: all arrays must have the same rows, got {[np.shape(x) for x in jax.tree.leaves(arrays)]}"
        )
    if not fractions or min(fractions) <= 0 or not math.isclose(sum(fractions), 1.0):
        raise ValueError(f"split: fractions must be positive and sum to 1, got {tuple(fractions)}")
    ((rows,),) = lengths
    ends = [round(rows * sum(fractions[: i + 1])) for i in range(len(fractions))]
    starts = [0, *ends[:-1]]
    if any(start == end for start, end in zip(starts, ends, strict=True)):
        raise ValueError(f"split: {rows} rows are too few for fractions {tuple(fractions)}: a part would be empty")
    order = np.asarray(jax.random.permutation(key, rows))
    parts = [order[start:end] for start, end in zip(starts, ends, strict=True)]
    return tuple(jax.tree.map(lambda leaf, at=part: np.asarray(leaf)[at], arrays) for part in parts)
