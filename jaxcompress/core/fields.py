"""The fields of a leaf kind: which hold arrays, which are static, and how static values are written into files."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def data_fields(cls: type) -> tuple[str, ...]:
    """Names of the fields of a kind that hold arrays."""
    return tuple(f.name for f in dataclasses.fields(cls) if not f.metadata.get("static"))


def static_fields(cls: type) -> tuple[str, ...]:
    """Names of the fields of a kind that are static metadata."""
    return tuple(f.name for f in dataclasses.fields(cls) if f.metadata.get("static"))


def bit_width(dtype: Any) -> int:
    """Bits of one packed element: 1 for bool, 4 for int4, 2 for int2, 32 for float32, 64 for a complex64 or a key."""
    if dtype == jnp.bool_:
        return 1
    if jnp.issubdtype(dtype, jnp.complexfloating) or jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return 8 * dtype.itemsize
    return jnp.iinfo(dtype).bits if jnp.issubdtype(dtype, jnp.integer) else jnp.finfo(dtype).bits


def encode_static(value: Any) -> Any:
    """A static field as JSON: None, bool, int, float, str, dtype, and tuples of them."""
    if isinstance(value, tuple):
        return {"tuple": [encode_static(v) for v in value]}
    if isinstance(value, np.dtype):
        return {"dtype": value.name}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a static field must be None, bool, int, float, str, np.dtype or a tuple of them, got {value!r}")


def decode_static(value: Any) -> Any:
    """The inverse of `encode_static`."""
    if isinstance(value, dict):
        if "dtype" in value:
            return jnp.dtype(value["dtype"])
        return tuple(decode_static(v) for v in value["tuple"])
    return value
