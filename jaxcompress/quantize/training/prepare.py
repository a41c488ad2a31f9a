"""`prepare`: puts fake-quantized leaves into a tree, so that an ordinary training loop trains a quantized network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxcompress.core.granularity import scale_shape
from jaxcompress.core.leaf import dense
from jaxcompress.core.parts import Part, find_parts, require_finite, with_parts
from jaxcompress.core.paths import Where, flatten_with_paths, replace_at
from jaxcompress.quantize.formats import format_of
from jaxcompress.quantize.ranges.find import range_of
from jaxcompress.quantize.training.annealed import AnnealedBits
from jaxcompress.quantize.training.fake import (
    DoReFa,
    FakeQuantized,
    FewLevels,
    LearnedOffset,
    LearnedStep,
    StraightThrough,
)
from jaxcompress.quantize.training.inputs import InputPlan
from jaxcompress.quantize.training.on_grid import OnGrid, power_of_two_step, projected
from jaxcompress.quantize.training.spec import QAT
from jaxcompress.quantize.training.starts import lsq_plus_start, lsq_start
from jaxcompress.quantize.training.straight_through import widened
from jaxcompress.solvers.grid import group_range

if TYPE_CHECKING:
    from jaxcompress.core.moments import Statistics
    from jaxcompress.core.sites import Sites


def prepare(
    params: Any,
    spec: QAT | None = None,
    *,
    sites: Sites | None = None,
    stats: Statistics | None = None,
    where: Where = None,
) -> Any:
    """Makes weights train as what they will be: floats whose values lie on a grid wherever they are used.

    The result goes where the parameters went, with `jaxcompress.lift` around the model; the step stays as it is:

        params = jc.quantize.prepare(params, QAT(bits=4), sites=sites)
        state = TrainState.create(apply_fn=jc.lift(model.apply), params=params, tx=tx)
        ...
        packed = jc.quantize.convert(state.params)

    All fields of the leaves are float arrays. Steps, offsets and ranges train with the weights; weight decay should
    leave them alone (`jaxcompress.train.decay_mask`). Stacked layers have their own. Of a masked leaf the values become
    fake-quantized, of a low-rank leaf both factors.

    Args:
        params: tree of float arrays or leaves. Not changed.
        spec: what becomes of weights and activations; by default LSQ at 4 bits, weights alone.
        sites: what `jaxcompress.sites` found: which leaves are weights, what their axes mean, and how often each meets
            data. Without it only kernels of two axes are taken, read as (in, out), and used once.
        stats: what `jaxcompress.observe` found with ``what="histogram"``: where ranges of activations start (see
            `Activations`). A first batch will do.
        where: leaves to prepare: globs over paths or a predicate; by default those that ``sites`` show as contraction
            weights or embeddings, without ``sites`` the float leaves of two axes or more.

    Returns:
        The tree with `FakeQuantized` leaves, inside of `FakeInput` leaves where activations are quantized.

    Raises:
        ValueError: if a chosen leaf is prepared or coded already, its axes are not known, ``group_size`` does not fit
            it, it holds NaN or infinity, or a range of activations has nothing to start from; if ``where`` or a glob
            fits nothing.
        TypeError: if a chosen leaf is not float.

    Example:
        >>> params = {"w": jnp.array([[1.0, -0.2], [0.4, 0.1]])}
        >>> trained = prepare(params, QAT(bits=4, method="ste"))
        >>> trained["w"].materialize().round(3).tolist()
        [[1.0, -0.2...], [0.42..., 0.08...]]

    References:
        Jacob et al., 2018, section 3. https://arxiv.org/abs/1712.05877
        Esser et al., 2020. https://arxiv.org/abs/1902.08153
    """
    spec = QAT() if spec is None else spec
    parts = find_parts(params, where=where, sites=sites, settings=spec.settings, method="prepare")
    require_finite(parts, "prepare")
    shapes = [_scale_shape(part, spec) for part in parts]
    leaves = [_leaf(part, spec, shape) for part, shape in zip(parts, shapes, strict=True)]
    prepared = with_parts(params, parts, leaves)
    return prepared if spec.activations is None else _with_inputs(prepared, parts, spec, sites, stats)


def _scale_shape(part: Part, spec: QAT) -> tuple[int, ...]:
    return scale_shape(
        part.array.shape,
        part.known_roles("prepare"),
        granularity="tensor" if spec.layer_wide else spec.granularity,
        group_size=spec.group_size,
        method="prepare",
        name=part.name,
    )


def _leaf(part: Part, spec: QAT, shape: tuple[int, ...]) -> FakeQuantized:
    values, bits = dense(part.array), spec.bits_at(part.path)
    return _MAKERS[spec.method](values, shape, bits, _core(part, shape), spec)


def _core(part: Part, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The scale's shape behind the stack axes that lead; stack axes elsewhere have one scale per index like others."""
    stacks = 0
    while stacks in part.stack:
        stacks += 1
    return shape[stacks:]


def _straight_through(values: jax.Array, shape: Any, bits: Any, core: Any, spec: QAT) -> StraightThrough:
    del shape
    number_format = format_of(spec.format, bits, spec.symmetric, method="prepare")
    range_of(spec.ranges, method="prepare")
    return StraightThrough(values, core, spec.format, number_format.bits, spec.symmetric, spec.ranges, values.dtype)


def _lsq(values: jax.Array, shape: Any, bits: int, core: Any, spec: QAT) -> LearnedStep:
    del core, spec
    return LearnedStep(values, lsq_start(values, shape, bits=bits), bits, _sharing(values, shape), values.dtype)


def _lsq_plus(values: jax.Array, shape: Any, bits: int, core: Any, spec: QAT) -> FakeQuantized:
    del core
    if spec.symmetric:
        scale = lsq_plus_start(values, shape, bits=bits)
        return LearnedStep(values, scale, bits, _sharing(values, shape), values.dtype)
    scale, zero_point, _ = format_of("int", bits, symmetric=False).scaling(*group_range(widened(values), shape))
    assert zero_point is not None
    offset = -(zero_point.astype(scale.dtype) * scale)
    return LearnedOffset(values, scale, offset, bits, _sharing(values, shape), values.dtype)


def _sharing(values: jax.Array, shape: tuple[int, ...]) -> int:
    """How many weights share a step."""
    return values.size // max(1, math.prod(shape))


def _dorefa(values: jax.Array, shape: Any, bits: int, core: Any, spec: QAT) -> DoReFa:
    del shape
    return DoReFa(values, core, bits, spec.rescaled, values.dtype)


def _few(values: jax.Array, shape: Any, bits: int, core: Any, spec: QAT) -> FewLevels:
    del shape, bits
    return FewLevels(values, core, spec.method, values.dtype)


def _annealed(values: jax.Array, shape: Any, bits: int, core: Any, spec: QAT) -> AnnealedBits:
    del spec
    stacks = shape[: len(shape) - len(core)]
    widths = jnp.full((*stacks, *(1 for _ in core)), bits, jnp.float32)
    return AnnealedBits(values, widths, core, values.dtype)


def _on_grid(values: jax.Array, shape: Any, bits: int, core: Any, spec: QAT) -> OnGrid:
    del core, spec
    step = power_of_two_step(values, shape, bits=bits)
    return OnGrid(projected(values, step, bits=bits), step, bits, values.dtype)


_MAKERS: Mapping[str, Callable[..., FakeQuantized]] = {
    "ste": _straight_through,
    "lsq": _lsq,
    "lsq+": _lsq_plus,
    "dorefa": _dorefa,
    "binary_connect": _few,
    "xnor": _few,
    "twn": _few,
    "bitnet": _few,
    "annealed": _annealed,
    "on_grid": _on_grid,
}


def _with_inputs(params: Any, parts: list[Part], spec: QAT, sites: Any, stats: Any) -> Any:
    assert spec.activations is not None
    leaves = dict(zip(*flatten_with_paths(params)[:2], strict=True))
    stacks = {part.path: part for part in reversed(parts)}
    wrapped = {}
    for path in dict.fromkeys(part.path for part in parts):
        bits = spec.activations.bits_at(path)
        plan = None if bits is None else InputPlan.of(path, stacks[path].stack, leaves[path], sites, stats)
        if plan is not None and bits is not None:
            wrapped[path] = plan.leaf(leaves[path], spec.activations, bits)
    if not wrapped:
        raise ValueError(
            f"prepare: the globs of activations={spec.activations} fit none of the chosen leaves: {list(stacks)}"
        )
    return replace_at(params, wrapped)
