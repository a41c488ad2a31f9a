"""Numerics that flatten and join arrays, on meshes whose axes are explicit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, auto_axes


def keeping_placement(fn: Callable[..., list[jax.Array]], arrays: Sequence[jax.Array], *rest: Any) -> list[jax.Array]:
    """``fn(arrays, *rest)`` for a function whose results have the shapes of ``arrays``, whatever the mesh.

    Where axes of the mesh are `AxisType.Explicit` (the default of `jax.make_mesh`), a reshape or concatenation of
    sharded arrays is an error unless it says how its result is sharded. Here the compiler decides inside ``fn``, and
    the results are placed as ``arrays`` are. Call it under ``jit``.

    Args:
        fn: ``fn(list of arrays, *rest) -> list of arrays`` of the same shapes.
        arrays: operands, each with any sharding.
        *rest: small further operands.
    """
    shardings = [jax.typeof(array).sharding for array in arrays]
    if not any(AxisType.Explicit in sharding.mesh.axis_types for sharding in shardings):
        return fn(list(arrays), *rest)
    placed: Any = auto_axes(fn, out_sharding=shardings)
    return placed(list(arrays), *rest)
