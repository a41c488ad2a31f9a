"""Weight sharing by hashing (HashedNets): weights are grouped at random, and nothing is stored but a value a group."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import jax

from jaxcompress.cluster.checks import check_integer
from jaxcompress.cluster.hashed import Hashed
from jaxcompress.core.parts import Part, find_parts, require_finite, setting_at, with_parts
from jaxcompress.core.paths import Where

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites


def hashed(
    params: Any,
    *,
    compression: float | Mapping[str, float] | None = None,
    buckets: int | Mapping[str, int] | None = None,
    seed: int = 0,
    where: Where = None,
    sites: Sites | None = None,
) -> Any:
    """Lets weights share values by a hash of their place, each value the signed mean of the weights that share it.

    The groups are random, so that the fit alone loses most of a trained layer: `kmeans` at the same size is far
    nearer. Hashing is for networks that are trained, or trained on, with the shared values: every product of the layer
    sees a full matrix, and nothing is stored but the values. Of a masked leaf the kept weights are fitted and the mask
    stays. If ``sites`` show that leading axes of a leaf are a stack, each layer gets its own values.

    Args:
        params: tree of float arrays or leaves. Not changed.
        compression: how many weights share a value on average, above 1: ``round(weights / compression)`` values a
            layer; or a dict from globs over paths to that: the first glob that fits a path counts, paths that fit none
            stay as they are.
        buckets: the number of values of a layer instead; exactly one of the two must be given.
        seed: of the hashes, ``0 <= seed < 2**32``.
        where: leaves to hash: globs over paths or a predicate; by default those that ``sites`` show as contraction
            weights or embeddings, without ``sites`` the float leaves of two axes or more.
        sites: what `jaxcompress.sites` found.

    Returns:
        The tree with `Hashed` leaves.

    Raises:
        ValueError: if not exactly one of ``compression`` and ``buckets`` is given or it is out of range, it saves
            nothing, ``where`` or a glob fits nothing, a chosen leaf is coded already or holds NaN or infinity (seen
            only outside ``jit``).
        TypeError: if a chosen leaf is not float.

    Example:
        >>> import jax.numpy as jnp
        >>> shared = hashed({"w": jnp.ones((30, 20))}, compression=10)
        >>> shared["w"].buckets, shared["w"].shape
        (60, (30, 20))

    References:
        Chen et al., 2015. Compressing Neural Networks with the Hashing Trick, section 4.
        https://arxiv.org/abs/1504.04788
    """
    if (compression is None) == (buckets is None):
        raise ValueError(
            f"hashed: give either compression= or buckets=, got compression={compression!r} and buckets={buckets!r}"
        )
    check_integer("seed", seed, "hashed", below=2**32)
    settings = compression if buckets is None else buckets
    parts = find_parts(params, where=where, sites=sites, settings=settings, method="hashed")
    counts = [_buckets(part, setting_at(settings, part.path), whole=buckets is not None) for part in parts]
    require_finite(parts, "hashed")
    leaves = [
        _fit(part.array, part.support, buckets=count, stack_ndim=stack_ndim(part), seed=seed)
        for part, count in zip(parts, counts, strict=True)
    ]
    return with_parts(params, parts, leaves)


@dataclasses.dataclass(frozen=True)
class HashedNets:
    """Recipe stage of `hashed`, with the same fields."""

    compression: float | Mapping[str, float] | None = None
    buckets: int | Mapping[str, int] | None = None
    seed: int = 0
    where: str | Sequence[str] | None = None

    version: ClassVar[int] = 1

    def __call__(self, params: Any, *, sites: Sites | None = None) -> Any:
        """Applies `hashed`."""
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return hashed(params, **options, sites=sites)


def stack_ndim(part: Part) -> int:
    """How many leading axes of a part hold separate layers; a stack axis further behind is hashed like any other."""
    return next(n for n in range(len(part.stack) + 1) if n not in part.stack)


@functools.partial(jax.jit, static_argnames=("buckets", "stack_ndim", "seed"))
def _fit(w: jax.Array, support: jax.Array | None, *, buckets: int, stack_ndim: int, seed: int) -> Hashed:
    return Hashed.fit(w, buckets=buckets, stack_ndim=stack_ndim, seed=seed, weights=support)


def _buckets(part: Part, setting: float, *, whole: bool) -> int:
    weights = math.prod(part.array.shape[stack_ndim(part) :])
    number = isinstance(setting, int | float) and not isinstance(setting, bool)
    if whole and not (isinstance(setting, int) and number and setting >= 1):
        raise ValueError(f"hashed: buckets must be a positive integer, got {setting!r} for {part.name!r}")
    if not whole and not (number and 1 < setting < math.inf):
        raise ValueError(f"hashed: compression must be above 1, got {setting!r} for {part.name!r}")
    count = int(setting) if whole else max(1, round(weights / setting))
    if count >= weights:
        raise ValueError(
            f"hashed: {count} buckets save nothing in {part.name!r}, whose layers have {weights} weights: ask for "
            "less, or leave it out with where="
        )
    return count
