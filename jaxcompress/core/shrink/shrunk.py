"""`shrink`: a function and its parameters without what was pruned, really smaller."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxcompress.core.paths import flatten_with_paths
from jaxcompress.core.shrink.corresponding import corresponding
from jaxcompress.core.shrink.cut import Keep, small_shape
from jaxcompress.core.shrink.function import small_function
from jaxcompress.core.shrink.keep import KeepDict, by_leaf, checked, cut_leaf, expand_leaf, leaf_shapes

MARK = "__shrunk__"  # on a small function: itself (a copied attribute does not count), and what it kept from the start


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Shrunk:
    """A shrunk model; what `shrink` returns.

    Attributes:
        fn: ``fn(params, *inputs, **kwargs)`` on shrunk parameters: pure, for any batch size, under every
            transformation of JAX, and under `jaxcompress.lift` when leaves are compressed. Results that belong to
            pruned axes (running statistics that a call returns) have their shrunk shapes.
        params: the tree with every leaf cut. `with_params` exchanges it, after fine-tuning say.
        keep: kept indices, sorted, by path and axis; only axes that lose something.
        shapes: dense shape of every leaf, by path.
        dense_fn: the function that was shrunk.
    """

    fn: Callable[..., Any]
    params: Any
    keep: Mapping[tuple[str, int], np.ndarray]
    shapes: Mapping[str, tuple[int, ...]]
    dense_fn: Callable[..., Any]

    @property
    def from_start(self) -> tuple[Mapping[tuple[str, int], np.ndarray], Mapping[str, tuple[int, ...]]]:
        """``(keep, shapes)`` against the first dense function, if ``fn`` was a shrunk one itself: what a file holds."""
        before = getattr(self.dense_fn, MARK, None)
        if before is None or before[0] is not self.dense_fn:
            return self.keep, self.shapes
        _, keep, shapes = before
        total = dict(keep)
        for key, kept in self.keep.items():
            total[key] = total[key][kept] if key in total else kept
        return total, shapes

    @property
    def widths(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """New shapes of the leaves of every module in which something changed, by the path of the module.

        For a model that is built anew from its configuration: ``{"params/Conv_0": {"kernel": (3, 3, 8, 12)}}``.
        """
        found: dict[str, dict[str, tuple[int, ...]]] = {}
        small = {path: small_shape(self.shapes[path], keep) for path, keep in self._keeps.items()}
        modules = {path.rpartition("/")[0] for path in small}
        for path, shape in self.shapes.items():
            module, _, name = path.rpartition("/")
            if module in modules:
                found.setdefault(module, {})[name] = small.get(path, shape)
        return found

    def tree(self, tree: Any, *, like: Any = None) -> Any:
        """Cuts a tree that holds parameter-shaped subtrees: an optimizer's state, masks, an average of the weights.

        Such a subtree is found by its structure (the paths of the parameters, or of one of their collections, some of
        them missing or not), never by an optimizer's type. Its leaves of the dense shape are cut; a leaf that lacks one
        axis (a factored second moment) is cut along the others; everything else passes.

        Args:
            tree: any pytree.
            like: a tree of the same structure built for the small parameters, ``tx.init(small.params)``. Where a
                leaf's shape is not the one in ``like`` after the cut, the leaf of ``like`` is taken, that is, reset
                (adafactor factors along other axes once the sizes change).

        Returns:
            The tree with cut leaves; its structure is that of ``tree``.

        Raises:
            ValueError: if a leaf's axes cannot be told and there is no ``like``; if ``like`` has another structure.
        """
        return corresponding(tree, self._keeps, self.shapes, like)

    def expand(self, params: Any) -> Any:
        """Maps shrunk parameters back to their dense shapes, with zeros at what was dropped.

        ``small.dense_fn(small.expand(p), x)`` is ``small.fn(p, x)``. Compressed leaves become dense.

        Raises:
            ValueError: if a leaf that was cut is missing or has another shape.
        """
        paths, leaves, treedef = flatten_with_paths(params)
        self._check(params)
        return jax.tree.unflatten(
            treedef,
            [
                expand_leaf(leaf, self._keeps[path]) if path in self._keeps else leaf
                for path, leaf in zip(paths, leaves, strict=True)
            ],
        )

    def with_params(self, params: Any) -> Shrunk:
        """The same function with other shrunk parameters: trained on, averaged, or compressed further.

        Raises:
            ValueError: if a leaf that was cut is missing or has another shape.
        """
        self._check(params)
        return dataclasses.replace(self, params=params)

    @functools.cached_property
    def _keeps(self) -> dict[str, Keep]:
        return by_leaf(self.keep, self.shapes)

    def _check(self, params: Any) -> None:
        have = leaf_shapes(params)
        for path, keep in self._keeps.items():
            wanted = small_shape(self.shapes[path], keep)
            if have.get(path) != wanted:
                raise ValueError(
                    f"shrink: {path!r} must have the shrunk shape {wanted}, got {have.get(path, 'no leaf')}"
                )

    def __repr__(self) -> str:
        """How much is left of each leaf that was cut."""
        lines = [
            f"  {path}: {self.shapes[path]} -> {small_shape(self.shapes[path], keep)}"
            for path, keep in self._keeps.items()
        ]
        return "\n".join([f"Shrunk({getattr(self.fn, '__name__', self.fn)}, {len(lines)} leaves cut", *lines]) + ")"


def shrink(fn: Callable[..., Any], params: Any, keep: KeepDict) -> Shrunk:
    """Removes what ``keep`` drops from a model, physically: smaller arrays, fewer operations.

    The promise: ``small.fn(small.params, *inputs) == fn(masked(params, keep), *inputs)`` up to rounding, when the
    dropped entries of ``keep`` belong together, as `jaxcompress.groups` finds them; `jaxcompress.verify` checks it.
    The small function traces ``fn`` at the dense shapes, once for each shape of the inputs, and follows through every
    primitive which indices each axis keeps. What it cannot follow is an error that names the primitive and the line.

    Two things are taken at the word of ``keep``. Where something whole meets something cut (zeros, dropout masks,
    positions, a bias that ``keep`` does not name), it is cut alike. Where an axis is summed, maximised or scanned over,
    only what is kept is: exact where the dropped entries are zeros of a sum, or layers that leave a residual stream as
    it is.

    Args:
        fn: any function that `jaxcompress.lift` accepts, with the parameters first.
        params: its parameters; compressed leaves are cut as they are. May be abstract (`jax.ShapeDtypeStruct`).
        keep: kept indices by path and axis, ``{("params/Dense_0/kernel", 1): [0, 2, 3]}``. None at all is allowed:
            width 0.

    Returns:
        The shrunk model.

    Raises:
        TypeError: if ``keep`` or its keys or indices are of the wrong type.
        ValueError: if a path, axis or index does not exist or comes twice, or a compressed leaf cannot be cut.

    Example:
        >>> fn = lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"]
        >>> params = {"a": jnp.ones((2, 4)), "b": jnp.ones((4, 1))}
        >>> small = shrink(fn, params, {("a", 1): [0, 3], ("b", 0): [0, 3]})
        >>> small.params["a"].shape, small.fn(small.params, jnp.ones((5, 2))).shape
        ((2, 2), (5, 1))
    """
    shapes = leaf_shapes(params)
    kept = checked(keep, shapes)
    keeps = by_leaf(kept, shapes)
    paths, leaves, treedef = flatten_with_paths(params)
    cut = [cut_leaf(leaf, keeps[p], p) if p in keeps else leaf for p, leaf in zip(paths, leaves, strict=True)]
    small = Shrunk(small_function(fn, keeps, shapes), jax.tree.unflatten(treedef, cut), kept, shapes, fn)
    setattr(small.fn, MARK, (small.fn, *small.from_start))
    return small
