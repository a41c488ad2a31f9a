"""Rules that need no weights, only shapes: the same sparsity everywhere, and Erdos-Renyi-Kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jax.core import Tracer
from jax.typing import ArrayLike

from jaxcompress.core.paths import Where
from jaxcompress.prune.allocation.layers import Floors, Layer, Protect, find_layers
from jaxcompress.prune.allocation.shares import share
from jaxcompress.prune.allocation.table import Allocation, allocation
from jaxcompress.solvers.topk import kept_count

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites


def uniform(
    params: Any,
    *,
    sparsity: ArrayLike,
    floors: Floors = None,
    protect: Protect = None,
    where: Where = None,
    sites: Sites | None = None,
) -> Allocation:
    """The same sparsity for every layer, and exactly the total asked for.

    Of all chosen entries together exactly ``round(sparsity * total)`` go, so a layer's own count differs from its
    rounding by one at most. Layers that a floor or ``protect`` holds back make the others give more. Where leaves are
    stacks of layers, each of them keeps the same number, and the total may fall short by less than one stack.

    Args:
        params: tree of float arrays or leaves with one element per weight. Not changed.
        sparsity: fraction of all chosen entries to drop, in ``[0, 1]``. May be traced if there are neither floors nor
            protected leaves; then each layer rounds for itself.
        floors: what each layer keeps at least: a float is a fraction of it, an int a number of entries; or a dict from
            globs to either, of which the first that fits counts.
        protect: globs of leaves that keep everything; they count in the total. (What ``where`` leaves out does not.)
        where: which leaves, as for `jaxcompress.prune.magnitude`.
        sites: what `jaxcompress.sites` found; brings stacks and the MACs of the report.

    Returns:
        Sparsity by path, ``sparsity=`` of every pruning method; prints as a table.

    Raises:
        ValueError: if ``sparsity`` is outside ``[0, 1]``, the floors keep more than is to stay, or a glob fits nothing.
        TypeError: if ``sparsity`` is traced where it has to be concrete.

    Example:
        >>> params = {"a": jnp.ones((4, 4)), "b": jnp.ones((4, 1))}
        >>> uniform(params, sparsity=0.5, protect="b")
        path  shape  entries  kept  sparsity
        a     4x4    16       6     62.50%
        b     4x1    4        4     0.00%
        all          20       10    50.00%
        rule: uniform
        protected: b
    """
    layers = find_layers(params, where=where, sites=sites, floors=floors, protect=protect, method="uniform")
    if isinstance(sparsity, Tracer):
        if any(layer.least for layer in layers):
            raise TypeError("uniform: a traced sparsity cannot be held against floors= or protect=: make it concrete")
        counts = [layer.step * kept_count(layer.size // layer.step, sparsity) for layer in layers]
        return allocation(layers, counts, "uniform")
    total = total_kept(layers, sparsity, "uniform")
    return allocation(layers, uniform_counts(layers, total), "uniform")


def erk(
    params: Any,
    *,
    sparsity: float,
    power: float = 1.0,
    floors: Floors = None,
    protect: Protect = None,
    where: Where = None,
    sites: Sites | None = None,
) -> Allocation:
    """Erdos-Renyi-Kernel: small layers stay denser; exactly the total asked for.

    The density of a layer is proportional to ``((in + out + height + width) / (in * out * height * width)) ** power``.
    Layers that would be more than dense are dense, and the others take the rest; RigL's loop ends at the same place.

    Args:
        params: as in `uniform`.
        sparsity: fraction of all chosen entries to drop, in ``[0, 1]``; concrete, as everything else here is a shape.
        power: below 1 closer to uniform.
        floors: as in `uniform`.
        protect: as in `uniform`.
        where: as in `uniform`.
        sites: what `jaxcompress.sites` found: several input axes (or output axes) of a kernel then count as one, of
            their product. Without it every axis counts by itself.

    Returns:
        As `uniform`, with the same rounding.

    Raises:
        ValueError: as `uniform`; or if ``power`` is negative.
        TypeError: if ``sparsity`` is traced.

    Example:
        >>> params = {"wide": jnp.ones((100, 100)), "thin": jnp.ones((100, 10))}
        >>> print({path: round(fraction, 3) for path, fraction in erk(params, sparsity=0.9).items()})
        {'thin': 0.61, 'wide': 0.929}

    References:
        Mocanu et al., 2018. https://arxiv.org/abs/1707.04780
        Evci et al., 2020, section 3.1. https://arxiv.org/abs/1911.11134
    """
    if not power >= 0:
        raise ValueError(f"erk: power must be 0 or more, got {power!r}")
    if isinstance(sparsity, Tracer):
        raise TypeError("erk: sparsity must be concrete: the allocation follows from shapes, compute it outside jit")
    layers = find_layers(params, where=where, sites=sites, floors=floors, protect=protect, method="erk")
    counts = erk_counts(layers, total_kept(layers, sparsity, "erk"), power=power)
    return allocation(layers, counts, "erk" if power == 1 else f"erk, power {power:g}")


def uniform_counts(layers: Sequence[Layer], total: int) -> list[int]:
    """Entries that each layer keeps under `uniform`."""
    return _shared(layers, total, [layer.size for layer in layers])


def erk_counts(layers: Sequence[Layer], total: int, *, power: float = 1.0) -> list[int]:
    """Entries that each layer keeps under `erk`."""
    return _shared(layers, total, [layer.size * raw_density(layer) ** power for layer in layers])


def raw_density(layer: Layer) -> float:
    """The sum of a kernel's dimensions over their product, per layer of a stack.

    Example:
        >>> raw_density(find_layers({"w": jnp.ones((4, 6))})[0])
        0.4166666666666667
    """
    roles = layer.part.roles
    sizes = [size for axis, size in enumerate(layer.shape) if axis not in layer.part.stack]
    if roles is None or not roles.contracting:
        return sum(sizes) / math.prod(sizes)
    groups = [[axis for axis in roles.contracting if axis not in roles.spatial], list(roles.output)]
    groups += [[axis] for axis in roles.spatial]
    return sum(math.prod(layer.shape[axis] for axis in group) for group in groups if group) / math.prod(sizes)


def total_kept(layers: Sequence[Layer], sparsity: ArrayLike, method: str) -> int:
    """How many entries of all layers stay.

    Raises:
        ValueError: if that is fewer than the floors keep.
    """
    total = int(kept_count(sum(layer.size for layer in layers), sparsity))
    least = sum(layer.least for layer in layers)
    if least > total:
        raise ValueError(
            f"{method}: floors= and protect= keep {least} entries, more than the {total} that sparsity={sparsity} "
            "leaves: lower them, or the sparsity"
        )
    return total


def _shared(layers: Sequence[Layer], total: int, weights: Sequence[float]) -> list[int]:
    least, sizes = [layer.least for layer in layers], [layer.size for layer in layers]
    return share(total, weights, least=least, most=sizes, steps=[layer.step for layer in layers])
