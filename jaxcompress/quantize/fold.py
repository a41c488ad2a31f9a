"""BatchNorm folding: what a batch normalization multiplies by moves into the kernel before it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.affine import Chains, chains
from jaxcompress.core.leaf import is_compressed
from jaxcompress.core.paths import flatten_with_paths, replace_at
from jaxcompress.quantize.batchnorms import BatchNorm, Steps, affine, for_kernel, laid_out, normalizations, obstacle


def find_batchnorms(fn: Callable[..., Any], params: Any, *inputs: Any, **kwargs: Any) -> tuple[BatchNorm, ...]:
    """Finds the batch normalizations of a function from its trace alone, and says which can be folded.

    A batch normalization is a chain of affine steps along the channels that a product or a convolution gave, made from
    parameters alone, in which the root of a variance divides. Linen's and NNX's are, and so are those written by hand.

    Args:
        fn: a function that ``jit`` accepts, in evaluation mode; non-array arguments are static.
        params: its first argument: all variables, statistics included.
        *inputs: further positional arguments; may be `jax.ShapeDtypeStruct`.
        **kwargs: keyword arguments of ``fn``.

    Returns:
        One record for each, in order of evaluation; those of a scanned stack of layers are one.

    Raises:
        ValueError: if a parameter of one holds NaN or infinity; names it.
    """
    return tuple(fold.found for fold in _folds("find_batchnorms", fn, params, inputs, kwargs))


def fold_batchnorm(fn: Callable[..., Any], params: Any, *inputs: Any, **kwargs: Any) -> Any:
    """Multiplies kernels by what the batch normalizations behind them multiply by; ``fn`` computes the same.

    With ``y = gain * (k(x) - mean) / sqrt(variance + epsilon) + bias``, the kernel becomes ``gain / sqrt(variance +
    epsilon)`` times itself, channel by channel. ``fn`` stays as it is, so the normalization stays too, as the identity
    and one shift: gain 1, mean 0, variance ``1 - epsilon``, and the bias holds all that was added. A kernel with a bias
    of its own gives it up to the normalization.

    So a quantizer sees the kernel that counts in the end (its scales per channel, its errors), and integer arithmetic
    needs no normalization. What cannot be folded stays as it is: `find_batchnorms` tells which and why.

    Args:
        fn: a function that ``jit`` accepts, in evaluation mode; non-array arguments are static.
        params: its first argument: all variables, statistics included. Concrete arrays. Not changed.
        *inputs: further positional arguments; may be `jax.ShapeDtypeStruct`.
        **kwargs: keyword arguments of ``fn``.

    Returns:
        The tree with other kernels and normalizations.

    Raises:
        ValueError: if there is no batch normalization, none that can be folded (says why), or one holds NaN or
            infinity.

    Example:
        >>> def fn(p, x):
        ...     return (x @ p["w"] - p["mean"]) * jax.lax.rsqrt(p["var"] + 1e-5) * p["gain"] + p["bias"]
        >>> params = {"w": jnp.ones((1, 1)), "mean": jnp.ones(1), "var": jnp.full(1, 4.0)}
        >>> params |= {"gain": jnp.full(1, 6.0), "bias": jnp.zeros(1)}
        >>> folded = fold_batchnorm(fn, params, jnp.ones(1))
        >>> {name: round(float(value.ravel()[0]), 2) for name, value in folded.items()}
        {'bias': -3.0, 'gain': 1.0, 'mean': 0.0, 'var': 1.0, 'w': 3.0}

    References:
        Jacob et al., 2018, section 3.2. https://arxiv.org/abs/1712.05877
    """
    folds = _folds("fold_batchnorm", fn, params, inputs, kwargs)
    if not folds:
        raise ValueError(
            "fold_batchnorm: found no batch normalization of a product; is fn in evaluation mode (train=False, "
            "use_running_average=True)?"
        )
    reasons = [f"{fold.found.variance}: {fold.found.reason}" for fold in folds if fold.found.reason]
    if len(reasons) == len(folds):
        raise ValueError("fold_batchnorm: no batch normalization can be folded:\n  " + "\n  ".join(reasons))
    changes: dict[str, Any] = {}
    for fold in folds:
        changes |= fold.changes
    return replace_at(params, changes)


@dataclasses.dataclass(frozen=True)
class _Fold:
    """What was found and what becomes of its leaves."""

    found: BatchNorm
    changes: Mapping[str, Any]


def _folds(
    method: str, fn: Callable[..., Any], params: Any, inputs: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[_Fold]:
    paths, leaves, _ = flatten_with_paths(params)
    known = {path: leaf for path, leaf in zip(paths, leaves, strict=True) if not is_compressed(leaf)}
    found = chains(fn, params, inputs, kwargs)
    return [_folded(method, stack, known, found) for stack in normalizations(found)]


def _folded(method: str, stack: Sequence[Steps], known: Mapping[str, Any], found: Chains) -> _Fold:
    """Folds one normalization, or all layers of a stack of them."""
    first = stack[0]
    ((variance, epsilon),) = first.variances.items()
    kernel = first.start.kernel
    paths = sorted({path for path, _ in kernel.leaves}) if kernel is not None else []
    record = BatchNorm(
        kernel=paths[0] if len(paths) == 1 else None,
        gain=tuple(path for path, _ in first.gain),
        variance=variance[0],
        epsilon=epsilon,
        shifts=tuple(path for path, _ in first.shifts),
        holder=None,
    )
    reason = obstacle(stack, record, known, found)
    if reason:
        return _Fold(dataclasses.replace(record, reason=reason), {})
    assert record.kernel is not None  # else that was the obstacle
    involved = {path: known[path] for path in (record.kernel, variance[0], *record.gain, *record.shifts)}
    for path, leaf in involved.items():
        if not bool(jnp.isfinite(leaf).all()):
            raise ValueError(f"{method}: {path!r} holds NaN or infinity")
    return _refolded(stack, record, record.kernel, involved)


def _refolded(stack: Sequence[Steps], record: BatchNorm, path: str, params: Mapping[str, jax.Array]) -> _Fold:
    """Numbers for the parameters of a normalization that can be folded, held against those it had."""
    before = [affine(steps, params) for steps in stack]
    plain = dict(params)
    plain |= {name: jnp.ones_like(params[name]) for name in record.gain}
    plain |= {name: jnp.zeros_like(params[name]) for name in record.shifts}
    plain[record.variance] = jnp.full_like(params[record.variance], 1 - record.epsilon)
    after = [affine(steps, plain) for steps in stack]
    if not all(np.isfinite(gain).all() for gain, _ in before):
        return _Fold(dataclasses.replace(record, reason="its factors are not finite: is the variance negative?"), {})
    tolerance = 8 * float(jnp.finfo(params[record.variance].dtype).eps)
    odd = dataclasses.replace(record, reason="its arithmetic is not that of a batch normalization")
    if not all(np.allclose(gain, 1, rtol=0, atol=tolerance) for gain, _ in after):
        return _Fold(odd, {})
    changes = {name: plain[name] for name in (record.variance, *record.gain, *record.shifts)}
    wanted = [shift for _, shift in before]
    if any(np.abs(shift).max(initial=0) > 0 for shift in wanted):
        held = _held(stack, record, plain, [shift for _, shift in after], wanted, tolerance)
        if held is None:
            return _Fold(odd, {})
        record = dataclasses.replace(record, holder=held[0])
        changes[held[0]] = held[1]
    kernel = np.array(params[path], np.float64)
    for steps, (gain, _), (rest, _) in zip(stack, before, after, strict=True):
        factor = for_kernel(steps, gain / rest, kernel.ndim - len(steps.layer))
        if factor is None:
            return _Fold(dataclasses.replace(record, holder=None, reason="it does not go by output channels"), {})
        kernel[steps.layer] *= factor
    changes[path] = jnp.asarray(kernel.astype(params[path].dtype))
    return _Fold(record, changes)


def _held(
    stack: Sequence[Steps],
    record: BatchNorm,
    plain: Mapping[str, jax.Array],
    zero: Sequence[np.ndarray],
    wanted: Sequence[np.ndarray],
    tolerance: float,
) -> tuple[str, jax.Array] | None:
    """A shift that can hold all of what is added, and its values: the last that is added as it is, else one that is."""
    for sign in (1, -1):
        for place, path in reversed(list(enumerate(record.shifts))):
            ones = dict(plain) | {path: jnp.ones_like(plain[path])}
            slopes = [affine(steps, ones)[1] - rest for steps, rest in zip(stack, zero, strict=True)]
            if not all(np.allclose(slope, sign, rtol=0, atol=tolerance) for slope in slopes):
                continue
            values = np.zeros(plain[path].shape, np.float64)
            fits = True
            for steps, rest, shift in zip(stack, zero, wanted, strict=True):
                layer = steps.shifts[place][1]
                rows = laid_out(steps, sign * (shift - rest), values[layer].shape)
                fits = fits and rows is not None
                if rows is not None:
                    values[layer] = rows
            held = jnp.asarray(values.astype(plain[path].dtype))
            if fits and _agrees(stack, dict(plain) | {path: held}, wanted, tolerance):
                return path, held
    return None


def _agrees(
    stack: Sequence[Steps], params: Mapping[str, jax.Array], wanted: Sequence[np.ndarray], tolerance: float
) -> bool:
    return all(
        np.allclose(affine(steps, params)[1], shift, rtol=tolerance, atol=tolerance * max(1, np.abs(shift).max()))
        for steps, shift in zip(stack, wanted, strict=True)
    )
