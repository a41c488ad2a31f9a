"""BatchNorm statistics of a subnet: those of the data, for any function in evaluation mode."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxcompress.core.affine import Chains, Key, chains
from jaxcompress.core.lift import array_paths, split_static, trace
from jaxcompress.core.paths import flatten_with_paths, replace_at
from jaxcompress.quantize.batchnorms import Steps, affine, normalizations
from jaxcompress.search.supernet.statistics_walk import StatisticsWalk


@dataclasses.dataclass(frozen=True)
class Normalization:
    """A batch normalization in evaluation mode, one layer of it where layers are stacked.

    Attributes:
        mean: path of the running mean, and the entries of the first axes that enclosing scans take.
        variance: likewise.
        ndim: number of axes of the data.
        channels: the axes of the data that the statistics run along.
    """

    mean: Key
    variance: Key
    ndim: int
    channels: tuple[int, ...]


def find_normalizations(fn: Callable[..., Any], params: Any, *inputs: Any, **kwargs: Any) -> tuple[Normalization, ...]:
    """Finds the batch normalizations of a function from its trace.

    A batch normalization is a chain of affine steps on data, made from parameters alone, with one variance under a root
    and one parameter that is its mean: where the data is that, what comes out does not depend on either statistic,
    which is tried on numbers. It does not matter who wrote it, nor in which order it multiplies and adds. Found inside
    of ``jit``, ``remat``, functions with derivatives of their own, and scans over layers.

    Args:
        fn: a function that ``jit`` accepts, in evaluation mode; non-array arguments are static.
        params: its first argument; only shapes and dtypes count.
        *inputs: further positional arguments, likewise.
        **kwargs: keyword arguments of ``fn``.

    Returns:
        One for each place, in order of evaluation.

    Example:
        >>> def fn(p, x):
        ...     return (x @ p["w"] - p["mean"]) * jax.lax.rsqrt(p["var"] + 1e-5) * p["gain"] + p["bias"]
        >>> params = {name: jnp.ones((1, 4)) for name in ("mean", "var", "gain", "bias")} | {"w": jnp.ones((3, 4))}
        >>> [(n.mean, n.variance) for n in find_normalizations(fn, params, jnp.ones((2, 3)))]
        [(('mean', ()), ('var', ()))]
    """
    paths, leaves, _ = flatten_with_paths(params)
    like = {path: jax.typeof(leaf) for path, leaf in zip(paths, leaves, strict=True)}
    found: Chains = chains(fn, params, inputs, kwargs)
    with jax.ensure_compile_time_eval():
        read = [_read(steps, like) for stack in normalizations(found) for steps in stack]
    return tuple(one for one in read if one is not None)


def _read(steps: Steps, like: Mapping[str, Any]) -> Normalization | None:
    """Finds the mean among what a chain adds and subtracts."""
    ((variance, epsilon),) = steps.variances.items()
    for mean in steps.shifts:
        involved = {mean, variance}
        first = next(i for i, one in enumerate(steps.steps) if one.operand and one.operand.leaves & involved)
        inside = dataclasses.replace(
            steps, start=steps.steps[first - 1] if first else steps.start, steps=steps.steps[first:]
        )
        channels = _channels(inside, mean, variance, epsilon, like)
        if channels is not None:
            return Normalization(mean, variance, len(inside.start.shape), channels)
    return None


def _channels(
    steps: Steps, mean: Key, variance: Key, epsilon: float, like: Mapping[str, Any]
) -> tuple[int, ...] | None:
    """The axes of a chain along which its gain runs, if the chain normalizes by this mean and this variance."""
    random = np.random.default_rng(0)
    leaves = {path: None for one in steps.steps if one.operand is not None for path, _ in one.operand.leaves}
    one = {path: jnp.asarray(random.uniform(0.5, 1.5, like[path].shape), like[path].dtype) for path in leaves}
    tolerance = max(1e-3, *(8 * float(jnp.finfo(leaf.dtype).eps) for leaf in one.values()))
    other = {**one, **{path: one[path] * 2.0 + 0.25 for path in (mean[0], variance[0])}}
    seen = []
    for values in (one, other):
        gain, shift = affine(steps, values)
        at, under = (np.asarray(values[path][layer], np.float64) for path, layer in (mean, variance))
        if at.shape != under.shape or at.size != gain.size:
            return None
        seen.append((gain * at.reshape(gain.shape) + shift, gain * np.sqrt(under.reshape(gain.shape) + epsilon)))
    if not all(np.allclose(a, b, rtol=tolerance, atol=tolerance) for a, b in zip(*seen, strict=True)):
        return None
    return tuple(axis for axis, size in enumerate(gain.shape) if size != 1)


def batch_statistics(fn: Callable[..., Any], params: Any, *inputs: Any, **kwargs: Any) -> dict[str, jax.Array]:
    """The statistics that one batch gives every batch normalization, each normalizing by those of the batch.

    That is a pass in training mode, of a function in evaluation mode. Traceable.

    Args:
        fn: as for `recalibrated`.
        params: its first argument.
        *inputs: one batch.
        **kwargs: keyword arguments of ``fn``.

    Returns:
        Means and biased variances, float32, by their paths in ``params``.

    Raises:
        ValueError: if there is no batch normalization, or one is where `recalibrated` does not support it.
    """
    found = find_normalizations(fn, params, *inputs, **kwargs)
    if not found:
        raise ValueError(
            "found no batch normalization; is fn in evaluation mode (train=False, use_running_average=True)? With a "
            "training pass, jaxcompress.prune.reestimate_batchnorm needs no finding"
        )
    _refuse_shared(found)
    count = len(split_static(fn, (params,), {})[1])
    static, arrays = split_static(fn, (params, *inputs), kwargs)
    closed, _ = trace(fn, static, arrays)
    walk = StatisticsWalk(dict(zip(array_paths(static)[:count], arrays[:count], strict=True)), found)
    walk.start(closed, arrays, count)
    missed = [one.mean[0] for one in found if one.mean not in walk.seen]
    if missed:
        raise ValueError(f"recalibrated: the normalization of {missed[0]!r} met no data")
    return {path: walk.leaves[path] for one in found for path in (one.mean[0], one.variance[0])}


def _refuse_shared(found: Sequence[Normalization]) -> None:
    keys = [key for one in found for key in (one.mean, one.variance)]
    twice = [key for key in keys if keys.count(key) > 1]
    if twice:
        raise ValueError(f"recalibrated: {twice[0][0]!r} normalizes in more than one place, it has no one statistic")


def recalibrated(
    fn: Callable[..., Any],
    params: Any,
    batches: Any,
    *,
    inputs: Callable[[Any], tuple[Any, ...]] | None = None,
    **kwargs: Any,
) -> Any:
    """Sets the running statistics of batch normalizations to those of calibration data, exactly.

    A subnet that shares its weights with others has statistics of its own. Each batch is passed through with
    normalizations that use its own statistics; over batches these are put together by the law of total variance, all
    weighted alike: cumulative averaging, without a momentum.

    Supported is what `find_normalizations` finds, where every statistic normalizes in one place, outside of ``while``,
    ``cond`` and ``shard_map``. It can be traced: inside of an evaluation that is vmapped over genomes, say.

    Args:
        fn: a function that ``jit`` accepts, in evaluation mode; non-array arguments are static.
        params: its first argument: all variables, statistics included; masked by a genome (`Supernet.mask`).
        batches: arrays with one more axis in front, over which batches are scanned.
        inputs: turns a batch into the arguments after ``params``; by default a tuple is spread, anything else is the
            only one.
        **kwargs: keyword arguments of ``fn``.

    Returns:
        ``params`` with other means and variances.

    Raises:
        ValueError: if there is no batch normalization, one is shared or inside of control flow that is not supported,
            or there is no batch, or concrete batches hold NaN or infinity.

    Example:
        >>> fn = lambda p, x: (x - p["mean"][None]) * jax.lax.rsqrt(p["var"] + 1e-5)[None]
        >>> params = {"mean": jnp.zeros(1), "var": jnp.ones(1)}
        >>> found = recalibrated(fn, params, jnp.array([[[1.0], [3.0]], [[7.0], [9.0]]]))
        >>> found["mean"].tolist(), found["var"].tolist()
        ([5.0], [10.0])

    References:
        Ioffe and Szegedy, 2015, algorithm 2. https://arxiv.org/abs/1502.03167; for subnets: Yu and Huang, 2019,
        section 3.2. https://arxiv.org/abs/1903.05134
    """
    spread = inputs or (lambda batch: batch if isinstance(batch, tuple) else (batch,))
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(batches)}
    if len(lengths) != 1 or lengths & {(), (0,)}:
        raise ValueError(
            f"recalibrated: batches= must be arrays with a first axis over batches, got first axes {lengths}"
        )
    _require_finite(batches)

    def of(batch: Any) -> dict[str, jax.Array]:
        return batch_statistics(fn, params, *spread(batch), **kwargs)

    first = jax.tree.map(lambda leaf: leaf[0], batches)
    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(of, first))
    pairs = _pairs(fn, params, spread(first), kwargs)

    def add(state: tuple[jax.Array, dict[str, jax.Array]], batch: Any) -> Any:
        count, seen = state
        now, merged = of(batch), {}
        for mean, variance in pairs:
            share = (1 / (count + 1)).astype(seen[mean].dtype)
            shift = now[mean] - seen[mean]
            merged[mean] = seen[mean] + share * shift
            spreading = share * (now[variance] - seen[variance]) + share * (1 - share) * shift * shift
            merged[variance] = seen[variance] + spreading
        return (count + 1, merged), None

    (_, found), _ = jax.lax.scan(add, (jnp.zeros((), jnp.float32), empty), batches)
    before = dict(zip(*flatten_with_paths(params)[:2], strict=True))
    return replace_at(params, {path: value.astype(before[path].dtype) for path, value in found.items()})


def _require_finite(batches: Any) -> None:
    for path, leaf in zip(*flatten_with_paths(batches)[:2], strict=True):
        if isinstance(leaf, Tracer) or not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            continue
        with jax.ensure_compile_time_eval():
            finite = bool(jnp.isfinite(leaf).all())
        if not finite:
            raise ValueError(f"recalibrated: batches= holds NaN or infinity{f' at {path!r}' if path else ''}")


def _pairs(fn: Any, params: Any, inputs: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = find_normalizations(fn, params, *inputs, **kwargs)
    return list(dict.fromkeys((one.mean[0], one.variance[0]) for one in found))
