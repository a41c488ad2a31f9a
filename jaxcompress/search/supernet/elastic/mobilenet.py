"""The networks of the `MobileNet` space, in one elastic module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from jaxcompress.search.spaces import MobileNet
from jaxcompress.search.spaces.costs import divisible
from jaxcompress.search.supernet.elastic.convolution import ElasticConv
from jaxcompress.search.supernet.elastic.dense import ElasticDense
from jaxcompress.search.supernet.elastic.depth import ElasticDepth
from jaxcompress.search.supernet.elastic.layer import Choice, is_static
from jaxcompress.search.supernet.elastic.norm import ElasticBatchNorm

Activation = Callable[[jax.Array], jax.Array]


class ElasticInvertedResidual(nn.Module):
    """Widen, filter each channel, weigh the channels, narrow; added to the input where shapes stay.

    Attributes:
        inner: channels between the two 1x1 convolutions, at most; the first of these is left out where ``widen`` is
            False.
        outputs: channels, at most.
        kernels: of the depthwise convolution.
        stride: of the depthwise convolution.
        squeezed: channels within squeeze-and-excitation, at most; 0 for none.
        widen: whether there is an expansion.
        residual: whether the input is added.
        activation: behind all convolutions but the last.
        train: whether batch normalizations are in training mode.

    References:
        Sandler et al., 2018. https://arxiv.org/abs/1801.04381; Howard et al., 2019, section 5.3 (squeeze-and-excite).
        https://arxiv.org/abs/1905.02244
    """

    inner: int
    outputs: int
    kernels: tuple[int, ...] = (3,)
    stride: int = 1
    squeezed: int = 0
    widen: bool = True
    residual: bool = False
    activation: Activation = nn.hard_swish
    train: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, inner: Choice, outputs: Choice, kernel: Choice = None) -> jax.Array:
        """Applies the block.

        Args:
            x: ``[batch, height, width, channels]``.
            inner: channels, as the widths of elastic layers.
            outputs: likewise.
            kernel: the kernel size, likewise.
        """
        y = x
        if self.widen:
            y = self._normed(ElasticConv(self.inner, (1,), use_bias=False, name="widen")(y, inner), inner, "widen_norm")
            y = self.activation(y)
        filters = ElasticConv(self.inner, self.kernels, self.stride, depthwise=True, use_bias=False, name="depthwise")
        y = self.activation(self._normed(filters(y, inner, kernel), inner, "depthwise_norm"))
        if self.squeezed:
            y = y * self._weights(y, inner)[:, None, None, :]
        y = ElasticConv(self.outputs, (1,), use_bias=False, name="narrow")(y, outputs)
        y = self._normed(y, outputs, "narrow_norm")
        return x + y if self.residual else y

    def _weights(self, y: jax.Array, inner: Choice) -> jax.Array:
        """Squeeze-and-excitation: a weight of every channel ``[batch, channels]``."""
        small = ElasticDense(self.squeezed, name="squeeze")(y.mean((1, 2)), squeezed_channels(inner))
        return nn.hard_sigmoid(ElasticDense(self.inner, name="excite")(nn.relu(small), inner))

    def _normed(self, y: jax.Array, width: Choice, name: str) -> jax.Array:
        return ElasticBatchNorm(use_running_average=not self.train, name=name)(y, width)


class ElasticMobileNet(nn.Module):
    """The once-for-all network of a `MobileNet` space: all of its candidates share these weights.

    What a candidate costs is what ``family.costs`` says: for images of three channels, parameters and FLOPs of the
    network that `extract` cuts out are the same numbers. As in MobileNetV3 the first block and the first stages have
    ReLU and the rest hard swish. A block is added to its input where its stride is 1 and the space names as many
    channels before it as behind it.

    The resolution is that of the images: hand each candidate images of its ``resolution``, in one program for each
    size (a runtime array cannot change shapes); a space with one resolution has one program.

    Attributes:
        family: the space; expansions above 1, depths of at least 1.
        rectified: how many stages, besides the first block, have ReLU.
        train: whether batch normalizations are in training mode (then apply with ``mutable=["batch_stats"]``).

    Raises:
        ValueError: for a family with an expansion of 1 beside others, or a depth of 0; in the network of a static
            genome for images of another resolution than its.

    Example:
        >>> from jaxcompress.search.spaces import MobileNet, Stage
        >>> from jaxcompress.search.supernet.elastic import ElasticNetwork
        >>> family = MobileNet(classes=10, stages=(Stage(16), Stage(24)), depths=(1, 2), resolutions=(32,), last=64,
        ...                    features=None)
        >>> net, images = ElasticNetwork(ElasticMobileNet(family), family.space()), jnp.ones((1, 32, 32, 3))
        >>> variables = net.init(jax.random.key(0), images)
        >>> small = net.extract(variables, net.smallest, images)
        >>> sum(leaf.size for leaf in jax.tree.leaves(small.params["params"]))
        8026
        >>> int(family.costs(net.space.decode(net.smallest)).parameters)
        8026

    References:
        Cai et al., 2020, section 3.1 and appendix A. https://arxiv.org/abs/1908.09791
        Howard et al., 2019, table 1. https://arxiv.org/abs/1905.02244
    """

    family: MobileNet
    rectified: int = 2
    train: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, genome: Any) -> jax.Array:
        """Logits ``[batch, classes]``.

        Args:
            x: images ``[batch, height, width, channels]``.
            genome: decoded, of ``family.space()``: arrays, or static as `plain` makes it.
        """
        family = self.family
        self._check(x, genome)
        most, width = max(family.widths), genome["width"]
        stem, first = self._channels(family.stem), self._channels(family.first)
        x = nn.hard_swish(self._convolved(x, "stem", stem(most), stem(width), size=3, stride=2))
        x = self._block("first", stem(most), first(most), (3,), activation=nn.relu, widen=False,
                        residual=family.stem == family.first)(x, stem(width), first(width))  # fmt: skip
        before = family.first
        for number, stage in enumerate(family.stages):
            for i in range(max(family.depths)):
                x = self._applied(x, genome, number, i, before)
                before = stage.width
        last = self._channels(family.last)
        x = nn.hard_swish(self._convolved(x, "last", last(most), last(width))).mean((1, 2))
        if family.features is not None:
            features = self._channels(family.features)
            x = nn.hard_swish(ElasticDense(features(most), use_bias=False, name="features")(x, features(width)))
        return ElasticDense(family.classes, name="classifier")(x)

    def _applied(self, x: jax.Array, genome: Any, number: int, i: int, before: int) -> jax.Array:
        """A block of a stage, where the stage is that deep; ``before`` are the channels the space names before it."""
        family, stage, own = self.family, self.family.stages[number], genome["stages"]["blocks"]
        most, width = max(family.widths), genome["width"]
        inputs, outputs = self._channels(before), self._channels(stage.width)
        inner = rounded(inputs(most) * max(family.expansions))
        block = self._block(
            f"stage_{number}_block_{i}",
            inner,
            outputs(most),
            family.kernels,
            stride=stage.stride if i == 0 else 1,
            squeezed=squeezed_channels(inner) if stage.squeeze else 0,
            widen=max(family.expansions) > 1,
            residual=i > 0 or (stage.stride == 1 and before == stage.width),
            activation=nn.relu if number < self.rectified else nn.hard_swish,
        )
        chosen = rounded(inputs(width) * own["expansion"][number][i])
        given = (chosen, outputs(width), own["kernel"][number][i])
        return block(x, *given) if i == 0 else ElasticDepth(block)(x, i < own["count"][number], *given)

    def _block(self, name: str, inner: int, outputs: int, kernels: tuple[int, ...], **options: Any) -> nn.Module:
        return ElasticInvertedResidual(inner, outputs, kernels, train=self.train, name=name, **options)

    def _convolved(
        self, x: jax.Array, name: str, most: int, width: Choice, *, size: int = 1, stride: int = 1
    ) -> jax.Array:
        x = ElasticConv(most, (size,), stride, use_bias=False, name=name)(x, width)
        return ElasticBatchNorm(use_running_average=not self.train, name=f"{name}_norm")(x, width)

    @staticmethod
    def _channels(base: int) -> Callable[[Any], Any]:
        """From a width multiplier to channels, in the arithmetic of ``MobileNet.costs``."""
        return lambda width: rounded(base * (np.float32(width) if isinstance(width, float) else width))

    def _check(self, x: jax.Array, genome: Any) -> None:
        family, side = self.family, genome["resolution"]
        if min(family.depths) < 1:
            raise ValueError(f"ElasticMobileNet: depths={family.depths}; the first block of a stage is always there")
        if min(family.expansions) == 1 and len(family.expansions) > 1:
            raise ValueError(
                f"ElasticMobileNet: expansions={family.expansions}; a block of expansion 1 has no first convolution, "
                "so it shares no network with others"
            )
        if is_static(side) and not self.is_initializing() and x.shape[1:3] != (side, side):
            raise ValueError(f"ElasticMobileNet: images of {x.shape[1:3]}, where the genome has resolution={side}")


def squeezed_channels(inner: Any) -> Any:
    """Channels within squeeze-and-excitation: a quarter, rounded."""
    return rounded(inner // 4)


def rounded(width: Any) -> Any:
    """`divisible` of a Python or NumPy number as an int, of an array as an array."""
    if isinstance(width, jax.Array):
        return divisible(width)
    with jax.ensure_compile_time_eval():
        return int(divisible(width))
