"""`verify`: the masked model and the shrunk one, side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.lift import lift, split_static
from jaxcompress.core.paths import flatten_with_paths
from jaxcompress.core.shrink.cut import array_of, is_cut, keep_of, take
from jaxcompress.core.shrink.function import walk
from jaxcompress.core.shrink.keep import KeepDict, by_leaf, checked, leaf_shapes, masked
from jaxcompress.core.shrink.shrunk import shrink
from jaxcompress.core.table import html_table, text_table
from jaxcompress.core.tree import materialize


@dataclasses.dataclass(frozen=True)
class Difference:
    """One result of the function.

    Attributes:
        path: where it stands among the results.
        shape: its shape in the small model.
        dense_shape: its shape in the dense one.
        relative: largest absolute difference over the largest magnitude of the dense result; NaN if either has one
            where the other has none.
    """

    path: str
    shape: tuple[int, ...]
    dense_shape: tuple[int, ...]
    relative: float


@dataclasses.dataclass(frozen=True, repr=False)
class Verification:
    """What `verify` found. Prints as a table; true in a condition if everything agrees.

    Attributes:
        outputs: every result.
        tolerance: largest relative difference that counts as equal.
    """

    outputs: tuple[Difference, ...]
    tolerance: float

    @property
    def ok(self) -> bool:
        """True if every result of the shrunk model is that of the masked one."""
        return all(out.relative <= self.tolerance for out in self.outputs)

    @property
    def largest(self) -> float:
        """The largest relative difference."""
        return max((out.relative for out in self.outputs), key=lambda r: (np.isnan(r), r), default=0.0)

    def __bool__(self) -> bool:
        return self.ok

    def __repr__(self) -> str:
        return text_table(*self._table())

    def _repr_html_(self) -> str:
        return html_table(*self._table())

    def _table(self) -> tuple[list[str], list[list[str]], list[str]]:
        rows = [
            [out.path or "(result)", str(out.shape), str(out.dense_shape), f"{out.relative:.1e}",
             "" if out.relative <= self.tolerance else "differs"]
            for out in self.outputs
        ]  # fmt: skip
        word = "agree" if self.ok else "DIFFER"
        note = f"masked and shrunk {word}: {self.largest:.1e}, tolerance {self.tolerance:.1e}"
        return ["output", "shape", "dense shape", "relative difference", ""], rows, [note]


def verify(
    fn: Callable[..., Any], params: Any, keep: KeepDict, *inputs: Any, tolerance: float = 1e-5, **kwargs: Any
) -> Verification:
    """Checks that shrinking changes nothing but the size: the masked model against the shrunk one, on data.

    Args:
        fn: as for `jaxcompress.shrink`.
        params: its dense parameters.
        keep: as for `jaxcompress.shrink`.
        *inputs: of ``fn``, after the parameters.
        tolerance: largest relative difference that counts as equal.
        **kwargs: of ``fn``.

    Returns:
        The largest relative difference of every result. A result that is shrunk itself (running statistics) is
        compared with the kept entries of the masked one.

    Raises:
        ValueError: as `jaxcompress.shrink`.

    Example:
        >>> fn = lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"]
        >>> params = {"a": jnp.ones((2, 3)), "b": jnp.ones((3, 1))}
        >>> verify(fn, params, {("a", 1): [0], ("b", 0): [0]}, jnp.ones((4, 2)))
        output    shape   dense shape  relative difference
        (result)  (4, 1)  (4, 1)       0.0e+00
        masked and shrunk agree: 0.0e+00, tolerance 1.0e-05
    """
    small = shrink(fn, params, keep)
    theirs = lift(fn)(masked(params, keep), *inputs, **kwargs)
    ours = lift(small.fn)(small.params, *inputs, **kwargs)
    cuts = output_cuts(fn, params, keep, *inputs, **kwargs)
    paths, dense, _ = flatten_with_paths(theirs)
    outputs = [
        Difference(path, tuple(np.shape(a)), tuple(np.shape(b)), _relative(a, cut(b)))
        for path, a, b, cut in zip(paths, jax.tree.leaves(ours), dense, cuts, strict=True)
    ]
    return Verification(tuple(outputs), tolerance)


def output_cuts(
    fn: Callable[..., Any], params: Any, keep: KeepDict, *inputs: Any, **kwargs: Any
) -> list[Callable[[jax.Array], jax.Array]]:
    """For every result, the function that cuts the masked one to the kept entries (most cut nothing)."""
    shapes = leaf_shapes(params)
    keeps = by_leaf(checked(keep, shapes), shapes)
    small = shrink(fn, jax.eval_shape(materialize, params), keep).params
    static, arrays = split_static(fn, (small, *inputs), kwargs)
    found: list[Any] = []

    def abstract(arrays: Any) -> Any:
        outs, _ = walk(fn, keeps, shapes, static, arrays)
        found.extend(keep_of(out) if is_cut(out) else () for out in outs)
        return [array_of(out) for out in outs]

    jax.eval_shape(abstract, arrays)

    def cutting(keep: Any) -> Callable[[jax.Array], jax.Array]:
        def cut(array: jax.Array) -> jax.Array:
            for axis, kept in enumerate(keep):
                array = array if kept is None else take(array, axis, kept.indices)
            return array

        return cut

    return [cutting(keep) for keep in found]


def _relative(ours: Any, theirs: Any) -> float:
    if jnp.issubdtype(ours.dtype, jax.dtypes.prng_key):
        ours, theirs = jax.random.key_data(ours), jax.random.key_data(theirs)
    kind = np.complex128 if jnp.issubdtype(ours.dtype, jnp.complexfloating) else np.float64
    a, b = np.asarray(ours).astype(kind), np.asarray(theirs).astype(kind)
    both = (a == b) | (np.isnan(a) & np.isnan(b))
    if both.all():
        return 0.0
    with np.errstate(invalid="ignore"):
        return float(np.abs(np.where(both, 0, a - b)).max() / (np.abs(b)[np.isfinite(b)].max(initial=0) or 1.0))
