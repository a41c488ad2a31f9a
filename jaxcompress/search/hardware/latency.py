"""How long compiled candidates really take."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import jax
from jax.core import Tracer

from jaxcompress.core.timing import filled, interleaved_ms

Call = tuple[Callable[..., Any], Sequence[Any]]
K = TypeVar("K", bound=Hashable)


def latency_ms(fn: Callable[..., Any], *args: Any, samples: int = 11) -> float:
    """Milliseconds of ``fn(*args)``: compiled, warm, awaited, the median of samples of at least 5 ms.

    A measurement cannot be traced: an ``evaluate`` that measures is marked with `jaxcompress.search.python`.

    Args:
        fn: a function that ``jit`` accepts.
        *args: its arguments: trees of arrays, or of `jax.ShapeDtypeStruct` that are filled with zeros. Weights belong
            among them: what ``fn`` closes over is a constant of the program, which XLA may fold away.
        samples: of which the median is taken.

    Returns:
        Milliseconds on the default device.

    Raises:
        ValueError: if an argument is traced, or ``samples`` is below 1.

    Example:
        >>> latency_ms(lambda w, x: x @ w, jnp.ones((8, 8)), jax.ShapeDtypeStruct((4, 8), jnp.float32)) > 0
        True
    """
    return latencies_ms({"fn": (fn, args)}, samples=samples)["fn"]


def latencies_ms(candidates: Mapping[K, Call], *, samples: int = 11) -> dict[K, float]:
    """Milliseconds of several candidates, measured in turn: a busy moment of the machine meets all of them.

    Args:
        candidates: ``{name: (fn, args)}``, as `latency_ms` takes them.
        samples: of each.

    Returns:
        ``{name: milliseconds}``.

    Raises:
        ValueError: if there are no candidates, an argument is traced, or ``samples`` is below 1.

    Example:
        >>> x = jnp.ones((256, 256))
        >>> found = latencies_ms({"one": (jnp.sum, (x,)), "three": (lambda x: x @ x @ x @ x, (x,))}, samples=3)
        >>> found["one"] < found["three"]
        True
    """
    if not candidates:
        raise ValueError("latencies_ms: candidates= is empty, so there is nothing to measure")
    calls = [_call(name, fn, args) for name, (fn, args) in candidates.items()]
    return dict(zip(candidates, interleaved_ms(calls, samples=samples), strict=True))


def _call(name: Hashable, fn: Callable[..., Any], args: Sequence[Any]) -> Callable[[], Any]:
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(args)):
        raise ValueError(
            f"latency of {name!r}: an argument is traced, and time passes only when a program runs. Measure outside of "
            "jit (mark the evaluation with jaxcompress.search.python), or sum a table: hardware.latency_table(...)"
        )
    ready = jax.tree.map(filled, tuple(args))
    compiled = jax.jit(fn).lower(*ready).compile()
    return lambda: compiled(*ready)
