"""The block of mobile networks: widen, filter each channel, weigh the channels, narrow."""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxcompress.search.spaces.costs import Cost, convolution, depthwise, whole


def inverted_residual(
    inputs: ArrayLike,
    inner: ArrayLike,
    outputs: ArrayLike,
    *,
    kernel: ArrayLike,
    positions_in: ArrayLike,
    positions_out: ArrayLike,
    squeezed: ArrayLike = 0,
) -> Cost:
    """What an inverted residual block costs.

    A 1x1 convolution to ``inner`` channels (left out where there are as many as come in: an expansion of one), a
    depthwise convolution, squeeze-and-excitation through ``squeezed`` channels, a 1x1 convolution to ``outputs``;
    normalization behind every convolution, biases in the squeeze-and-excitation.

    Args:
        inputs: channels. Everything may be traced and have any shapes that fit.
        inner: channels between the two 1x1 convolutions.
        outputs: channels.
        kernel: width of the depthwise window.
        positions_in: height times width before the depthwise convolution.
        positions_out: and behind it.
        squeezed: channels between the two layers of squeeze-and-excitation; 0 for none.

    References:
        Sandler et al., 2018, table 1. https://arxiv.org/abs/1801.04381
        Hu et al., 2018 (squeeze-and-excitation), figure 1. https://arxiv.org/abs/1709.01507
    """
    widen = convolution(inputs, inner, 1, positions_in).times(whole(inputs) != whole(inner))
    narrow = convolution(inner, outputs, 1, positions_out)
    squeeze = convolution(inner, squeezed, 1, 1, norm=False, bias=True)
    excite = convolution(squeezed, inner, 1, 1, norm=False, bias=True)
    weigh = (squeeze + excite).times(jnp.asarray(squeezed) > 0)
    return widen + depthwise(inner, whole(kernel) ** 2, positions_out) + weigh + narrow
