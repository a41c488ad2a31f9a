"""Channel decomposition: kernels of low rank whose responses, as the next layer sees them, are those of the model."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.dtypes import wider
from jaxcompress.core.leaf import dense
from jaxcompress.core.mean_outputs import find_bias
from jaxcompress.core.moments import Matrices, Statistics
from jaxcompress.core.observe import observe
from jaxcompress.core.parts import setting_at
from jaxcompress.core.paths import Where, flatten_with_paths, matches, replace_at
from jaxcompress.core.sequential import Order, sequential
from jaxcompress.core.targets import Target, find_targets
from jaxcompress.factorize.in_metric import balanced, factors_leaf
from jaxcompress.factorize.matrix import matrix_of
from jaxcompress.factorize.rank import Candidate, Rank, Spectrum, candidate_of, ranks_of
from jaxcompress.factorize.rank.ranks import checked
from jaxcompress.solvers.metric_lowrank import MetricLowRank
from jaxcompress.solvers.responses import PENALTIES, ResponseFit, fit_responses

_METHOD = "channel_decomposition"
_ROWS = "output_rows"


def channel_decomposition(
    fn: Callable[..., Any],
    params: Any,
    batches: Iterable[Any],
    *,
    rank: Rank,
    relu: str | Sequence[str] = (),
    asymmetric: bool = True,
    order: Order = "depth",
    biases: Mapping[str, str] | None = None,
    penalties: Sequence[float] = PENALTIES,
    where: Where = None,
    inputs: Callable[[Any], tuple[Any, ...]] | None = None,
    **kwargs: Any,
) -> Any:
    """Makes a layer's kernel one of ``rank`` filters and a product per pixel, fitted to samples of its responses.

    Where a ReLU follows, only what it lets through counts, for which there is no closed form: see
    `jaxcompress.solvers.responses.fit_responses`. Asymmetric: layer after layer is fitted so that it gives what the
    model gave, from what the factorized layers before it let through; so errors are made up for instead of adding up.
    Without either it is the principal component analysis of the responses: `output_pca`, which needs no samples.

    Args:
        fn: a function that ``jit`` accepts.
        params: its first argument: tree of float arrays. Not changed.
        batches: data; iterated once per turn (a list, not an iterator). Of each batch at most 512 rows of responses
            (pixels of a convolution) are used, drawn evenly.
        rank: an integer, a fraction in ``(0, 1)`` of the variance of the model's responses that is to be explained, a
            rule, or a dict from globs over paths to any of these.
        relu: globs over paths of the weights whose responses, the bias added, a ReLU meets directly.
        asymmetric: fit to what the factorized layers before let through; else every layer to the model's own responses,
            all at once.
        order: of the turns, as for `jaxcompress.sequential`.
        biases: path of the bias that is added to a weight's outputs, by the weight's path. By default the leaf
            ``bias``, ``b`` or ``offset`` beside it; without one there is no constant in the fit.
        penalties: of the alternating minimization, one for each turn; by default those of the article.
        where: weights: globs over paths or a predicate ``(path, site)``; by default all that are contracted.
        inputs: turns a batch into the arguments after ``params``, as for `jaxcompress.observe`.
        **kwargs: keyword arguments of ``fn``.

    Returns:
        The tree with `LowRank` leaves and other biases.

    Raises:
        ValueError: if a rank is out of range or saves nothing (the break-even is named); a weight is stacked, grouped,
            masked, compressed already or holds NaN or infinity; ``where`` or a glob fits nothing; and what
            `jaxcompress.observe` and `jaxcompress.sequential` raise.

    Example:
        >>> keys = jax.random.split(jax.random.key(0), 3)
        >>> fn = lambda p, x: jax.nn.relu(x @ p["a"]["w"] + p["a"]["b"][None]) @ p["out"]
        >>> params = {"a": {"w": jax.random.normal(keys[0], (8, 8)), "b": jnp.zeros(8)}, "out": jnp.ones((8, 2))}
        >>> data = [jax.random.normal(keys[1], (256, 8))]
        >>> small = channel_decomposition(fn, params, data, rank=3, relu="a/w", where="a/w")
        >>> small["a"]["w"].rank, small["a"]["b"].shape
        (3, (8,))

    References:
        Zhang, Zou, He and Sun, 2016, sections 3.1 to 3.3. https://arxiv.org/abs/1505.06798
    """
    if iter(batches) is batches:
        raise ValueError(f"{_METHOD}: batches= is iterated several times: give a list, not an iterator")
    wanted = observe(fn, params, batches, what=_ROWS, inputs=inputs, where=where, **kwargs)
    globs = (relu,) if isinstance(relu, str) else tuple(relu)
    for glob in globs:
        if not any(matches(path, glob) for path in wanted):
            raise ValueError(f"{_METHOD}: the glob {glob!r} of relu= fits no observed weight: {list(wanted)}")
    ranks = _ranks(params, wanted, rank, biases)
    method = functools.partial(
        _decomposed, wanted=wanted, ranks=ranks, relu=globs, biases=biases, penalties=tuple(penalties)
    )
    if not asymmetric:
        return method(params, wanted)
    watched = frozenset(ranks)
    options = {"order": order, "what": _ROWS, "inputs": inputs, **kwargs}
    return sequential(fn, params, batches, method, where=lambda path, site: path in watched, **options)


def _targets(params: Any, stats: Statistics, where: Where, settings: Any = None) -> list[Target]:
    targets = find_targets(params, stats, where=where, settings=settings, method=_METHOD, name=_ROWS)
    for target in targets:
        if target.support is not None:
            raise ValueError(
                f"{_METHOD}: {target.path!r} is masked, and factors would fill it: materialize it first "
                "(jc.materialize), or leave it out with where="
            )
        if target.layout.batch != 1:
            raise ValueError(
                f"{_METHOD}: {target.path!r} holds {target.layout.batch} layers or groups, which are no one product: "
                "hold each as a leaf of its own, or leave it out with where="
            )
    return targets


def _ranks(params: Any, stats: Statistics, rank: Rank, biases: Mapping[str, str] | None) -> dict[str, int]:
    """The rank of every weight that gets one; rules judge the model's responses, around their mean with a bias."""
    targets = _targets(params, stats, None, rank)
    leaves = dict(zip(*flatten_with_paths(params)[:2], strict=True))
    parts = [dataclasses.replace(target.part, roles=target.layout.roles) for target in targets]
    candidates = [candidate_of(part, matrix_of(part, _METHOD)) for part in parts]
    for candidate in candidates:
        checked(setting_at(rank, candidate.path), candidate.name, _METHOD)

    def spectra(indices: Sequence[int], variance: bool) -> list[Spectrum]:
        del variance  # responses are centred already, or may not be
        return [
            _spectrum(targets[i], candidates[i], find_bias(targets[i], leaves, biases) is not None) for i in indices
        ]

    found = ranks_of(rank, candidates, spectra, method=_METHOD)
    return {target.path: own for target, own in zip(targets, found, strict=True) if own is not None}


def _spectrum(target: Target, candidate: Candidate, centred: bool) -> Spectrum:
    rows = _rows(target.stats, target.path)
    rows = rows - rows.mean(0, keepdims=True) if centred else rows
    return Spectrum(jnp.asarray(np.linalg.svd(rows, compute_uv=False))[None, : min(candidate.shape)])


def _rows(stats: Statistics, path: str) -> np.ndarray:
    """The sampled responses of all sites of a weight, ``[n, outputs]``."""
    found = [np.asarray(entry[_ROWS]) for entry in stats[path] if _ROWS in entry.values]
    return np.concatenate([rows.reshape(-1, rows.shape[-1]) for rows in found])


def _decomposed(
    params: Any,
    stats: Statistics,
    *,
    wanted: Statistics,
    ranks: Mapping[str, int],
    relu: tuple[str, ...],
    biases: Mapping[str, str] | None,
    penalties: tuple[float, ...],
) -> Any:
    """The tree with the weights of one turn factorized, ``stats`` holding what they give now."""
    leaves = dict(zip(*flatten_with_paths(params)[:2], strict=True))
    changes: dict[str, Any] = {}
    for target in _targets(params, stats, lambda path, leaf: path in stats and path in ranks):
        path, rank = target.path, ranks[target.path]
        bias_path = find_bias(target, leaves, biases)
        if (biases or {}).get(path) and bias_path is None:
            raise ValueError(f"{_METHOD}: biases= names no array of the size of the outputs of {path!r}")
        bias = None if bias_path is None else dense(changes.get(bias_path, leaves[bias_path]))
        rows = [_rows(source, path) for source in (stats, wanted)]
        kept = np.isfinite(rows[0]).all(-1) & np.isfinite(rows[1]).all(-1)
        shift = jnp.zeros(rows[0].shape[1], jnp.float32) if bias is None else bias.reshape(-1).astype(jnp.float32)
        seen, given = (jnp.asarray(own[kept], jnp.float32) + shift[None] for own in rows)
        options = {"relu": any(matches(path, glob) for glob in relu), "intercept": bias is not None}
        fit = fit_responses(seen, given, rank=rank, penalties=jnp.asarray(penalties, jnp.float32), **options)
        u, v, moved = _folded(target.weight, shift, fit, layout=target.layout)
        part = dataclasses.replace(target.part, roles=target.layout.roles)
        changes[path] = factors_leaf(u, v, target.layout, matrix_of(part, _METHOD))
        if bias is not None and bias_path is not None:
            changes[bias_path] = moved.reshape(bias.shape).astype(bias.dtype)
    return replace_at(params, changes)


@functools.partial(jax.jit, static_argnames="layout")
def _folded(
    weight: jax.Array, bias: jax.Array, fit: ResponseFit, *, layout: Matrices
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """``(x W + b) L R + c`` as two factors ``[1, features, rank]``, ``[1, rank, outputs]`` and a bias."""
    wide = wider(weight.dtype, jnp.float32)
    left, right = fit.left.astype(wide), fit.right.astype(wide)
    highest = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    moved = highest(highest(bias.astype(wide), left), right) + fit.offset.astype(wide)
    u = highest(layout.split(weight.astype(wide)), left[None])
    u, v = balanced(MetricLowRank(u, right[None], jnp.ones((1, right.shape[0]), wide)))
    return u.astype(weight.dtype), v.astype(weight.dtype), moved
