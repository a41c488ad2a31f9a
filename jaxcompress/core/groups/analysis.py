"""`groups`: which axes of the parameters of a function must shrink together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax

from jaxcompress.core.groups.forming import Leaf, formed
from jaxcompress.core.groups.labels import Labelled
from jaxcompress.core.groups.reshapes import Policy, decide
from jaxcompress.core.groups.result import Groups
from jaxcompress.core.groups.walk import Walk
from jaxcompress.core.leaf import is_compressed
from jaxcompress.core.lift import array_paths, split_static, trace
from jaxcompress.core.paths import matches, path_string

_WORDS: tuple[object, ...] = ("outer", "inner")


def groups(
    fn: Callable[..., Any],
    params: Any,
    *inputs: Any,
    state: str | Sequence[str] | None = None,
    reshape: Policy = "outer",
    reductions: Literal["pin", "allow"] = "pin",
    **kwargs: Any,
) -> Groups:
    """Finds the axes of parameters that must shrink together so that ``fn`` still computes the same.

    The promise: for units of the groups in any choice, ``fn`` on parameters whose dropped entries are zero and the
    shrunk function (`jaxcompress.shrink`) give the same outputs. What cannot be proved is pinned, with the reason.
    Nothing is computed: ``fn`` is traced, so any function that ``jit`` accepts will do, whatever library wrote it.

    Axes of the inputs and of the results are pinned; so are spatial axes, axes that are indexed, sorted or scanned,
    and axes over which something is reduced that masking does not make neutral: a softmax over hidden units, a sum
    behind a sigmoid, a maximum, a variance computed from centred values.

    Args:
        fn: a function that ``jit`` accepts; non-array arguments are static, as for `jaxcompress.lift`.
        params: its first argument: all variables of the model; leaves may be compressed or abstract.
        *inputs: further positional arguments; may be `jax.ShapeDtypeStruct`.
        state: globs over the paths of the result that are state (``"1/**"`` for the returned batch statistics of
            ``model.apply(..., mutable=["batch_stats"])``): they shrink with the parameters instead of pinning them.
        reshape: which factor of an axis that a reshape merges or splits may move where more than one could:
            ``"outer"`` (heads of ``heads * dim``), ``"inner"`` (the same dims of every head), or a function ``(sizes of
            the factors, source line) -> index of the one that moves``. Choices are told in `Groups.choices`; a word
            gives way where it would leave nothing to remove (the channels that a shuffle moves between its groups).
        reductions: ``"allow"`` lets reductions over values through that are not zero when masked: then the shrunk
            function reduces over what is kept (a softmax normalises over it), which the masked one does not.
        **kwargs: keyword arguments of ``fn``.

    Returns:
        The groups; ``print`` shows them.

    Raises:
        ValueError: if ``reductions`` or ``reshape`` is another word, ``state`` fits no result, or ``params`` is empty.

    Example:
        >>> params = {"a": jnp.ones((3, 8)), "b": jnp.ones((8, 2))}
        >>> found = groups(lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"], params, jnp.ones((5, 3)))
        >>> [(group.size, [(m.path, m.axis) for m in group.members]) for group in found]
        [(8, [('a', 1), ('b', 0)])]

    References:
        Fang et al., 2023 (dependency groups of modules). https://arxiv.org/abs/2301.12900
    """
    if reductions not in ("pin", "allow"):
        raise ValueError(f"reductions must be 'pin' or 'allow', got {reductions!r}")
    policy: Policy = reshape
    if not (callable(reshape) or reshape in _WORDS):
        raise ValueError(f"reshape must be 'outer', 'inner' or a function, got {reshape!r}")
    count = len(split_static(fn, (params,), {})[1])
    if not count:
        raise ValueError("groups: params holds no array")
    static, arrays = split_static(fn, (params, *inputs), kwargs)
    closed, out_shape = trace(fn, static, arrays)
    walk = Walk(strict=reductions == "pin")
    names = array_paths(static)
    args = [
        _argument(walk, var.aval.shape, name, i < count)
        for i, (var, name) in enumerate(zip(closed.jaxpr.invars, names, strict=True))
    ]
    _pin_results(walk, walk.run(closed.jaxpr, closed.consts, args), out_shape, state)
    for value in args[:count]:
        for labels in value.labels if id(value) not in walk.met else ():
            walk.graph.pin(labels, "nothing in this call uses it")
    components, choices = decide(walk.graph, policy)
    dtypes = [aval.dtype for aval in closed.in_avals[:count]]
    leaves = [Leaf(*leaf) for leaf in zip(names[:count], args[:count], dtypes, strict=True)]
    call = fn, *jax.tree.map(_abstract, (inputs, kwargs), is_leaf=is_compressed)
    return formed(walk.graph, components, leaves, choices=list(map(str, choices)), call=call)


def _argument(walk: Walk, shape: Sequence[int], name: str, weight: bool) -> Labelled:
    """Parameters are free, and zero where they are masked; of other arguments every axis stays."""
    value = walk.graph.value(shape, weight=weight, masked=0.0)
    if not weight:
        for labels in value.labels:
            walk.graph.pin(labels, f"an axis of the input {name}")
    return value


def _pin_results(walk: Walk, outs: Sequence[Labelled], out_shape: Any, state: str | Sequence[str] | None) -> None:
    entries, _ = jax.tree_util.tree_flatten_with_path(out_shape)
    paths = [path_string(keys) for keys, _ in entries]
    returned = [path for path in paths if state is not None and matches(path, state)]
    if state is not None and not returned:
        raise ValueError(f"groups: state={state!r} fits no result. The results are:\n  " + "\n  ".join(paths))
    for path, out in zip(paths, outs, strict=True):
        if path not in returned:
            for labels in out.labels:
                name = f"the result {path!r} (is it state? then state=)" if path else "the result"
                walk.graph.pin(labels, f"an axis of {name}")


def _abstract(leaf: Any) -> Any:
    is_array = hasattr(leaf, "shape") and hasattr(leaf, "dtype") and not is_compressed(leaf)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if is_array else leaf
