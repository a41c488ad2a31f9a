"""Bias correction: what rounding adds to the outputs on average is taken from the biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxcompress.core.mean_outputs import with_mean_outputs
from jaxcompress.core.moments import Statistics
from jaxcompress.core.paths import Where


def bias_correction(
    params: Any,
    quantized: Any,
    stats: Statistics,
    *,
    biases: Mapping[str, str] | None = None,
    where: Where = None,
) -> Any:
    """Adds to the biases what the outputs lost on average by rounding: ``b + E[x] (W - Wq)``.

    The mean output of every layer on the observed data is then that of the dense layer. Few-bit ranges that clip, and
    inputs that are not centred (behind a ReLU), shift it most.

    Args:
        params: the dense tree, from which ``quantized`` differs by rounding alone. Where a method has its scales
            absorbed (``symmetries=``), call `jaxcompress.quantize.smooth` first, and take that tree and its statistics.
        quantized: what a method made of it. Not changed.
        stats: of `jaxcompress.observe` of the dense model, with ``mean``.
        biases: path of the bias that is added to a weight's outputs, by the weight's path. By default the leaf
            ``bias``, ``b`` or ``offset`` beside it.
        where: weights to correct for; by default all that are observed and that ``quantized`` changed.

    Returns:
        ``quantized`` with other biases.

    Raises:
        ValueError: if a weight has no bias of the shape of its outputs (name it in ``biases``, or leave the weight out
            with ``where``), no weight was changed, or the weights hold NaN or infinity.

    Example:
        >>> params = {"kernel": jnp.array([[1.0], [0.25]]), "bias": jnp.zeros(1)}
        >>> fn = lambda p, x: x @ p["kernel"] + p["bias"][None]
        >>> stats = jc.observe(fn, params, [jnp.array([[1.0, 3.0], [3.0, 5.0]])])
        >>> quantized = jc.quantize.rtn(params, bits=2, where="kernel")
        >>> bias_correction(params, quantized, stats)["bias"].tolist()
        [1.0]

    References:
        Nagel et al., 2019, section 4.2. https://arxiv.org/abs/1906.04721
    """
    return with_mean_outputs(
        params, quantized, stats, biases=biases, where=where, method="bias_correction", argument="quantized"
    )
