"""What XLA counts in a program: a cheap estimate of its cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr


@dataclasses.dataclass(frozen=True)
class Cost:
    """XLA's counts for one call.

    Attributes:
        flops: floating-point operations, a multiply-add counting two.
        bytes: read and written by all operations together, caches not considered.
    """

    flops: float
    bytes: float

    def roofline_ms(self, *, flops_per_second: float, bytes_per_second: float) -> float:
        """Milliseconds that a machine of these peaks needs at least: for arithmetic or for memory, whichever is longer.

        Example:
            >>> Cost(flops=2e9, bytes=1e9).roofline_ms(flops_per_second=1e12, bytes_per_second=1e11)
            10.0

        References:
            Williams et al., Roofline: an insightful visual performance model, 2009.
        """
        return 1e3 * max(self.flops / flops_per_second, self.bytes / bytes_per_second)


def cost(fn: Callable[..., Any], *args: Any, optimized: bool = False) -> Cost:
    """Flops and bytes of ``fn(*args)``, as XLA's cost analysis has them; nothing runs.

    Operations, not time: how well they agree with the time of the candidates is for `agreement` to say.

    Args:
        fn: a function that ``jit`` accepts.
        *args: its arguments: trees of arrays or of `jax.ShapeDtypeStruct`.
        optimized: compile first, and count what is left then (fusion saves bytes); by default the program as it was
            lowered is counted, in milliseconds.

    Raises:
        ValueError: if the program has a ``scan`` or ``while`` loop: XLA counts the body of one once, however often it
            runs; or if the backend counts nothing.

    Example:
        >>> found = cost(lambda w, x: x @ w, jnp.ones((8, 16)), jnp.ones((4, 8)))
        >>> found.flops == 2 * 4 * 8 * 16
        True
    """
    traced = jax.jit(fn).trace(*args)
    loops = sorted(set(_loops(traced.jaxpr)))
    if loops:
        raise ValueError(
            f"cost: the program has loops ({', '.join(loops)}), whose bodies XLA counts once, however often they run. "
            "Count one step and multiply, unroll the loop, or measure: hardware.latency_ms(fn, *args)"
        )
    lowered = traced.lower()
    counted = (lowered.compile() if optimized else lowered).cost_analysis()
    if not counted or "flops" not in counted:
        raise ValueError(
            f"cost: XLA's cost analysis gave {counted!r} on {jax.default_backend()!r}; measure: hardware.latency_ms"
        )
    return Cost(float(counted["flops"]), float(counted.get("bytes accessed", 0.0)))


def _loops(jaxpr: Any) -> Iterator[str]:
    jaxpr = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
    for eqn in jaxpr.eqns:
        once = eqn.primitive.name == "scan" and eqn.params["length"] == 1
        if eqn.primitive.name in ("scan", "while") and not once:
            yield eqn.primitive.name
        for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            if isinstance(value, ClosedJaxpr) or hasattr(value, "eqns"):
                yield from _loops(value)
