"""`convert`: what was trained as if it were integers becomes integers."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxcompress.core.leaf import CompressedArray, is_compressed
from jaxcompress.core.paths import Where, flatten_with_paths, replace_at, select
from jaxcompress.quantize.quantized_input import DynamicActivations, StaticActivations
from jaxcompress.quantize.training.fake import FakeQuantized
from jaxcompress.quantize.training.fake_input import FakeInput


def convert(params: Any, *, where: Where = None) -> Any:
    """Turns prepared leaves into integer leaves of the same values, bit for bit.

    Weights become the leaves that `jaxcompress.quantize.rtn` and its kin give (a table for DoReFa, one bit per
    binary weight); activations with ranges become `StaticActivations`, dynamic ones stay.

    Args:
        params: a tree that `prepare` made, trained. Not changed.
        where: leaves to convert; by default all that are prepared.

    Returns:
        The tree with `materialize` equal in every bit. Outputs are the same where products are computed from
        materialized weights and rounded data, and equal up to rounding where integers are multiplied.

    Raises:
        ValueError: if nothing is prepared or a chosen leaf is not, a step or range is zero (it was never set) or not
            finite, or the values of a leaf are (seen only outside ``jit``); names the leaf.

    Example:
        >>> trained = jc.quantize.prepare({"w": jnp.array([[1.0, -0.2], [0.4, 0.1]])}, jc.quantize.QAT(bits=4))
        >>> packed = convert(trained)
        >>> packed["w"].qvalue.dtype, bool((packed["w"].materialize() == trained["w"].materialize()).all())
        (dtype(int4), True)
    """
    paths, leaves, _ = flatten_with_paths(params)
    chosen = set(select(params, where, default=lambda path, leaf: is_compressed(leaf) and _prepared(leaf)))
    changes = {}
    for path, leaf in zip(paths, leaves, strict=True):
        if path in chosen and not _prepared(leaf):
            raise ValueError(f"convert: {path!r} is not prepared (jc.quantize.prepare): leave it out of where=")
        if path in chosen:
            changes[path] = _converted(path, leaf)
    return replace_at(params, changes)


def _prepared(leaf: Any) -> bool:
    if not isinstance(leaf, CompressedArray):
        return False
    return isinstance(leaf, FakeQuantized | FakeInput) or any(map(_prepared, leaf.components().values()))


def _converted(path: str, leaf: Any) -> Any:
    if not isinstance(leaf, CompressedArray):
        return leaf
    if isinstance(leaf, FakeQuantized):
        _require_set(path, leaf)
        return leaf.coded()
    if isinstance(leaf, FakeInput):
        _require_set(path, leaf)
        scale, zero_point = leaf.grid()
        return StaticActivations(_converted(path, leaf.weight), scale, zero_point, leaf.bits, leaf.sites)
    inside = {name: _converted(path, field) for name, field in leaf.components().items()}
    if isinstance(leaf, DynamicActivations):
        return DynamicActivations(inside["weight"], leaf.bits)
    return leaf.replace(**inside)


def _require_set(path: str, leaf: FakeQuantized | FakeInput) -> None:
    """Checks what is known: scales and ranges are numbers and not zero, values are numbers."""
    for name, field in leaf.components().items():
        if isinstance(field, CompressedArray | Tracer):
            continue
        values = np.asarray(field.astype(jnp.float32))
        if not np.isfinite(values).all():
            raise ValueError(f"convert: the {name} of {path!r} hold NaN or infinity")
        if name in ("scale", "alpha") and not values.all():
            raise ValueError(
                f"convert: a {name} of {path!r} is zero: it was never set. Prepare with stats=jc.observe(...)"
            )
