"""What `benchmarks.quantize_speed` times of qwix 0.1.8; runs in a process of its own."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import qwix
from qwix.contrib import awq, gptq, gptq_core, smooth_quant

from benchmarks import digits

warnings.filterwarnings("ignore", module="qwix")
W4 = {"weight_qtype": "int4", "tile_size": 32}
W8A8 = {"weight_qtype": "int8", "act_qtype": "int8"}
METHODS: dict[str, tuple[Any, ...]] = {
    "gptq": (gptq.GptqRule, gptq.GptqCalibrationProvider, gptq.quantize_params, qwix.PtqProvider, W4),
    "awq": (awq.AwqRule, awq.AwqCalibrationProvider, awq.quantize_params, awq.AwqInferenceProvider, W4),
    "smoothquant": (
        smooth_quant.SqRule,
        smooth_quant.SqCalibrationProvider,
        smooth_quant.quantize_params,
        smooth_quant.SqInferenceProvider,
        W8A8,
    ),
}


def run(method: str, model: digits.MLP, variables: Any, x: jax.Array) -> Callable[[], Any]:
    """Calibration and quantization, as its documentation has them."""
    rule, calibrating, quantize, _, settings = METHODS[method]

    def call() -> Any:
        rules = [rule(module_path="Dense.*", **settings)]
        _, seen = qwix.quantize_model(model, calibrating(rules)).apply(variables, x, mutable="quant_stats")
        target = qwix.quantize_model(model, qwix.PtqProvider(rules))
        shapes = jax.eval_shape(target.init, jax.random.key(0), x[:1])
        return jax.block_until_ready(quantize(variables["params"], shapes["params"], seen["quant_stats"]))

    return call


def logits(method: str, model: digits.MLP, quantized: Any, x: jax.Array) -> jax.Array:
    """What the quantized model says."""
    rule, _, _, serving, settings = METHODS[method]
    served = qwix.quantize_model(model, serving([rule(module_path="Dense.*", **settings)]))
    return jax.jit(served.apply)({"params": quantized}, x)


def gptq_matrix(weight: jax.Array, data: jax.Array) -> tuple[Callable[[], Any], Callable[[Any], jax.Array]]:
    """GPTQ of ``[outputs, features]`` given what its data's second moment is; and the dense result."""
    qarray = gptq_core.qarray
    how = qarray.HowToQuantize(qtype=jnp.int4, channelwise_axes=[0], tiled_axes={1: 32})
    hessian = data @ data.T / data.shape[1]
    quantize = lambda: jax.block_until_ready(gptq_core.quantize_weight(weight, hessian, how)[0])  # noqa: E731
    return quantize, qarray.dequantize
