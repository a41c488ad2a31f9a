"""What strategies work on: a candidate as two rows of numbers, one of integers and one of floats."""

from __future__ import annotations

from typing import NamedTuple

import jax


class Genes(NamedTuple):
    """Candidates as a `jaxcompress.search.Space` encodes them; any leading axes.

    Attributes:
        codes: int32 ``[..., discrete]``: of every discrete variable which of its values, from 0.
        values: float32 ``[..., continuous]``: of every continuous variable where between its bounds, in ``[0, 1]``.
    """

    codes: jax.Array
    values: jax.Array
