"""Activations on grids: what quantized weights meet is rounded too, by the row or by calibrated ranges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxcompress.core.leaf import CompressedArray, is_compressed
from jaxcompress.core.moments import Statistics, matrices_of
from jaxcompress.core.observe import Observed
from jaxcompress.core.paths import Where, flatten_with_paths, replace_at, select
from jaxcompress.quantize.formats import Format, format_of
from jaxcompress.quantize.input_channels import of_factor
from jaxcompress.quantize.products import Scaled
from jaxcompress.quantize.quantized_input import DynamicActivations, QuantizedInput, StaticActivations
from jaxcompress.quantize.ranges import find_activation_scaling, required_statistics
from jaxcompress.quantize.ranges.find import Ranges
from jaxcompress.quantize.rescaled import Rescaled
from jaxcompress.quantize.rescaled_statistics import rescaled_statistics


def activations(
    params: Any,
    stats: Statistics | None = None,
    *,
    bits: int = 8,
    mode: Literal["dynamic", "static"] | None = None,
    symmetric: bool | None = None,
    ranges: Ranges = "absmax",
    form: Literal["auto", "integer", "fake"] = "auto",
    where: Where = None,
) -> Any:
    """Lets quantized weights round the data that they meet, so that a product can be one of integers.

    Dynamic grids are symmetric and those of the rows: the largest absolute value of a row (of a convolution: of an
    example) is met. Static grids are calibrated, one for each site of a weight and each layer of a stack: nothing is
    measured while the model runs, and what lies beyond the range is clipped. Inside a rescaled leaf (AWQ,
    SmoothQuant) the data are rounded after they were rescaled, inside a low-rank leaf before each factor.

    Args:
        params: tree whose weights are quantized by any method. Not changed.
        stats: for static grids: of `jaxcompress.observe` of the model, with what ``ranges`` needs
            (`jaxcompress.quantize.required_statistics`).
        bits: width of the activations' codes, 2 to 8.
        mode: ``"dynamic"`` or ``"static"``; by default static if ``stats`` are given.
        symmetric: of static grids: no zero point. By default False (activations behind a ReLU have one side) where what
            that needs was observed, ``min`` and ``max`` for most ranges, else True.
        ranges: of static grids: a name or a range of `jaxcompress.quantize.ranges`.
        form: ``"auto"`` by platform and shape (`jaxcompress.quantize.forms`); ``"integer"``: always codes times codes;
            ``"fake"``: rounded floats, the reference.
        where: which weights: globs over paths or a predicate; by default all that are quantized, for static grids all
            of these that were observed in a contraction.

    Returns:
        The tree with `DynamicActivations` or `StaticActivations` around the quantized arrays.

    Raises:
        ValueError: if an option does not go with ``mode``, ``bits`` is out of range, nothing is quantized or
            fits ``where``, a chosen weight is not quantized, quantizes its data already, was not observed, or has a
            form for which no static range is known.

    Example:
        >>> packed = jc.quantize.rtn({"w": jnp.eye(3)}, bits=8)
        >>> x = jnp.array([[100.0, 0.3, 0.0]])
        >>> jc.lift(lambda p, x: x @ p["w"])(activations(packed, bits=8), x).round(2).tolist()  # a step is 100 / 127
        [[100.0, 0.0, 0.0]]

    References:
        Jacob et al., 2018, section 3. https://arxiv.org/abs/1712.05877
        Yao et al., 2022, section 4.2 (dynamic, by the row). https://arxiv.org/abs/2206.01861
    """
    if mode is None:
        mode = "dynamic" if stats is None else "static"
    _check(mode, stats, bits, symmetric, ranges, form)
    paths, leaves, _ = flatten_with_paths(params)
    now = dict(zip(paths, leaves, strict=True))
    chosen = _chosen(params, now, stats if mode == "static" else None, where)
    if mode == "dynamic":
        wrap = lambda leaf: DynamicActivations(leaf, bits, form)  # noqa: E731
        return replace_at(params, {path: _wrapped(now[path], path, wrap) for path in chosen})
    assert stats is not None
    if symmetric is None:
        needed = required_statistics(ranges, format_of("int", bits, False))
        symmetric = any(
            name not in entry.values
            for path in chosen
            for entry in _contractions(stats.get(path, ()))
            for name in needed
        )
    grid = format_of("int", bits, symmetric, method="activations")
    static = {path: _static(now[path], path, stats, grid, ranges, form) for path in chosen}
    return replace_at(params, static)


def _check(mode: str, stats: Any, bits: int, symmetric: bool | None, ranges: Ranges, form: str) -> None:
    if mode not in ("dynamic", "static"):
        raise ValueError(f"activations: mode must be 'dynamic' or 'static', got {mode!r}")
    if mode == "static" and stats is None:
        raise ValueError(
            "activations: mode='static' needs calibrated ranges: pass stats=jc.observe(fn, params, batches), or use "
            "mode='dynamic'"
        )
    if isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 8:
        raise ValueError(f"activations: bits must be an integer from 2 to 8, got {bits!r}")
    if mode == "dynamic" and symmetric is False:
        raise ValueError("activations: dynamic grids are symmetric; symmetric=False is of mode='static'")
    if mode == "dynamic" and ranges != "absmax":
        raise ValueError(
            f"activations: dynamic grids reach the largest absolute value of a row; ranges={ranges!r} is of "
            "mode='static', which needs stats="
        )
    if form not in ("auto", "integer", "fake"):
        raise ValueError(f"activations: form must be 'auto', 'integer' or 'fake', got {form!r}")


def _chosen(params: Any, now: dict[str, Any], stats: Statistics | None, where: Where) -> list[str]:
    quantized = [path for path, leaf in now.items() if _holds(leaf, Scaled) and not _holds(leaf, QuantizedInput)]
    if where is None:
        chosen = [path for path in quantized if stats is None or _contractions(stats.get(path, ()))]
        if not chosen:
            raise ValueError(
                "activations: no weight is quantized (or it was not observed in a contraction): quantize the weights "
                f"first (jc.quantize.rtn, ...); quantized are {quantized}"
                + ("" if stats is None else f", observed {list(stats)}")
            )
        return chosen
    chosen = select(params, where)
    for path in chosen:
        if _holds(now[path], QuantizedInput):
            raise ValueError(f"activations: {path!r} quantizes its data already: leave it out with where=")
        if path not in quantized:
            raise ValueError(f"activations: {path!r} is not quantized: quantize it first, or leave it out with where=")
    return list(chosen)


def _holds(leaf: Any, kind: type) -> bool:
    if isinstance(leaf, kind):
        return True
    return is_compressed(leaf) and any(_holds(field, kind) for field in leaf.components().values())


def _contractions(entries: Sequence[Observed]) -> list[Observed]:
    return [entry for entry in entries if "row_counts" not in entry.values]


def _wrapped(leaf: Any, path: str, wrap: Callable[[CompressedArray], CompressedArray]) -> Any:
    """The leaf with what is quantized in it wrapped; a mask over codes stays inside."""
    if not _holds(leaf, Scaled):
        return leaf
    if isinstance(leaf, Scaled) or _is_mask_over(leaf):
        return wrap(leaf)
    return leaf.replace(**{name: _wrapped(field, path, wrap) for name, field in leaf.components().items()})


def _is_mask_over(leaf: CompressedArray) -> bool:
    fields = list(leaf.components().values())
    codes = [field for field in fields if isinstance(field, Scaled)]
    return len(codes) == 1 and all(field.dtype == jnp.bool_ for field in fields if field is not codes[0])


def _static(leaf: Any, path: str, stats: Statistics, grid: Format, ranges: Ranges, form: str) -> CompressedArray:
    """The leaf with a grid for each of its sites."""
    if path not in stats or not _contractions(stats[path]):
        raise ValueError(
            f"activations: {path!r} was not observed in a contraction, so that its ranges are not calibrated. Observed "
            f"were {list(stats)}: observe it too, leave it out with where=, or use mode='dynamic'"
        )
    layout = matrices_of(path, leaf.shape, stats, method="activations")
    if isinstance(leaf, Rescaled):
        found = rescaled_statistics(stats, {path: (layout, 1 / of_factor(layout, leaf.factor))})
        return leaf.replace(values=_static(leaf.values, path, found, grid, ranges, form))
    if not (isinstance(leaf, Scaled) or _is_mask_over(leaf)):
        raise ValueError(
            f"activations: {path!r} is a {leaf.kind} leaf, for whose inner products no ranges are known: use "
            "mode='dynamic' for it"
        )
    stack = layout.roles.stack
    if stack != tuple(range(len(stack))):
        raise ValueError(
            f"activations: the layers of {path!r} lie along axes {stack}, and static grids need them to lead: use "
            "mode='dynamic' for it"
        )
    by_site: dict[int, tuple[jax.Array, jax.Array]] = {}
    for entry in _contractions(stats[path]):
        by_site[entry.ordinal] = _of_site(entry, path, layout.shape, stack, grid, ranges)
    scale, zero = (jnp.stack([of[i] for of in by_site.values()], -1) for i in (0, 1))
    return StaticActivations(leaf, scale, zero, grid.bits, tuple(by_site), form)


def _of_site(
    entry: Observed, path: str, shape: tuple[int, ...], stack: tuple[int, ...], grid: Format, ranges: Ranges
) -> tuple[jax.Array, jax.Array]:
    """Scale and zero point at one site, of the shape of the weight's stack."""
    scaling = find_activation_scaling(entry, grid, ranges)
    scale = scaling.scale
    zero = jnp.zeros(scale.shape, jnp.int8) if scaling.zero_point is None else scaling.zero_point
    kept = sorted(entry.stack)
    if set(kept) != set(stack) - set(entry.picked):
        raise ValueError(f"activations: the layers of {path!r} at {entry.source} are not known: use mode='dynamic'")
    order = [entry.stack.index(axis) for axis in kept]
    full = tuple(shape[axis] for axis in stack)
    expanded = tuple(shape[axis] if axis in kept else 1 for axis in stack)
    whole = lambda field: jnp.broadcast_to(jnp.transpose(field, order).reshape(expanded), full)  # noqa: E731
    return whole(scale), whole(zero)
