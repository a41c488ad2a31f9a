"""DKM: weights that are clustered while they train, by a differentiable k-means."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxcompress.cluster.codebook import Codebook
from jaxcompress.cluster.kmeans import PerPath, kmeans
from jaxcompress.cluster.product import product
from jaxcompress.cluster.product_codebook import ProductCodebook
from jaxcompress.cluster.soft_codebook import SoftCodebook
from jaxcompress.core.leaf import CompressedArray, dense, is_compressed
from jaxcompress.core.parts import Part, find_parts, with_parts
from jaxcompress.core.paths import Where, flatten_with_paths, replace_at, select

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites


def dkm(
    params: Any,
    *,
    bits: PerPath | None = None,
    levels: PerPath | None = None,
    block: PerPath = 1,
    temperature: float | jax.Array = 0.1,
    iterations: int = 5,
    key: jax.Array | int = 0,
    where: Where = None,
    sites: Sites | None = None,
) -> Any:
    """Makes weights train as mixtures of a few shared values, which they are drawn to.

    The result goes where the parameters went, with `jaxcompress.lift` around the model; the step stays as it is:

        params = jc.cluster.dkm(params, bits=2, sites=sites)
        state = TrainState.create(apply_fn=jc.lift(model.apply), params=params, tx=tx)
        ...
        shared = jc.cluster.snap(state.params)

    All fields of the leaves are float arrays; tables train with the weights, and weight decay should leave them alone
    (`jaxcompress.train.decay_mask`). Stacked layers have their own. Of a masked leaf the kept weights are clustered and
    the mask stays: it is bool, and so is the leaf's copy of it, so that training goes by `jaxcompress.split_trainable`.

    Args:
        params: tree of float arrays or leaves. Not changed.
        bits: as of `jaxcompress.cluster.kmeans`.
        levels: likewise; exactly one of the two must be given.
        block: number of weights that share a code, as of `jaxcompress.cluster.product`. 1: scalars.
        temperature: how soft the assignment is, in units of the mean squared distance to the nearest level. Near 0 it
            is k-means, and hardly any gradient moves a weight from one level to another; from about 1 on the network
            trains on mixtures of levels, and snapping undoes much of that. May be traced, and annealed between steps by
            `with_temperature` (from 3 to 0.05, say).
        iterations: steps of soft k-means at each use of a leaf, from 1. The paper iterates until the centroids settle,
            from those of the last batch; here from a table that trains along.
        key: for the start of blocks, as of `jaxcompress.cluster.product`.
        where: leaves, as of `jaxcompress.cluster.kmeans`.
        sites: what `jaxcompress.sites` found.

    Returns:
        The tree with `SoftCodebook` leaves, whose tables are those of k-means.

    Raises:
        ValueError: if ``iterations`` or a concrete ``temperature`` is not positive, and as `jaxcompress.cluster.kmeans`
            or `jaxcompress.cluster.product`.
        TypeError: if a chosen leaf is not float.

    Example:
        >>> params = dkm({"w": jnp.array([[0.0, 1.0], [9.0, 10.0]])}, bits=1)
        >>> params["w"].materialize().round(3).tolist(), snap(params)["w"].codes.tolist()
        ([[0.5, 0.5], [9.5, 9.5]], [[0, 0], [1, 1]])

    References:
        Cho et al., 2022. https://arxiv.org/abs/2108.12659
    """
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 1:
        raise ValueError(f"dkm: iterations must be a positive integer, got {iterations!r}")
    _check_temperature("dkm", temperature)
    if (bits is None) == (levels is None):
        raise ValueError(f"dkm: give either bits= or levels=, got bits={bits!r} and levels={levels!r}")
    settings = levels if bits is None else bits
    parts = find_parts(params, where=where, sites=sites, settings=settings, method="dkm")
    chosen: dict[str, Any] = {"bits": bits, "levels": levels, "where": [part.path for part in parts], "sites": sites}
    scalars = isinstance(block, int) and block == 1
    shared = kmeans(params, **chosen) if scalars else product(params, block=block, key=key, **chosen)
    started = dict(zip(*flatten_with_paths(shared)[:2], strict=True))
    leaves = [_leaf(part, _at(started[part.path], part.fields), temperature, iterations) for part in parts]
    return with_parts(params, parts, leaves)


def snap(params: Any, *, where: Where = None) -> Any:
    """Turns weights that `dkm` made train into tables and codes: each takes the centroid that is nearest to it.

    Args:
        params: a tree that `dkm` made, trained. Not changed.
        where: leaves to snap; by default all that `dkm` made.

    Returns:
        The tree with `Codebook` leaves, or `ProductCodebook` leaves of blocks, inside of what was around them.

    Raises:
        ValueError: if there is nothing to snap at a chosen leaf, or its weights or tables are not finite (seen only
            outside ``jit``); names it.

    Example:
        >>> shared = snap(dkm({"w": jnp.array([[0.0, 1.0], [9.0, 10.0]])}, bits=1))
        >>> shared["w"].codebook.round(3).tolist()
        [0.5, 9.5]
    """
    return _changed(params, where, lambda leaf: leaf.coded(), "snap")


def settle(params: Any, *, where: Where = None) -> Any:
    """Lets the soft k-means of each leaf start where it ends now, as the paper does from batch to batch.

    A pure function for the loop between steps or epochs, under ``jit`` too; not needed where ``iterations`` suffice.

    Args:
        params: a tree that `dkm` made.
        where: leaves; by default all that `dkm` made.

    Raises:
        ValueError: if there is nothing to settle at a chosen leaf, or it is not finite.
    """
    return _changed(params, where, lambda leaf: leaf.settled(), "settle")


def with_temperature(params: Any, temperature: float | jax.Array, *, where: Where = None) -> Any:
    """Sets how soft the assignment of weights that `dkm` made train is: for annealing, between two steps.

    Args:
        params: a tree that `dkm` made.
        temperature: as of `dkm`; may be traced, so that a schedule compiles once.
        where: leaves; by default all that `dkm` made.

    Raises:
        ValueError: if a concrete ``temperature`` is not positive, or a chosen leaf is not of `dkm`.

    Example:
        >>> params = dkm({"w": jnp.array([[0.0, 1.0], [9.0, 10.0]])}, bits=1)
        >>> with_temperature(params, 0.25)["w"].temperature.tolist()
        [[0.25]]
    """
    _check_temperature("with_temperature", temperature)
    set_to = lambda leaf: leaf.replace(temperature=jnp.full_like(leaf.temperature, temperature))  # noqa: E731
    return _changed(params, where, set_to, "with_temperature")


@dataclasses.dataclass(frozen=True)
class DKM:
    """Recipe stage of `dkm`, with the same fields. A stage of training follows, then `Snap`.

    Example:
        >>> jc.Recipe([DKM(bits=2), jc.train.Finetune(steps=500), Snap()]).names
        ('cluster.DKM', 'train.Finetune', 'cluster.Snap')
    """

    bits: PerPath | None = None
    levels: PerPath | None = None
    block: PerPath = 1
    temperature: float = 0.1
    iterations: int = 5
    key: int = 0
    where: str | Sequence[str] | None = None

    version: ClassVar[int] = 1

    def __call__(self, params: Any, *, sites: Sites | None = None) -> Any:
        """Applies `dkm`."""
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return dkm(params, **options, sites=sites)


@dataclasses.dataclass(frozen=True)
class Snap:
    """Recipe stage of `snap`.

    Attributes:
        where: leaves to snap; by default all that `dkm` made.
    """

    where: str | Sequence[str] | None = None

    version: ClassVar[int] = 1

    def __call__(self, params: Any, *, sites: Sites | None = None) -> Any:
        """Applies `snap`."""
        del sites
        return snap(params, where=self.where)


def _leaf(part: Part, shared: Codebook | ProductCodebook, temperature: Any, iterations: int) -> SoftCodebook:
    values, table = dense(part.array), shared.codebook
    if isinstance(shared, Codebook):
        sizes = table.shape[:-1]
        sizes = (*sizes, *(1,) * (values.ndim - len(sizes)))
        table = table.reshape(*sizes, shared.levels, 1)
        lead = next((n for n, axis in enumerate(part.stack) if axis != n), len(part.stack))
        block = (1,) * (values.ndim - lead)
    else:
        sizes, block = table.shape[:-2], shared.block
    relative = jnp.broadcast_to(jnp.asarray(temperature, jnp.float32), sizes)
    return SoftCodebook(values, table, relative, part.support, block, iterations, jnp.dtype(values.dtype))


def _at(leaf: Any, fields: Sequence[str]) -> Any:
    for name in fields:
        leaf = getattr(leaf, name)
    return leaf


def _changed(params: Any, where: Where, change: Any, method: str) -> Any:
    paths, leaves, _ = flatten_with_paths(params)
    if not any(map(_trains, leaves)):
        raise ValueError(f"{method}: no leaf is a weight that jc.cluster.dkm made train: the paths are {paths}")
    chosen = set(select(params, where, default=lambda path, leaf: is_compressed(leaf) and _trains(leaf)))
    changes = {}
    for path, leaf in zip(paths, leaves, strict=True):
        if path in chosen and not _trains(leaf):
            raise ValueError(f"{method}: {path!r} is no weight that jc.cluster.dkm made train: leave it out of where=")
        if path in chosen:
            changes[path] = _inside(path, leaf, change, method)
    return replace_at(params, changes)


def _trains(leaf: Any) -> bool:
    if not isinstance(leaf, CompressedArray):
        return False
    return isinstance(leaf, SoftCodebook) or any(map(_trains, leaf.components().values()))


def _inside(path: str, leaf: Any, change: Any, method: str) -> Any:
    if not isinstance(leaf, CompressedArray):
        return leaf
    if not isinstance(leaf, SoftCodebook):
        inner = {name: _inside(path, field, change, method) for name, field in leaf.components().items()}
        return leaf.replace(**inner)
    for name in ("values", "codebook"):
        field: Any = getattr(leaf, name)
        if not isinstance(field, Tracer) and not np.isfinite(np.asarray(field.astype(jnp.float32))).all():
            raise ValueError(f"{method}: the {name} of {path!r} hold NaN or infinity")
    return change(leaf)


def _check_temperature(method: str, temperature: Any) -> None:
    if not isinstance(temperature, Tracer) and not np.all(np.asarray(temperature) > 0):
        raise ValueError(f"{method}: temperature must be positive, got {temperature!r}")
