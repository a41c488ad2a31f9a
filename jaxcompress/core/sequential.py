"""Layer after layer: every weight is fitted to the data that the compressed layers before it let through."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from jaxcompress.core.depth import weight_depths
from jaxcompress.core.observe import Observations, Observer
from jaxcompress.core.paths import Where, matches
from jaxcompress.core.sites import Sites, sites
from jaxcompress.core.tree import materialize

Method = Callable[[Any, Any], Any]
Order = Literal["depth", "together"] | Sequence[str | Sequence[str]]


def sequential(
    fn: Callable[..., Any],
    params: Any,
    batches: Iterable[Any],
    method: Method,
    *,
    order: Order = "depth",
    where: Where = None,
    what: str | Sequence[str] = "second_moment",
    inputs: Callable[[Any], tuple[Any, ...]] | None = None,
    **kwargs: Any,
) -> Any:
    """Observes and compresses in turns, so that each layer is fitted to what the compressed layers before it produce.

    One pass over the data per turn; weights of one turn are fitted to the same statistics. Every pass observes all
    chosen weights, with dense copies of what is compressed already: one compiled program for all turns. The layers
    of a stack, scanned or indexed, are one leaf and so one turn: to fit one after the other, hold each as a leaf of its
    own.

    Args:
        fn: a function that ``jit`` accepts.
        params: its first argument; leaves may be compressed. Not changed.
        batches: calibration data; iterated once per turn (a list, not an iterator).
        method: ``(params, stats) -> params``, such as ``functools.partial(jc.prune.sparsegpt, sparsity=0.5)``. The
            ``stats`` of a turn hold the weights of that turn alone, and by default a method takes what they hold.
        order: ``"depth"``: weights that never feed each other go together (the query, key and value projections of one
            layer, say), after all that come before them. ``"together"``: all in one turn. Or a list of globs, or of
            lists of globs: one turn each.
        where: which weights: globs over paths or a predicate ``(path, site)``; by default all that are contracted.
        what: the statistics that ``method`` needs, see `jaxcompress.observe`.
        inputs: turns a batch into the arguments after ``params``, as for `jaxcompress.observe`.
        **kwargs: keyword arguments of ``fn``.

    Returns:
        What ``method`` made of ``params`` after the last turn.

    Raises:
        ValueError: if there is no batch or ``batches`` can be iterated only once; if ``where``, or a turn of ``order``,
            fits no contracted weight; and what `jaxcompress.observe` and ``method`` raise.

    Example:
        >>> import functools
        >>> params = {"a": jnp.eye(2), "b": jnp.ones((2, 2))}
        >>> fn = lambda p, x: x @ p["a"] @ p["b"]
        >>> half = functools.partial(jc.prune.wanda, sparsity=0.5)
        >>> pruned = sequential(fn, params, [jnp.array([[1.0, 2.0]])], half)
        >>> pruned["b"].materialize().tolist()
        [[0.0, 0.0], [1.0, 1.0]]

    References:
        Frantar and Alistarh, 2023, section 3.4. https://arxiv.org/abs/2301.00774
    """
    if iter(batches) is batches:
        raise ValueError("sequential: batches= is iterated once per turn: give a list, not an iterator")
    spread = inputs or (lambda batch: batch if isinstance(batch, tuple) else (batch,))
    for batch in batches:
        args = spread(batch)
        break
    else:
        raise ValueError("sequential: batches= gave no batch; there is nothing to observe")
    chosen = _chosen(sites(fn, params, *args, **kwargs), where)
    if order == "depth":
        turns = _by_depth(chosen, weight_depths(fn, params, *args, **kwargs))
    elif order == "together":
        turns = [chosen]
    elif isinstance(order, str):
        raise ValueError(f"sequential: order must be 'depth', 'together' or a list of globs, got {order!r}")
    else:
        turns = [_fitting(chosen, globs) for globs in order]
    every = frozenset(path for turn in turns for path in turn)
    watch = Observer(fn, what=what, inputs=inputs, where=lambda path, site: path in every, **kwargs)
    for turn in turns:
        found = watch(materialize(params), batches)
        params = method(params, Observations([entry for path in turn for entry in found[path]]))
    return params


def _chosen(found: Sites, where: Where) -> list[str]:
    contracted = {site.path for site in found if site.contracting}
    weights = [path for path in found.weights() if path in contracted]
    if callable(where):
        chosen = [path for path in weights if where(path, found.at(path)[0])]
    else:
        chosen = weights if where is None else [path for path in weights if matches(path, where)]
    if not chosen:
        raise ValueError(
            f"sequential: where={where!r} fits no contracted weight. There are:\n  " + "\n  ".join(weights)
        )
    return chosen


def _by_depth(chosen: list[str], depths: dict[str, int]) -> list[list[str]]:
    turns: dict[int, list[str]] = {}
    for path in chosen:
        turns.setdefault(depths.get(path, 0), []).append(path)
    return [turns[depth] for depth in sorted(turns)]


def _fitting(chosen: list[str], globs: str | Sequence[str]) -> list[str]:
    turn = [path for path in chosen if matches(path, globs)]
    if not turn:
        raise ValueError(f"sequential: the turn {globs!r} of order= fits no chosen weight. They are: {chosen}")
    return turn
