"""What `benchmarks.quantize_speed` times of jaxcompress; runs in a process of its own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import jaxcompress as jc
from benchmarks import digits

GPTQ = {"bits": 4, "group_size": 32, "ranges": "absmax"}  # the ranges of qwix; by default ours are clipped
METHODS: dict[str, tuple[tuple[str, ...], Callable[..., Any]]] = {
    "gptq": (("second_moment",), functools.partial(jc.quantize.gptq, **GPTQ)),
    "awq": (("second_moment", "mean_abs"), functools.partial(jc.quantize.awq, bits=4, group_size=32)),
    "smoothquant": (("absmax",), functools.partial(jc.quantize.smoothquant, bits=8, activation_bits=8)),
}


def run(method: str, model: digits.MLP, variables: Any, x: jax.Array) -> Callable[[], Any]:
    """Calibration and quantization, as a user calls them."""
    what, quantize = METHODS[method]
    return lambda: jax.block_until_ready(quantize(variables, jc.observe(model.apply, variables, [x], what=what)))


def logits(method: str, model: digits.MLP, quantized: Any, x: jax.Array) -> jax.Array:
    """What the quantized model says."""
    del method
    return jax.jit(jc.lift(model.apply))(quantized, x)


def gptq_matrix(weight: jax.Array, data: jax.Array) -> tuple[Callable[[], Any], Callable[[Any], jax.Array]]:
    """GPTQ of ``[outputs, features]`` given what its data's second moment is; and the dense result."""
    params = {"w": weight.T}
    stats = jc.observe(lambda p, x: x @ p["w"], params, [data.T], what="second_moment")
    quantize = functools.partial(jc.quantize.gptq, **GPTQ)
    return lambda: jax.block_until_ready(quantize(params, stats)), lambda out: jnp.asarray(out["w"].materialize()).T
