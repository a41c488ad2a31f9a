"""The leaf kind that overrides the table of compute forms."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, Self, get_args

import jax
import numpy as np

from jaxcompress.core.leaf import CompressedArray, is_compressed, leaf_kind
from jaxcompress.core.paths import Where, flatten_with_paths, replace_at, select
from jaxcompress.quantize.products import Axes, Scaled, blocks, conv_scale_after, materialized, scale_after
from jaxcompress.quantize.quantized_input import QuantizedInput

WeightForm = Literal["scale_after", "blocks", "materialize"]
_PRODUCTS = {"scale_after": scale_after, "blocks": blocks, "materialize": materialized}


@leaf_kind("in_form", priority=1)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class InForm(CompressedArray):
    """A quantized weight whose products have one form wherever it can be, see `jaxcompress.quantize.forms`.

    Attributes:
        weight: the quantized weight.
        form: ``"scale_after"``, ``"blocks"`` or ``"materialize"``. A product that cannot have it is one with the dense
            kernel, which `jaxcompress.explain` reports.
    """

    weight: Scaled
    form: str = dataclasses.field(metadata={"static": True})

    @property
    def dtype(self) -> np.dtype:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Dtype of the weight."""
        return self.weight.dtype

    def alignment(self) -> Mapping[str, tuple[int | None, ...]]:
        """The weight runs along the dense axes."""
        return {"weight": tuple(range(len(self.weight.shape)))}

    def materialize(self) -> jax.Array:
        """The dense weight."""
        return self.weight.materialize()

    def astype(self, dtype: Any) -> Self:
        """The same with a dense array of another dtype."""
        return self.replace(weight=self.weight.astype(dtype))

    def matmul(self, x: jax.Array, *, contract: Axes, batch: Axes, **options: Any) -> jax.Array | None:
        """The product in its form."""
        return _PRODUCTS[self.form](self.weight, x, contract, batch, **options)

    def how(self, x: Any, *, contract: Axes, batch: Axes) -> str:
        """Names the form."""
        del x, contract, batch
        return f"{self.kind} matmul, {self.form}"

    def conv(self, x: jax.Array, **params: Any) -> jax.Array | None:
        """The convolution with the scale after it, or dense."""
        return conv_scale_after(self.weight, x, **params) if self.form == "scale_after" else None


def with_form(params: Any, form: str, *, where: Where = None) -> Any:
    """Fixes how products with quantized weights are computed, in place of the table of `jaxcompress.quantize.forms`.

    Args:
        params: tree with quantized weights. Not changed.
        form: of weights: ``"scale_after"``, ``"blocks"`` or ``"materialize"``; of weights that round their data
            (`jaxcompress.quantize.activations`): ``"integer"`` or ``"fake"``. ``"auto"`` gives the choice back to the
            table.
        where: which weights: globs over paths or a predicate; by default all that can have the form.

    Returns:
        The tree with `InForm` leaves around the weights, or with other forms in the leaves that round their data.

    Raises:
        ValueError: if the form is not known, or no weight that ``where`` chooses can have it.

    Example:
        >>> packed = with_form(jc.quantize.rtn({"w": jnp.eye(4)}, bits=8), "blocks")
        >>> packed["w"].form, jc.lift(lambda p, x: x @ p["w"])(packed, jnp.ones((1, 4))).tolist()
        ('blocks', [[1.0, 1.0, 1.0, 1.0]])
    """
    known = (*get_args(WeightForm), "integer", "fake", "auto")
    if form not in known:
        raise ValueError(f"with_form: form must be one of {', '.join(known)}, got {form!r}")
    paths, leaves, _ = flatten_with_paths(params)
    chosen = set(select(params, where)) if where is not None else set(paths)
    changed = {path: _in_form(leaf, form) for path, leaf in zip(paths, leaves, strict=True) if path in chosen}
    changed = {path: leaf for path, leaf in changed.items() if leaf is not None}
    if not changed or (where is not None and set(changed) != chosen):
        raise ValueError(
            f"with_form: {sorted(chosen - set(changed)) if where is not None else 'no leaf'} can have form={form!r}: "
            "weights have it once they are quantized, 'integer' and 'fake' once they round their data "
            "(jc.quantize.activations)"
        )
    return replace_at(params, changed)


def _in_form(leaf: Any, form: str) -> Any:
    """The leaf with what can have the form changed inside; None if nothing can."""
    if isinstance(leaf, QuantizedInput):
        if form in ("integer", "fake"):
            return leaf.replace(form=form)
        if form == "auto":
            weight = _in_form(leaf.weight, form)
            return leaf.replace(form=form, weight=leaf.weight if weight is None else weight)
    elif isinstance(leaf, InForm):
        return leaf.weight if form == "auto" else _in_form(leaf.weight, form)
    elif isinstance(leaf, Scaled):
        return InForm(leaf, form) if form in _PRODUCTS else None
    if not is_compressed(leaf):
        return None
    fields = {name: _in_form(field, form) for name, field in leaf.components().items()}
    changes = {name: field for name, field in fields.items() if field is not None}
    return leaf.replace(**changes) if changes else None
