"""What blocks of images compute, masked to a candidate's channels or at its own size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxcompress.search.cells.operations import batch_norm, convolve, max_pool

Params = dict[str, Any]


def unit(
    layer: Params, x: jax.Array, *, stride: int = 1, dilation: int = 1, mask: jax.Array | None = None
) -> jax.Array:
    """Convolution, normalization with scale and offset, ReLU: ``[batch, height, width, channels]``, as `convolve`.

    Of the channels in ``mask`` (1 or 0, ``[channels]``) only, where it is given.
    """
    y = batch_norm(convolve(x, layer["kernel"], stride, dilation))
    y = jax.nn.relu(y * layer["scale"][None, None, None, :] + layer["offset"][None, None, None, :])
    return y if mask is None else y * mask[None, None, None, :]


def beside(
    layers: Params, x: jax.Array, stride: int, masks: Mapping[str, Any], inner: Mapping[str, Any]
) -> list[jax.Array]:
    """What the branches of an Inception block that there are put out: ``[batch, height, width, channels]`` each.

    ``masks`` are the channels of a branch, ``inner`` those between its two layers, as for `unit`.
    """
    found = [unit(layers["one"], x, stride=stride, mask=masks["one"])] if "one" in layers else []
    for name in ("three", "five"):
        if name in layers:
            y = unit(layers[f"before_{name}"], x, mask=inner[name])
            found.append(unit(layers[name], y, stride=stride, mask=masks[name]))
    return found + ([unit(layers["pool"], max_pool(x), stride=stride, mask=masks["pool"])] if "pool" in layers else [])


def alone(blocks: Sequence[Sequence[Mapping[str, Any]]], params: Params, images: jax.Array) -> jax.Array:
    """Logits ``[batch, classes]`` of a candidate on its own; ``blocks`` are those of its config."""
    x = unit(params["stem"], images)
    for number, (kinds, stage) in enumerate(zip(blocks, params["stages"], strict=True)):
        for place, (own, layers) in enumerate(zip(kinds, stage, strict=True)):
            stride = 2 if number and not place else 1
            if own["kind"] == "inception":
                nothing: dict[str, Any] = dict.fromkeys(("one", "three", "five", "pool"))
                x = jnp.concatenate(beside(layers, x, stride, nothing, nothing), axis=-1)
                continue
            y = unit(layers["first"], x, stride=stride, dilation=own.get("dilation", 1))
            if own["kind"] == "residual":
                y = unit(layers["second"], y)
                y = y + (unit(layers["shortcut"], x, stride=stride) if "shortcut" in layers else x)
            x = y
    return classified(params["head"], x)


def classified(head: Params, x: jax.Array) -> jax.Array:
    """The mean over the image, then a dense layer."""
    return x.mean((1, 2)) @ head["kernel"] + head["bias"][None, :]
