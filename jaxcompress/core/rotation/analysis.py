"""`rotations`: which axes of parameters an orthogonal matrix may turn without changing the function."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from jaxcompress.core.leaf import is_compressed
from jaxcompress.core.lift import array_paths, split_static, trace
from jaxcompress.core.rotation.folding import settled
from jaxcompress.core.rotation.result import Excluded, Fold, Rotation, Rotations
from jaxcompress.core.rotation.values import Axis, Classes, Leaf, Node, Value
from jaxcompress.core.rotation.walk import Walk


def rotations(fn: Callable[..., Any], params: Any, *inputs: Any, **kwargs: Any) -> Rotations:
    """Finds the axes of parameters that an orthogonal matrix may turn while ``fn`` computes the same.

    The promise: `apply` with any of the rotations and any orthogonal matrix leaves every output of ``fn`` as it is, up
    to rounding. They follow from the trace alone, no name is read. Along an axis that is turned, values are looked up,
    added to each other, multiplied by what is the same for all entries, contracted with parameters or with each other,
    and squared and summed: so the residual stream of a transformer with RMS norms is found, through scans over its
    layers, tied embeddings and all. Whatever else meets an axis (a nonlinearity, a split into heads, a concatenation)
    fixes it, and is told in ``excluded`` with the line where it happens.

    A gain, a parameter that multiplies data entry by entry, is let through where its entries are equal (seen in
    concrete parameters) or where all that it multiplied goes on to contractions with parameters, which can take it
    (`fold_gains`). Means and sums over the axis, as in a layer norm, leave the matrices that keep the vector of ones.

    Nothing is computed: ``fn`` is traced, so any function that ``jit`` accepts will do, whatever library wrote it.

    Args:
        fn: a function that ``jit`` accepts; non-array arguments are static, as for `jaxcompress.lift`.
        params: its first argument: all variables of the model. Compressed leaves stay as they are.
        *inputs: further positional arguments; may be `jax.ShapeDtypeStruct`.
        **kwargs: keyword arguments of ``fn``.

    Returns:
        The rotations, those that turn the most entries first; ``print`` shows them and what is not turned.

    Example:
        >>> def fn(p, tokens):
        ...     x = p["emb"][tokens]
        ...     x = x + jax.nn.relu(x @ p["up"]) @ p["down"]
        ...     return x @ p["emb"].T
        >>> params = {"emb": jnp.ones((9, 4)), "up": jnp.ones((4, 6)), "down": jnp.ones((6, 4))}
        >>> rotations(fn, params, jnp.arange(3))[0]
        Rotation(4: down[1], emb[1], up[0])

    References:
        Ashkboos et al., 2024, section 3 (computational invariance). https://arxiv.org/abs/2401.15024
    """
    count = len(split_static(fn, (params,), {})[1])
    static, arrays = split_static(fn, (params, *inputs), kwargs)
    names = array_paths(static)
    closed, _ = trace(fn, static, arrays)
    walk, args = Walk(), list[Value]()
    for i, (name, array, var) in enumerate(zip(names, arrays, closed.jaxpr.invars, strict=True)):
        if i >= count:
            axes = walk.whole(var.aval.shape, f"an axis of the input {name}").axes
            args.append(Value(axes, data=True))
        elif is_compressed(array) or not jnp.issubdtype(var.aval.dtype, jnp.floating):
            args.append(walk.whole(var.aval.shape, "a compressed leaf" if is_compressed(array) else "not of floats"))
        else:
            args.append(_argument(walk.classes, name, var.aval.shape))
    for out in walk.run(closed.jaxpr, closed.consts, args):
        walk.fix(out.axes, "an axis of the result")
    leaves = dict(zip(names[:count], arrays[:count], strict=True))
    folds = settled(walk.classes, leaves)
    unused = {name for name, arg in zip(names[:count], args, strict=False) if id(arg) not in walk.met}
    return _formed(walk.classes, folds, leaves, unused)


def _argument(classes: Classes, path: str, shape: tuple[int, ...]) -> Value:
    """A parameter, each of whose axes may be turned by itself."""
    axes = [
        Axis(classes.fresh(Node("leaf", path, axis)) if size > 1 else None, of=axis) for axis, size in enumerate(shape)
    ]
    return Value(tuple(axes), leaf=Leaf(path, shape))


def _formed(
    classes: Classes, folds: Mapping[int, list[Fold]], leaves: Mapping[str, Any], unused: set[str]
) -> Rotations:
    gains: dict[int, dict[tuple[str, int], None]] = {}
    taken: dict[str, dict[Fold, None]] = {}  # a gain that is folded is folded into all that takes it
    for link in classes.links:
        root, path = classes.root(link.after), link.gain.slice.path
        gains.setdefault(root, {})[path, link.gain.slice.axis] = None
        taken.setdefault(path, {}).update(dict.fromkeys(folds.get(link.after, ())))
    found, excluded = [], []
    for root, nodes in classes.members().items():
        turned = [classes.nodes[node] for node in nodes if classes.nodes[node].kind == "leaf"]
        turned = sorted((node for node in turned if node.path not in unused), key=lambda node: (node.path, node.axis))
        multiplying = {node: source for node, source in classes.gains.items() if node in nodes}
        reason = classes.fixed(root)
        if multiplying and reason is None:
            reason = classes.told("it multiplies data entry by entry", next(iter(multiplying.values())))
        if reason is not None:
            excluded += [Excluded(node.path, node.axis, reason) for node in turned]
        elif turned:
            members = tuple((node.path, node.axis) for node in turned)
            size = jnp.shape(leaves[members[0][0]])[members[0][1]]
            along = tuple(sorted(gains.get(root, {})))
            taking = tuple(fold for path in dict.fromkeys(path for path, _ in along) for fold in taken[path])
            found.append(Rotation(size, members, along, taking, classes.ones(root)))
    found.sort(key=lambda rotation: -sum(math.prod(jnp.shape(leaves[path])) for path, _ in rotation.members))
    excluded.sort(key=lambda entry: (entry.path, entry.axis))
    return Rotations(found, excluded)
