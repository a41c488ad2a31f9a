"""Statistics of batch normalization, computed anew for a network that was pruned."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from jaxcompress.core.paths import flatten_with_paths, replace_at, select


def reestimate_batchnorm(
    update: Callable[..., Any],
    params: Any,
    batches: Iterable[Any],
    *,
    means: str = "**/mean",
    variances: str = "**/var",
    inputs: Callable[[Any], tuple[Any, ...]] | None = None,
) -> Any:
    """Sets running means and variances to those of the data, exactly, instead of letting them drift there.

    Nothing needs to be known of the framework: ``update`` is the user's own training pass, one that returns running
    statistics ``momentum * old + (1 - momentum) * of_the_batch``. Its derivative by the old statistics is the momentum,
    so that the statistics of each batch follow whatever the momentum is. Over batches they are put together by the law
    of total variance: the mean variance within batches plus the variance of their means, batches weighted by their
    sizes.

    Args:
        update: ``(params, *inputs) -> tree of new statistics``, with the paths that they have in ``params``. In Linen:
            ``lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"])[1]``.
        params: the whole tree, statistics included; leaves may be compressed (with ``update`` lifted). Not changed.
        batches: the data, all of one size or not.
        means: glob of the running means.
        variances: glob of the running variances. Each stands beside its mean.
        inputs: turns a batch into the arguments after ``params``, as for `jaxcompress.observe`.

    Returns:
        ``params`` with other means and variances.

    Raises:
        ValueError: if a glob fits nothing, a mean has no variance beside it, no batch came, or ``update`` does not
            return a statistic, or returns it as it was (a pass in inference mode).

    Example:
        >>> def update(p, x):  # a batch normalization of momentum 0.9
        ...     new = {"mean": x.mean(0), "var": x.var(0)}
        ...     return jax.tree.map(lambda old, now: 0.9 * old + 0.1 * now, p, {"bn": new})
        >>> params = {"bn": {"mean": jnp.zeros(1), "var": jnp.ones(1)}}
        >>> batches = [jnp.array([[1.0], [3.0]]), jnp.array([[7.0], [9.0]])]
        >>> found = reestimate_batchnorm(update, params, batches)["bn"]
        >>> jnp.round(found["mean"], 3).tolist(), jnp.round(found["var"], 3).tolist()
        ([5.0], [10.0])

    References:
        Ioffe and Szegedy, 2015, algorithm 2. https://arxiv.org/abs/1502.03167
    """
    pairs = _pairs(select(params, means), select(params, variances))
    names = [name for pair in pairs for name in pair]
    spread = inputs or (lambda batch: batch if isinstance(batch, tuple) else (batch,))
    step = jax.jit(functools.partial(_of_batch, update, tuple(names)))
    rows, seen = 0.0, None
    for batch in batches:
        args = spread(batch)
        found, momenta = step(params, *args)
        for name, momentum in zip(names, momenta, strict=True):
            if not bool(jnp.all(momentum < 1)):
                raise ValueError(
                    f"reestimate_batchnorm: update returned {name!r} as it was: it must run in training mode"
                )
        rows, seen = _add(rows, seen, _size(args), found)
    if seen is None:
        raise ValueError("reestimate_batchnorm: batches= gave no batch")
    return replace_at(
        params, {name: value.astype(_dtype(params, name)) for name, value in zip(names, seen, strict=True)}
    )


def _of_batch(
    update: Callable[..., Any], names: tuple[str, ...], params: Any, *args: Any
) -> tuple[list[jax.Array], list[jax.Array]]:
    """The statistics of one batch, and the momentum of each: ``new = momentum * old + (1 - momentum) * batch``."""
    paths, leaves, _ = flatten_with_paths(params)
    old = [jnp.zeros_like(leaf) for path, leaf in zip(paths, leaves, strict=True) for name in names if name == path]
    order = [path for path in paths if path in names]

    def new(old: list[jax.Array]) -> list[jax.Array]:
        returned = update(replace_at(params, dict(zip(order, old, strict=True))), *args)
        found = dict(zip(*flatten_with_paths(returned)[:2], strict=True))
        missing = [name for name in names if name not in found]
        if missing:
            raise ValueError(f"reestimate_batchnorm: update returned no {missing[0]!r}; it returned {sorted(found)}")
        return [found[name] for name in names]

    values, momenta = jax.jvp(new, (old,), ([jnp.ones_like(leaf) for leaf in old],))
    rest = [jnp.ones_like(momentum) - momentum for momentum in momenta]
    wide = [
        jnp.where(r > 0, v / jnp.where(r > 0, r, 1), v).astype(jnp.float32) for v, r in zip(values, rest, strict=True)
    ]
    return wide, momenta


@jax.jit
def _merge(share: jax.Array, before: list[jax.Array], now: list[jax.Array]) -> list[jax.Array]:
    """Means and variances of the union of two sets, of which the second has the given share; pairs in a row."""
    merged = []
    for mean_a, var_a, mean_b, var_b in zip(before[::2], before[1::2], now[::2], now[1::2], strict=True):
        shift = mean_b - mean_a
        merged += [
            mean_a + share * shift,
            var_a + share * (var_b - var_a) + share * (1 - share) * shift * shift,
        ]
    return merged


def _add(rows: float, seen: list[jax.Array] | None, size: int, found: list[jax.Array]) -> tuple[float, list[jax.Array]]:
    if seen is None:
        return size, found
    return rows + size, _merge(jnp.float32(size / (rows + size)), seen, found)


def _size(args: tuple[Any, ...]) -> int:
    """Examples of a batch: the first axis of its first array."""
    arrays = [leaf for leaf in jax.tree.leaves(args) if getattr(leaf, "ndim", 0) > 0]
    return arrays[0].shape[0] if arrays else 1


def _dtype(params: Any, name: str) -> Any:
    paths, leaves, _ = flatten_with_paths(params)
    return leaves[paths.index(name)].dtype


def _pairs(means: list[str], variances: list[str]) -> list[tuple[str, str]]:
    beside = {path.rpartition("/")[0]: path for path in variances}
    pairs = []
    for path in means:
        folder = path.rpartition("/")[0]
        if folder not in beside:
            raise ValueError(
                f"reestimate_batchnorm: no variance stands beside the mean {path!r}; variances: {variances}"
            )
        pairs.append((path, beside[folder]))
    return pairs
