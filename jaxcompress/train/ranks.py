"""What the transformations that lower ranks share: weights as matrices, their ranks in the optimizer state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.parts import Part
from jaxcompress.core.paths import flatten_with_paths
from jaxcompress.factorize.matrix import Matrix, matrix_of
from jaxcompress.factorize.svd import svd
from jaxcompress.solvers.lowrank import break_even_rank
from jaxcompress.train.selection import Selection, by_path
from jaxcompress.train.zeroing import sum_dtype

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites


class RankState(NamedTuple):
    """Ranks inside an optimizer state, however deeply it is nested.

    Attributes:
        ranks: tree of the structure of the parameters: int32 ``[layers]``, `optax.MaskedNode` at leaves that keep
            their rank.
    """

    ranks: Any


def reached_ranks(opt_state: Any) -> dict[str, int]:
    """The ranks that a training run has reached, by the path of the parameter.

    Args:
        opt_state: state of an optimizer built with `jaxcompress.train.nuclear_norm` or `gradual_rank`, nested in any
            other transformation.

    Returns:
        Of a stack of layers the largest rank; at least 1, so that `jaxcompress.factorize.svd` takes it.

    Raises:
        ValueError: if the state holds no ranks.

    Example:
        >>> reached_ranks(("state of another", RankState({"w": jnp.array([3, 5])})))
        {'w': 5}
    """
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, RankState))
    found: dict[str, int] = {}
    for state in (node for node in nodes if isinstance(node, RankState)):
        for path, ranks in by_path(state.ranks).items():
            found[path] = min(found.get(path, np.iinfo(np.int32).max), max(1, int(np.max(ranks))))
    if not found:
        raise ValueError(
            "opt_state holds no ranks: wrap the optimizer in jaxcompress.train.nuclear_norm or gradual_rank; after a "
            "checkpoint, restore against tx.init(params): without a target the types of the state are lost"
        )
    return found


def factorized(params: Any, opt_state: Any, *, sites: Sites | None = None) -> Any:
    """Turns the weights of a training run that has lowered their ranks into two factors each; only rounding is lost.

    Args:
        params: the tree that was trained.
        opt_state: the state of its optimizer, which names the ranks.
        sites: what `jaxcompress.sites` found; for kernels of more than two axes.

    Returns:
        The tree with `LowRank` leaves, where the reached rank saves something.

    Raises:
        ValueError: if the state holds no ranks.

    Example:
        >>> params, state = {"w": jnp.ones((6, 6))}, RankState({"w": jnp.array([1])})
        >>> factorized(params, state)["w"].rank
        1
    """
    ranks = reached_ranks(opt_state)
    parts = Selection("factorized", lambda path, leaf: path in ranks, sites).parts(params)
    saving = {}
    for part in parts:
        if ranks[part.path] < break_even_rank(*matrix_of(part, "factorized").shape):
            saving[part.path] = ranks[part.path]
    if not saving:
        return params
    for rank in sorted(set(saving.values())):
        own = frozenset(path for path, one in saving.items() if one == rank)
        params = svd(params, rank=rank, where=lambda path, leaf, own=own: path in own, sites=sites)
    return params


def matrices(parts: Sequence[Part], method: str) -> dict[str, Matrix]:
    """How each chosen weight is read, by path.

    Raises:
        ValueError: if one cannot be read as matrices.
    """
    return {part.path: matrix_of(part, method) for part in parts}


def layers_of(matrix: Matrix) -> int:
    """How many matrices a weight holds."""
    return int(np.prod(matrix.stack, dtype=int))


def moved(
    params: Any, updates: Any, found: Mapping[str, Matrix], change: Callable[[str, jax.Array], tuple[jax.Array, Any]]
) -> tuple[Any, dict[str, Any]]:
    """Updates that lead the chosen weights to where ``change`` brings them.

    Args:
        params: the parameters that the updates will be added to.
        updates: tree of the structure of ``params``.
        found: the chosen weights.
        change: from a path and ``param + update`` as ``[layers, m, n]`` to the matrices wanted, and anything to keep.

    Returns:
        The updates, and what is to be kept by path.
    """
    paths, leaves, treedef = flatten_with_paths(params)
    out, kept = [], {}
    for path, param, update in zip(paths, leaves, treedef.flatten_up_to(updates), strict=True):
        if path in found:
            dtype = sum_dtype(update, param)
            before = param.astype(dtype)
            after = (before + update.astype(dtype)).reshape(-1, *found[path].shape)
            wanted, kept[path] = change(path, after)
            update = wanted.astype(dtype).reshape(param.shape) - before
        out.append(update)
    return jax.tree.unflatten(treedef, out), kept


def full_ranks(found: Mapping[str, Matrix]) -> dict[str, jax.Array]:
    """The ranks before anything has happened."""
    return {path: jnp.full(layers_of(matrix), min(matrix.shape), jnp.int32) for path, matrix in found.items()}
