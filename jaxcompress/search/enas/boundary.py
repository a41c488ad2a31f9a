"""Limits of the network there is: decisions beyond them are pulled back, and cost.

A supernet that grows has at first only some of the values that its space names: few channels, few layers, two of five
operations. The controller decides over the whole space nevertheless, so that what it learned lasts when the network
grows. A decision for a value that is not there yet is carried out as the nearest one that is (at the limit), and the
reward is lower by ``boundary_penalty`` times how far beyond the limit the decision was, relative to the range of the
variable. So there is a gradient back inside, and it vanishes by itself where the limits widen.

Pham et al. (2018) have no such term: it belongs to the growing schedule from a small subnet. That a penalty keeps the
controller within the limits of the network was all there was to go by. That decisions *beyond* a limit cost, in
proportion to the distance, and those exactly at it are free, is our reading.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from jaxcompress.search.space import Space


class Bounded(NamedTuple):
    """Decisions within the limits.

    Attributes:
        codes: int32 ``[decisions]``: each decision, or the nearest value that there is.
        excess: float32 ``[decisions]`` in ``[0, 1]``: how far beyond the limit it was.
    """

    codes: jax.Array
    excess: jax.Array


def bounded(space: Space, allowed: jax.Array, codes: jax.Array) -> Bounded:
    """Pulls decisions back to what there is.

    Of an ordered variable the nearest value is taken (of two the lower one) and the excess is the distance over the
    variable's range; of an unordered one the first value and 1.

    Args:
        space: static.
        allowed: bool ``[decisions, values]``: what there is, at least one of each. A runtime array.
        codes: int32 ``[decisions]``.
    """
    cardinalities = np.asarray(space.cardinalities, np.float32)
    ordered = np.asarray(space.ordered, bool)[:, None]
    values = jnp.arange(allowed.shape[1], dtype=jnp.int32)[None, :]
    away = jnp.abs(codes[:, None] - values).astype(jnp.float32)
    span = np.maximum(cardinalities - 1.0, 1.0)[:, None]
    distance = jnp.where(ordered, away / span, jnp.minimum(away, 1.0))
    distance = jnp.where(allowed, distance, jnp.inf)
    return Bounded(jnp.argmin(distance, axis=1).astype(jnp.int32), jnp.min(distance, axis=1))


def allowed_values(space: Space, limits: Mapping[str, Sequence[Any]] | None = None) -> jax.Array:
    """The values that there are, as a table for `ENAS`.

    Args:
        space: whose variables are named.
        limits: by path (of `Space.names`; or an outer path, which stands for all variables below it) the positions or
            the values that there are. Variables that are not named have all of theirs.

    Returns:
        bool ``[decisions, values]``.

    Raises:
        ValueError: for a path or value that the space does not have, or a variable without values.

    Example:
        >>> from jaxcompress.search.space import Choice, IntRange, Space
        >>> space = Space({"width": Choice((8, 16, 32)), "depth": IntRange(1, 2)})
        >>> allowed_values(space, {"width": (8, 16)}).tolist()
        [[True, True, False], [True, True, False]]
    """
    cardinalities = np.asarray(space.cardinalities)
    allowed = np.arange(cardinalities.max())[None, :] < cardinalities[:, None]
    names = space.names[: space.discrete]
    for path, given in (limits or {}).items():
        rows = [i for i, name in enumerate(names) if name == path or name.startswith(path + "/")]
        if not rows:
            raise ValueError(f"limits: the space has no discrete variable {path!r}; there are {list(names)}")
        if not given:
            raise ValueError(f"limits: {path!r} is left without values; leave it out, or name some")
        for row in rows:
            variable = space._layout.discrete[row]
            allowed[row] = False
            allowed[row, [variable.code(value) for value in given]] = True
    return jnp.asarray(allowed)
