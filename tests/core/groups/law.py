"""The law of structure: a network with zeros at what `keep` drops computes what the shrunk network computes.

The masking here is NumPy of our own, so that nothing that shrinks checks itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxcompress as jc
from jaxcompress.core.paths import flatten_with_paths, replace_at
from tests.laws.pairs import assert_close, tolerance

# Saves some of the time XLA takes; what is compared is our program, not XLA's optimizer.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
Keep = Mapping[tuple[str, int], np.ndarray]


def sizes(groups: Sequence[Any]) -> tuple[int, ...]:
    """How many units each group has, sorted; a group of one unit can lose nothing and does not count."""
    return tuple(sorted(group.size for group in groups if group.size > 1))


def some(groups: Any, seed: int, only: int | None = None) -> Keep:
    """Random units of every group (or of the one named): half of them with an even seed, else any number."""
    random = np.random.RandomState(seed)
    kept = {}
    for group in groups:
        count = (group.size + 1) // 2 if seed % 2 == 0 else random.randint(1, group.size + 1)
        chosen = np.sort(random.permutation(group.size)[:count])
        if only is None or group.index == only:
            kept[group.index] = chosen
    return groups.keep(kept)


def masked(params: Any, keep: Keep) -> Any:
    """The dense tree with zeros at every index that `keep` drops."""
    dense = _touched(params, keep)
    for (path, axis), kept in keep.items():
        dropped = np.setdiff1d(np.arange(dense[path].shape[axis]), kept)
        np.moveaxis(dense[path], axis, 0)[dropped] = 0
    return replace_at(params, {path: jnp.asarray(value) for path, value in dense.items()})


def sliced(params: Any, keep: Keep) -> Any:
    """The tree of the small network, again by NumPy."""
    dense = _touched(params, keep)
    for (path, axis), kept in keep.items():
        dense[path] = np.take(dense[path], kept, axis)
    return replace_at(params, {path: jnp.asarray(value) for path, value in dense.items()})


def _touched(params: Any, keep: Keep) -> dict[str, np.ndarray]:
    paths, arrays, _ = flatten_with_paths(params)
    return {path: np.array(array) for path, array in zip(paths, arrays, strict=True) if path in {p for p, _ in keep}}


def leaves(outputs: Any) -> tuple[jax.Array, ...]:
    return tuple(jax.tree.leaves(outputs))


def check(
    fn: Callable[..., Any],
    params: Any,
    inputs: tuple[Any, ...],
    keeps: Sequence[Keep],
    *,
    kwargs: Mapping[str, Any] | None = None,
    others: tuple[Any, ...] | None = None,
    gradient: bool = False,
    tol: float | None = None,
) -> None:
    """Masked == shrunk for every `keep`, in one compiled program.

    Args:
        others: inputs of another batch size, on which the networks are compared instead.
        gradient: also compares the gradients of the kept parameters (those of the dense network at the masked ones).
        tol: relative to the largest entry of an output; by default the float32 bound of 1e-5, or the dtype's rounding.
    """
    kwargs = dict(kwargs or {})
    keeps = [keep for keep in keeps if keep]
    if not keeps:
        return
    shrunk = [jc.shrink(fn, params, keep) for keep in keeps]
    zeros = [masked(params, keep) for keep in keeps]
    for small, keep in zip(shrunk, keeps, strict=True):
        assert_close(small.params, sliced(params, keep), tol=0.0, what="parameters")
    inputs = inputs if others is None else others

    def loss(run: Callable[..., Any], tree: Any) -> jax.Array:
        total = jnp.zeros((), jnp.result_type(float))
        for out in leaves(run(tree, *inputs, **kwargs)):
            if jnp.issubdtype(out.dtype, jnp.floating):
                weights = jnp.asarray(np.cos(np.arange(out.size)).reshape(out.shape), total.dtype)
                total += jnp.sum(out.astype(total.dtype) * weights)
        return total

    def program(zeros: list[Any], small_params: list[Any], inputs: tuple[Any, ...]) -> list[Any]:
        found = [
            (leaves(small.fn(tree, *inputs, **kwargs)), leaves(fn(zero, *inputs, **kwargs)))
            for small, zero, tree in zip(shrunk, zeros, small_params, strict=True)
        ]
        if gradient:
            ours = jax.grad(lambda t: loss(shrunk[0].fn, t), allow_int=True)(small_params[0])
            theirs = jax.grad(lambda t: loss(fn, t), allow_int=True)(zeros[0])
            found.append((ours, shrunk[0].tree(theirs)))
        return found

    found = jax.jit(program, compiler_options=QUICK)(zeros, [small.params for small in shrunk], inputs)
    for number, (ours, theirs) in enumerate(found):
        ours, theirs = _floating(ours), _floating(theirs)
        allowed = tol if tol is not None else max(1e-5, tolerance(theirs))
        is_gradient = number == len(shrunk)  # which passes every layer twice
        assert_close(ours, theirs, tol=4 * allowed if is_gradient else allowed, what=f"comparison {number}")


def _floating(tree: Any) -> tuple[jax.Array, ...]:
    """What can be compared: integer parameters have no gradient (float0)."""
    return tuple(leaf for leaf in jax.tree.leaves(tree) if leaf.dtype != jax.dtypes.float0)
