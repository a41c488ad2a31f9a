"""Low-rank adaptation: a trainable delta over a frozen weight of any kind (LoRA; over int4 or nf4: QLoRA)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress.core.dtypes import wider
from jaxcompress.core.leaf import ArrayOrLeaf, CompressedArray, dense, is_compressed, leaf_kind
from jaxcompress.core.parts import find_parts, with_parts
from jaxcompress.core.paths import Where, flatten_with_paths, replace_at, select
from jaxcompress.factorize.lowrank import LowRank
from jaxcompress.factorize.matrix import Matrix, matrix_of

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites


@leaf_kind("lora", trainable=("delta",), priority=2)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Lora(CompressedArray):
    """A frozen weight and a trainable delta: ``materialize() == base + scaling * delta``.

    A contraction with data is the base's own, compressed as it may be, and the two thin ones of the delta; gradients
    reach the delta alone once `jaxcompress.split_trainable` has set the base aside.

    Attributes:
        base: the weight as it was: an array, or a leaf of any kind (integers, code tables, sparse values).
        delta: a `LowRank` leaf of the same shape.
        scaling: what the delta is multiplied by, ``alpha / rank``.
    """

    sealed = (
        "a frozen weight under a trainable delta: call the method before jc.factorize.lora, or add the delta first, "
        "with jc.factorize.merge_lora"
    )

    base: ArrayOrLeaf
    delta: ArrayOrLeaf
    scaling: float = dataclasses.field(default=1.0, metadata={"static": True})

    @classmethod
    def create(cls, base: ArrayOrLeaf, delta: LowRank, scaling: float = 1.0) -> Self:
        """Checks the fields.

        Args:
            base: float array of any shape, or a leaf of any kind.
            delta: low-rank leaf of the same shape; its factors may be of another float dtype.
            scaling: static.

        Raises:
            TypeError: if ``base`` is not float.
            ValueError: if the shapes differ.

        Example:
            >>> delta = LowRank.create(jnp.array([[1.0], [0.0]]), jnp.array([[1.0, -1.0]]))
            >>> Lora.create(jnp.eye(2), delta, 0.5).materialize().tolist()
            [[1.5, -0.5], [0.0, 1.0]]
        """
        if not jnp.issubdtype(base.dtype, jnp.floating):
            raise TypeError(f"base must be float, got {base.dtype}")
        if base.shape != delta.shape:
            raise ValueError(f"base and delta must have one shape, got {base.shape} and {delta.shape}")
        return cls(base if is_compressed(base) else jnp.asarray(base), delta, float(scaling))

    def alignment(self) -> Mapping[str, tuple[int | None, ...]]:
        """Both fields run along the dense axes."""
        axes = tuple(range(len(self.base.shape)))
        return {"base": axes, "delta": axes}

    @property
    def dtype(self) -> np.dtype:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Dtype of the base."""
        return self.base.dtype

    def materialize(self) -> jax.Array:
        """The sum, added up in the wider of the two dtypes."""
        base, delta = dense(self.base), dense(self.delta)
        wide = wider(base.dtype, delta.dtype)
        return (base.astype(wide) + self.scaling * delta.astype(wide)).astype(base.dtype)

    def astype(self, dtype: Any) -> Self | None:
        """The same with a base of another dtype."""
        base = self.base.astype(dtype)
        return None if base is None else self.replace(base=base)

    def matmul(self, x: jax.Array, **options: Any) -> jax.Array | None:
        """The base's product, dense where it has none of its own, plus the thin ones of the delta."""
        return self._sum(x, "matmul", self._dense_matmul, options)

    def how(self, x: Any, *, contract: Any, batch: Any) -> str:
        """Says what the base does."""
        if not isinstance(self.base, CompressedArray):
            return f"{self.kind} matmul over a dense base"
        return f"{self.kind} matmul over {self.base.how(x, contract=contract, batch=batch)}"

    def conv(self, x: jax.Array, **params: Any) -> jax.Array | None:
        """The base's convolution plus a thin one and a product per pixel; None where the delta cannot be thin."""
        return self._sum(x, "conv", self._dense_conv, params)

    def _sum(self, x: jax.Array, way: str, plain: Callable[..., jax.Array], options: dict[str, Any]) -> Any:
        if x.dtype != self.dtype:
            return None
        delta = self.delta.astype(x.dtype)
        thin = getattr(delta, way)(x, **options) if isinstance(delta, CompressedArray) else None
        if thin is None:
            return None
        own = getattr(self.base, way)(x, **options) if isinstance(self.base, CompressedArray) else None
        if own is None:
            own = plain(x, **options)
        return own + self.scaling * thin

    def _dense_matmul(self, x: jax.Array, *, contract: Any, batch: Any, **options: Any) -> jax.Array:
        return lax.dot_general(x, dense(self.base), (contract, batch), **options)

    def _dense_conv(self, x: jax.Array, **params: Any) -> jax.Array:
        return lax.conv_general_dilated_p.bind(x, dense(self.base), **params)


def lora(
    params: Any,
    *,
    rank: int,
    key: jax.Array,
    alpha: float | None = None,
    dtype: Any = None,
    where: Where = None,
    sites: Sites | None = None,
) -> Any:
    """Puts a trainable low-rank delta over weights, which stay as they are: quantized, sparse, or plain.

    The factor that meets the data starts normal with variance ``1 / inputs``, the other one at zero, so that nothing
    changes at first. Every layer of a stack gets factors of its own. Of a masked leaf the values get the delta, under
    the mask: what is pruned stays zero. A second call stacks a second delta on the first, which is then frozen.

    To train the deltas and nothing else (biases and norms are trainable arrays too)::

        trainable, frozen = jc.split_trainable(params, where=jc.factorize.is_lora)
        loss = lambda trainable: ...jc.lift(fn)(jc.merge(trainable, frozen), x)...

    Args:
        params: tree of float arrays or leaves of any kind. Not changed.
        rank: of the delta.
        key: from `jax.random.key`; every leaf gets a part of its own.
        alpha: the delta is multiplied by ``alpha / rank``; by default ``rank``, a factor of 1.
        dtype: float dtype of the factors; by default that of the weight.
        where: leaves to adapt: globs over paths or a predicate; by default those that ``sites`` show as contraction
            weights or embeddings, without ``sites`` the float leaves of two axes or more.
        sites: what `jaxcompress.sites` found. Without it only kernels of two axes are taken, read as (in, out).

    Returns:
        The tree with `Lora` leaves.

    Raises:
        ValueError: if ``rank`` is not positive or the delta would not be smaller than the weight, ``where`` fits
            nothing, or the axes of a chosen leaf are not known or are no matrix.
        TypeError: if a chosen leaf or ``dtype`` is not float.

    Example:
        >>> adapted = lora({"w": jnp.ones((64, 32))}, rank=2, key=jax.random.key(0))
        >>> adapted["w"].delta.u.shape, adapted["w"].delta.v.shape, bool((adapted["w"].materialize() == 1).all())
        ((64, 2), (2, 32), True)

    References:
        Hu et al., 2021, section 4.1. https://arxiv.org/abs/2106.09685; Dettmers et al., 2023.
        https://arxiv.org/abs/2305.14314
    """
    if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"lora: dtype must be float, got {dtype}")
    parts = find_parts(params, where=where, sites=sites, method="lora", whole=lambda leaf: not _is_mask(leaf))
    scaling = 1.0 if alpha is None else float(alpha) / rank
    leaves = []
    for part, own in zip(parts, jax.random.split(key, len(parts)), strict=True):
        matrix = matrix_of(part, "lora")
        require_rank(part.name, rank, matrix, "lora")
        leaves.append(Lora(part.array, _initial(own, matrix, rank, dtype or part.array.dtype), scaling))
    return with_parts(params, parts, leaves)


def require_rank(name: str, rank: int, matrix: Matrix, method: str) -> None:
    """Raises ValueError if a delta of this rank is none, or no smaller than its weight."""
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"{method}: rank must be a positive integer, got {rank!r}")
    m, n = matrix.shape
    if rank * (m + n) >= m * n:
        raise ValueError(
            f"{method}: a delta of rank {rank} is no smaller than {name!r} itself ({m} x {n}): ask for less, or leave "
            "it out with where="
        )


def is_lora(path: str, leaf: Any) -> bool:
    """True for a leaf with a delta, also one under a mask: for ``where=`` of `jaxcompress.split_trainable`."""
    del path
    return isinstance(leaf, Lora) or (is_compressed(leaf) and any(is_lora("", f) for f in leaf.components().values()))


def merge_lora(params: Any, stage: Callable[..., Any] | None = None, *, where: Where = None, sites: Any = None) -> Any:
    """Adds the deltas into their weights.

    Args:
        params: tree with `Lora` leaves; other leaves stay as they are.
        stage: what makes the sums small again, a stage such as ``jc.quantize.RTN(bits=4)``: called once with a dict
            from paths to the dense sums, and ``sites=``. None leaves them dense. Under a mask, what the stage makes of
            the values goes back under the mask.
        where: which of the leaves; by default all that have a delta.
        sites: what `jaxcompress.sites` found, for the stage.

    Returns:
        The tree without these deltas.

    Raises:
        ValueError: if there is no such leaf, or the stage returns another tree than it was given.

    Example:
        >>> adapted = lora({"w": jnp.ones((64, 32))}, rank=2, key=jax.random.key(0))
        >>> merge_lora(adapted)["w"].shape
        (64, 32)
    """
    paths, leaves, _ = flatten_with_paths(params)
    held = dict(zip(paths, leaves, strict=True))
    named = paths if where is None else select(params, where)
    chosen = [path for path in named if is_lora(path, held[path])]
    if not chosen:
        raise ValueError(f"merge_lora: where={where!r} chooses no leaf with a delta. The leaves are {paths}")
    values = {path: _sum_of(held[path]) for path in chosen}
    if stage is not None:
        merged = stage(values) if sites is None else stage(values, sites=sites)
        if not isinstance(merged, dict) or set(merged) != set(values):
            raise ValueError("merge_lora: stage= must return the tree it was given, with leaves in another form")
        values = merged
    return replace_at(params, {path: _replaced(held[path], values[path]) for path in chosen})


def _initial(key: jax.Array, matrix: Matrix, rank: int, dtype: Any) -> LowRank:
    m, n = matrix.shape
    shapes = {"u": (*matrix.stack, *matrix.rows, rank), "v": (*matrix.stack, rank, *matrix.cols)}
    drawn, zero, inputs = ("u", "v", m) if matrix.inputs_are_rows else ("v", "u", n)
    noise = jax.random.normal(key, shapes[drawn], dtype) * (1 / math.sqrt(inputs))
    factors = {drawn: noise, zero: jnp.zeros(shapes[zero], dtype)}
    return LowRank(factors["u"], factors["v"], *matrix.axes)


def _is_mask(leaf: CompressedArray) -> bool:
    """True for a kind that is values under a mask."""
    fields = leaf.components()
    rest = [name for name, field in fields.items() if field.dtype != jnp.bool_]
    return len(rest) == 1 < len(fields) and fields[rest[0]].shape == leaf.shape


def _sum_of(leaf: Any) -> jax.Array:
    """The dense sum where the delta is, zero where a mask drops it."""
    if isinstance(leaf, Lora) or _is_mask(leaf):
        return leaf.materialize()
    return next(_sum_of(field) for field in leaf.components().values() if is_lora("", field))


def _replaced(leaf: Any, merged: ArrayOrLeaf) -> ArrayOrLeaf:
    if isinstance(leaf, Lora):
        return merged
    name = next(name for name, field in leaf.components().items() if is_lora("", field))
    return leaf.replace(**{name: _replaced(getattr(leaf, name), merged)})
