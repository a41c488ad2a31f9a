"""The networks that configs of image blocks and texts stand for, in Flax: what costs are held against."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

import jaxcompress as jc


def convolution(x, width, kernel, stride=1, dilation=1, *, train):
    x = nn.Conv(width, (kernel, kernel), strides=stride, kernel_dilation=dilation, use_bias=False)(x)
    return nn.relu(nn.BatchNorm(use_running_average=not train)(x))


def block(conv, x, config, width, stride):
    if config["kind"] == "plain":
        return conv(x, width, config["kernel"], stride)
    if config["kind"] == "dilated":
        return conv(x, width, 3, stride, config["dilation"])
    if config["kind"] == "residual":
        y = conv(conv(x, width, config["kernel"], stride), width, config["kernel"])
        return y + (conv(x, width, 1, stride) if x.shape != y.shape else x)
    one, three, five, pool = (width * eighths // 8 for eighths in config["split"])
    branches = [conv(x, one, 1, stride)] if one else []
    branches += [conv(conv(x, three // 2, 1), three, 3, stride)] if three else []
    branches += [conv(conv(x, five // 2, 1), five, 5, stride)] if five else []
    branches += [conv(nn.max_pool(x, (3, 3), padding="SAME"), pool, 1, stride)] if pool else []
    return jnp.concatenate(branches, axis=-1)


class Images(nn.Module):
    config: dict
    classes: int
    train: bool = False

    @nn.compact
    def __call__(self, x):
        conv = functools.partial(convolution, train=self.train)
        stages = self.config["stages"]
        x = conv(x, stages[0]["width"], 3)
        for i, stage in enumerate(stages):
            for j, one in enumerate(stage["blocks"]):
                x = block(conv, x, one, stage["width"], 2 if i and not j else 1)
        return nn.Dense(self.classes)(x.mean((1, 2)))


class Texts(nn.Module):
    config: dict
    vocabulary: int
    classes: int

    @nn.compact
    def __call__(self, words):
        x = nn.Embed(self.vocabulary, self.config["embedding"])(words)
        if self.config["kind"] == "cnn":
            return nn.Dense(self.classes)(self.convolved(x, self.config["convolutional"]))
        own = self.config["recurrent"]
        kind = nn.OptimizedLSTMCell if self.config["kind"] == "lstm" else nn.GRUCell
        for _ in range(own["layers"]):
            forward = nn.RNN(kind(own["units"]))
            x = nn.Bidirectional(forward, nn.RNN(kind(own["units"])))(x) if own["both"] else forward(x)
        return nn.Dense(self.classes)(x[:, -1])

    def convolved(self, x, own):
        branches = []
        for window in own["windows"]:
            y = x
            for _ in range(own["layers"]):
                y = nn.relu(nn.Conv(own["filters"], (window,))(y))
            branches.append(y.max(1))
        return jnp.concatenate(branches, axis=-1)


def counted(module, x):
    """Parameters, and the FLOPs that the sites of one example do."""
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    return parameters, 2 * sum(site.macs for site in jc.sites(module.apply, variables, x))
