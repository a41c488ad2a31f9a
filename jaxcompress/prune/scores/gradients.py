"""One pass over batches that gathers what gradient scores need: the mean gradient and the mean of its square."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.lift import Static, merge_static, split_static
from jaxcompress.core.paths import Where, flatten_with_paths, replace_at, select
from jaxcompress.core.tree import materialize
from jaxcompress.prune.scores.lp import wide
from jaxcompress.prune.scores.units import AxisRoles, Members, unit_sums

if TYPE_CHECKING:
    from jaxcompress.core.groups import Groups

Loss = Callable[[Any, Any], jax.Array]
Per = Literal["batch", "example"]
Sums = dict[str, dict[Any, jax.Array]]


@dataclasses.dataclass(frozen=True, eq=False)
class Gradients:
    """What `gradients` gathered: means over ``count`` gradients ``g``, by path of the (dense) leaf.

    Attributes:
        mean: the mean of ``g``.
        square: the mean of ``g ** 2``.
        gate: by group, the mean over gradients of the sum of ``g * w`` over each unit, squared; empty without
            ``groups``.
        count: how many gradients were averaged.
        per: whether each was of the loss of a ``"batch"`` or of an ``"example"``.
    """

    mean: Mapping[str, jax.Array]
    square: Mapping[str, jax.Array]
    gate: Mapping[int, jax.Array]
    count: int
    per: Per

    def at(self, path: str, what: Literal["mean", "square"]) -> jax.Array:
        """One of the two for one leaf.

        Raises:
            ValueError: if the leaf was not asked for.
        """
        held: Mapping[str, jax.Array] = getattr(self, what)
        if path not in held:
            raise ValueError(
                f"no gradient was gathered at {path!r}, only at {sorted(held)}: widen where= of gradients(); factors "
                "inside of a leaf have none (jc.materialize first)"
            )
        return held[path]


def gradients(
    loss: Loss,
    params: Any,
    batches: Iterable[Any],
    *,
    per: Per = "batch",
    chunk: int = 1,
    where: Where = None,
    groups: Groups | None = None,
    members: Members = "consumers",
) -> Gradients:
    """Means over the batches of the gradient and of its square.

    With ``per="batch"`` each gradient is that of ``loss(params, batch)``, as Molchanov 2019 squares them; every batch
    counts the same. With ``per="example"`` each is that of one example alone, given to ``loss`` as a batch of one: the
    mean square is then the diagonal of the empirical Fisher information (with the labels of the data; the true one
    would draw them from the model). One program is compiled per shape of batch, and kept with ``loss``.

    Args:
        loss: ``(params, batch) -> scalar``, a function that ``jit`` accepts. Compressed leaves arrive dense.
        params: tree of float arrays or leaves; gradients are those of the dense weights.
        batches: the data, iterated once. With ``per="example"`` all arrays of a batch share their leading axis.
        per: ``"batch"`` or ``"example"``.
        chunk: how many examples are differentiated side by side; memory grows with it, the sums are the same.
        where: leaves to differentiate by; default every float leaf.
        groups: what `jaxcompress.groups` found; then the gradient of a gate on every unit is gathered too, which
            `Fisher` needs of units.
        members: the entries that a gate multiplies; ``"consumers"`` are all that read the unit, so that the gate's
            gradient is the first-order effect of removing it, whatever lies between producers and consumers.

    Returns:
        `Gradients`, in float32 at least.

    Raises:
        ValueError: if there is no batch, ``per`` is another word, or a gradient is not finite; names path and batch.

    Example:
        >>> found = gradients(lambda p, x: (p["w"] * x).mean(), {"w": jnp.array([2.0])}, [jnp.array([1.0, 3.0])],
        ...                   per="example")
        >>> found.mean["w"].tolist(), found.square["w"].tolist(), found.count
        ([2.0], [5.0], 2)

    References:
        Molchanov et al., 2019, equation 8. https://arxiv.org/abs/1906.10771; Theis et al., 2018, section 2.
        https://arxiv.org/abs/1801.05787
    """
    if per not in ("batch", "example"):
        raise ValueError(f"per must be 'batch' or 'example', got {per!r}")
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    rest = materialize(params)
    paths, leaves, _ = flatten_with_paths(rest)
    by_path = dict(zip(paths, leaves, strict=True))
    weights = {path: jnp.asarray(by_path[path]) for path in select(rest, where, default=_is_float)}
    layout, positions = _gates(groups, params, members, weights)
    static, arrays = split_static(loss, (rest,), {})
    sums: Sums | None = None
    count = 0
    for number, batch in enumerate(batches):
        batch_static, batch_arrays = split_static(loss, (batch,), {})
        count += 1 if per == "batch" else _examples(batch_arrays)
        chunks = chunk if per == "example" else None
        call = _Call(loss, static, batch_static, layout, chunks)
        found, finite = _gather(call, weights, arrays, batch_arrays, positions)
        for path, ok in finite.items():
            if not ok:
                raise ValueError(f"gradients: that of {path!r} is not finite in batch {number}")
        sums = found if sums is None else jax.tree.map(jnp.add, sums, found)
    if sums is None:
        raise ValueError("gradients: batches= gave no batch; there is nothing to differentiate")
    means = jax.tree.map(lambda total: total / count, sums)
    return Gradients(means["mean"], means["square"], means["gate"], count, per)


def _is_float(path: str, leaf: Any) -> bool:
    del path
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)


def _examples(arrays: Sequence[Any]) -> int:
    sizes = {np.shape(array)[:1] for array in arrays}
    if len(sizes) != 1 or sizes == {()}:
        raise ValueError(f"per='example' needs batches whose arrays share their leading axis, got {sorted(sizes)}")
    return sizes.pop()[0]


Layout = tuple[tuple[int, tuple[tuple[str, int], ...]], ...]


def _gates(
    groups: Groups | None, params: Any, members: Members, weights: Mapping[str, jax.Array]
) -> tuple[Layout, list[list[np.ndarray]]]:
    """Per group the (path, axis) of the members that count, and beside it their positions."""
    if groups is None:
        return (), []
    roles = AxisRoles.of(groups, params)
    chosen = {
        group.index: [member for member in roles.members(group, members) if member.path in weights] for group in groups
    }
    chosen = {index: found for index, found in chosen.items() if found}
    layout = tuple((index, tuple((m.path, m.axis) for m in found)) for index, found in chosen.items())
    return layout, [[member.positions for member in found] for found in chosen.values()]


@dataclasses.dataclass(frozen=True)
class _Call:
    """What a program of `_gather` is compiled for; ``chunk`` is None where the batch is differentiated whole."""

    loss: Loss
    params: Static
    batch: Static
    layout: Layout
    chunk: int | None

    def terms(self, weights: Any, params: Any, batch: Any, positions: Any) -> Sums:
        """One gradient, its square, and the squares of its gates."""

        def objective(weights: Any) -> jax.Array:
            (tree,), _ = merge_static(self.params, params)
            (data,), _ = merge_static(self.batch, batch)
            return self.loss(replace_at(tree, weights), data)

        mean = {path: wide(g) for path, g in jax.grad(objective)(weights).items()}
        products = {path: g * wide(weights[path]) for path, g in mean.items()}
        gate = {
            index: jnp.square(unit_sums(products, members, owned))
            for (index, members), owned in zip(self.layout, positions, strict=True)
        }
        return {"mean": mean, "square": jax.tree.map(jnp.square, mean), "gate": gate}


@partial(jax.jit, static_argnums=0)
def _gather(call: _Call, weights: Any, params: Any, batch: Any, positions: Any) -> tuple[Sums, dict[str, jax.Array]]:
    if call.chunk is None:
        sums = call.terms(weights, params, batch, positions)
    else:
        sums = _over_examples(partial(call.terms, weights, params, positions=positions), batch, call.chunk)
    return sums, {path: jnp.isfinite(total).all() for path, total in sums["mean"].items()}


def _over_examples(terms: Callable[[Any], Sums], batch: Sequence[jax.Array], chunk: int) -> Sums:
    """Sums of ``terms`` of every example, ``chunk`` of them side by side."""
    size = batch[0].shape[0]
    whole = size - size % chunk

    def some(examples: Any) -> Sums:
        found = jax.vmap(lambda example: terms([array[None] for array in example]))(examples)
        return jax.tree.map(lambda total: total.sum(0), found)

    parts = []
    if whole:
        rows = [jnp.asarray(array)[:whole].reshape(-1, chunk, *array.shape[1:]) for array in batch]
        start = jax.tree.map(jnp.zeros_like, jax.eval_shape(some, [row[0] for row in rows]))
        parts.append(jax.lax.scan(lambda sums, row: (jax.tree.map(jnp.add, sums, some(row)), None), start, rows)[0])
    if whole < size:
        parts.append(some([jnp.asarray(array)[whole:] for array in batch]))
    return jax.tree.map(lambda *totals: sum(totals[1:], start=totals[0]), *parts)
