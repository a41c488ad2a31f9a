"""Scores of every leaf at every width: what quantization changes, weighted by how much it matters."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.leaf import CompressedArray, dense, is_compressed
from jaxcompress.core.moments import Statistics, matrices_of, statistic_of
from jaxcompress.core.observe import Observed
from jaxcompress.core.paths import Where, flatten_with_paths
from jaxcompress.quantize.rtn import rtn
from jaxcompress.quantize.second_order.differentiable import wide
from jaxcompress.quantize.second_order.scores import Scores

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites


class Curvature(Protocol):
    """What a difference of a leaf's weights costs: `HessianTrace`, `Diagonal`, or your own."""

    name: str

    def __contains__(self, path: object) -> bool:
        """True for a leaf that it knows."""
        ...

    def score(self, path: str, difference: jax.Array) -> jax.Array:
        """The cost, a scalar."""
        ...


class OutputError:
    """The squared error of a leaf's outputs over observed data, ``tr(D^T S D)`` with ``S`` the mean of ``x x^T``."""

    name = "mean squared error of the outputs"

    def __init__(self, stats: Statistics) -> None:
        """Holds statistics with ``second_moment``."""
        self.stats = stats

    def __contains__(self, path: object) -> bool:
        return path in self.stats

    def score(self, path: str, difference: jax.Array) -> jax.Array:
        """The error that a row of data makes on average, over all matrices of the leaf."""
        layout = matrices_of(path, difference.shape, self.stats, method="sensitivity")
        moment = statistic_of(path, layout, self.stats, "second_moment", method="sensitivity")
        return _traces(layout.split(difference), moment)


def sensitivity(
    params: Any,
    curvature: Curvature | Statistics,
    *,
    bits: Sequence[int] = (2, 3, 4, 8),
    method: Callable[..., Any] | None = None,
    where: Where = None,
    sites: Sites | None = None,
) -> Scores:
    """Scores every weight at every width, one leaf at a time: what its quantization changes times the curvature.

    With `hessian_trace` it is the omega of HAWQ-V2, the mean trace times the squared error. With `fisher` or
    `second_moments` every weight's squared error counts by its own importance. With what `jaxcompress.observe` found
    it is the error of the outputs. The first three estimate (twice) the rise of the loss, in one unit for all leaves.
    The last needs no labels but says nothing of what an output is worth to the loss: take it to compare methods or
    widths at one leaf, not to choose widths among leaves (on a trained Llama that was worse than one width for all).

    Args:
        params: tree of float arrays or leaves. Not changed.
        curvature: of `hessian_trace`, `fisher` or `second_moments`; or statistics with ``second_moment``.
        bits: the widths to try.
        method: what quantizes, ``method(params, bits=...) -> params``, such as
            ``functools.partial(jc.quantize.gptq, stats=stats)``; its result decides which leaves are scored. By default
            `rtn` of the leaves that ``where`` and ``sites`` say.
        where: leaves to score, as in `rtn`.
        sites: what `jaxcompress.sites` found.

    Returns:
        The table of scores, for `allocate_bits`.

    Raises:
        ValueError: if ``bits`` is empty, the curvature does not know a quantized leaf, a score is not finite, or
            ``method`` is given beside ``where`` or ``sites``.

    Example:
        >>> curvature = jc.quantize.fisher(lambda p, x: jnp.mean(x @ p["w"]), {"w": jnp.ones((2, 1))}, [jnp.eye(2)])
        >>> sensitivity({"w": jnp.array([[1.0], [0.4]])}, curvature, bits=(2, 4))
        path  weights  2 bits  4 bits
        w     2        0.08    0.0004082
        Fisher information, per example x squared differences

    References:
        Dong et al., 2020 (HAWQ-V2), section 3.3. https://arxiv.org/abs/1911.03852
    """
    if not bits:
        raise ValueError("sensitivity: bits= must name some widths, got none")
    if method is not None and (where is not None or sites is not None):
        raise ValueError("sensitivity: where= and sites= are those of rtn: bind them to method= (functools.partial)")
    quantize = functools.partial(rtn, where=where, sites=sites) if method is None else method
    cost = _curvature(curvature)
    widths = tuple(sorted(set(bits)))
    paths, before, _ = flatten_with_paths(params)
    columns = []
    for width in widths:
        after = flatten_with_paths(quantize(params, bits=width))[1]
        columns.append({p: _cost(cost, p, a, b) for p, a, b in zip(paths, before, after, strict=True) if a is not b})
    chosen = [path for path in paths if path in columns[0]]
    table = np.array([[[float(n) for n in column[path]] for column in columns] for path in chosen])
    for path, row in zip(chosen, table, strict=True):
        if not np.isfinite(row).all():
            raise ValueError(f"sensitivity: the scores of {path!r} are not finite: {row[:, 0].tolist()}")
    sizes = dict(zip(paths, before, strict=True))
    return Scores(
        tuple(chosen),
        tuple(int(np.prod(sizes[path].shape)) for path in chosen),
        widths,
        table[..., 0],
        table[..., 1],
        table[..., 2].astype(np.int64),
        cost.name,
    )


def _curvature(given: Any) -> Any:
    if hasattr(given, "score"):
        return given
    held = list(given.values()) if isinstance(given, Mapping) else []
    if held and all(isinstance(sites, Sequence) and all(isinstance(e, Observed) for e in sites) for sites in held):
        return OutputError(given)
    raise ValueError(
        "sensitivity: curvature must come from hessian_trace, fisher, second_moments or jc.observe, got "
        f"{type(given).__name__}"
    )


def _cost(curvature: Any, path: str, before: Any, after: CompressedArray) -> tuple[Any, Any, int]:
    """Score, squared error, and bits that the leaf holds."""
    if path not in curvature:
        raise ValueError(
            f"sensitivity: the curvature does not know {path!r}, which is quantized: widen its where=, or leave it out"
        )
    difference, error = _difference(before, after)
    bits = after.stored_bits if is_compressed(after) else 8 * after.size * after.dtype.itemsize
    return curvature.score(path, difference), error, bits


@jax.jit
def _difference(before: Any, after: Any) -> tuple[jax.Array, jax.Array]:
    difference = wide(dense(after)) - wide(dense(before))
    return difference, jnp.sum(jnp.square(difference))


@jax.jit
def _traces(matrices: jax.Array, moments: jax.Array) -> jax.Array:
    d = wide(matrices)
    return jnp.sum(d * jnp.einsum("bkl,bln->bkn", moments.astype(d.dtype), d, precision=jax.lax.Precision.HIGHEST))
