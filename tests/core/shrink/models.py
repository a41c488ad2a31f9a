"""Models of the shrink tests: functions, parameters, inputs, and keeps written by hand."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tests.zoo import llama as zoo
from tests.zoo.model import data, fill, ids


def kept(*entries):
    """``(path, axis, indices)`` rows as a keep dict."""
    return {(path, axis): np.asarray(indices, np.int64) for path, axis, indices in entries}


def linen(module, *inputs, **kwargs):
    """``(fn, variables, inputs, kwargs)`` of a Linen module."""
    init = {name: value for name, value in kwargs.items() if name not in ("mutable", "rngs")}
    shapes = jax.eval_shape(functools.partial(module.init, **init), jax.random.key(0), *inputs)
    return module.apply, fill(shapes), inputs, kwargs


def strided(indices, inner, count):
    """Flat positions of kept channels after the spatial axes were flattened in front: ``count`` places of ``inner``."""
    return np.concatenate([place * inner + np.asarray(indices) for place in range(count)])


class LeNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.pooling.pool(nn.tanh(nn.Conv(6, (5, 5))(x)), 0.0, jax.lax.add, (2, 2), (2, 2), "VALID")
        x = nn.max_pool(nn.relu(nn.Conv(8, (3, 3))(x)), (2, 2), (2, 2))
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(12)(x))
        return nn.log_softmax(nn.Dense(5)(x))


def lenet():
    c0, c1, d0 = [0, 2, 3, 5], [1, 2, 6], [0, 3, 4, 5, 9, 11]
    return *linen(LeNet(), data(2, 8, 8, 1)), kept(
        ("params/Conv_0/kernel", 3, c0), ("params/Conv_0/bias", 0, c0), ("params/Conv_1/kernel", 2, c0),
        ("params/Conv_1/kernel", 3, c1), ("params/Conv_1/bias", 0, c1), ("params/Dense_0/kernel", 0, strided(c1, 8, 4)),
        ("params/Dense_0/kernel", 1, d0), ("params/Dense_0/bias", 0, d0), ("params/Dense_1/kernel", 0, d0),
    )  # fmt: skip


class Residual(nn.Module):
    """Two blocks around a stream of 8 channels, whose first block keeps it and whose second one halves it."""

    train: bool

    @nn.compact
    def __call__(self, x):
        norm = functools.partial(nn.BatchNorm, use_running_average=not self.train)
        x = nn.relu(norm()(nn.Conv(8, (3, 3), use_bias=False)(x)))
        y = nn.relu(norm()(nn.Conv(6, (3, 3), use_bias=False)(x)))
        x = nn.relu(x + norm()(nn.Conv(8, (3, 3), use_bias=False)(y)))
        return nn.Dense(4)(x.mean((1, 2)))


def residual(train=False):
    stream, inner = [0, 1, 4, 6, 7], [2, 3, 5]
    rows = []
    for index, own in ((0, stream), (1, inner), (2, stream)):
        norm = f"BatchNorm_{index}"
        rows += [(f"params/Conv_{index}/kernel", 3, own), (f"params/{norm}/scale", 0, own)]
        rows += [(f"params/{norm}/bias", 0, own)]
        rows += [(f"batch_stats/{norm}/{name}", 0, own) for name in ("mean", "var")]
    rows += [
        ("params/Conv_1/kernel", 2, stream),
        ("params/Conv_2/kernel", 2, inner),
        ("params/Dense_0/kernel", 0, stream),
    ]
    kwargs = {"mutable": ["batch_stats"]} if train else {}
    return *linen(Residual(train), data(3, 6, 6, 3), **kwargs), kept(*rows)


class Separable(nn.Module):
    """Depthwise, grouped and pointwise convolutions, squeeze and excitation, a join."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(8, (1, 1))(x))
        y = nn.Conv(8, (3, 3), feature_group_count=8, use_bias=False)(x)
        squeezed = nn.relu(nn.Dense(4)(y.mean((1, 2))))
        y = y * nn.sigmoid(nn.Dense(8)(squeezed))[:, None, None, :]
        y = nn.Conv(12, (3, 3), feature_group_count=4)(y)
        z = jnp.concatenate([y, nn.relu(x), jnp.ones((*x.shape[:3], 2), x.dtype)], -1)
        return nn.Conv(3, (1, 1))(z)


def separable():
    wide, squeezed, groups = [0, 1, 4, 5, 6, 7], [1, 3], [0, 1, 2, 6, 7, 8, 9, 10, 11]  # groups 0, 2, 3 of the third
    return *linen(Separable(), data(2, 5, 5, 3)), kept(
        ("params/Conv_0/kernel", 3, wide), ("params/Conv_0/bias", 0, wide), ("params/Conv_1/kernel", 3, wide),
        ("params/Dense_0/kernel", 0, wide), ("params/Dense_0/kernel", 1, squeezed),
        ("params/Dense_0/bias", 0, squeezed),
        ("params/Dense_1/kernel", 0, squeezed), ("params/Dense_1/kernel", 1, wide), ("params/Dense_1/bias", 0, wide),
        ("params/Conv_2/kernel", 3, groups), ("params/Conv_2/bias", 0, groups),
        ("params/Conv_3/kernel", 2, [*groups, *(12 + i for i in wide), 20, 21]),
    )  # fmt: skip


def recurrent(cell, gates):
    units, hidden = [0, 2, 3, 7, 8], []
    for prefix in "ih":
        for gate in gates:
            hidden += [(f"params/cell/{prefix}{gate}/kernel", 1, units)]
            hidden += [(f"params/cell/{prefix}{gate}/kernel", 0, units)] if prefix == "h" else []
    fn, variables, inputs, _ = linen(nn.RNN(cell(9)), data(2, 4, 3))
    biases = [path for path in variables["params"]["cell"] if "bias" in variables["params"]["cell"][path]]
    hidden += [(f"params/cell/{name}/bias", 0, units) for name in biases]
    params = {**variables, "head": data(9, 2, seed=5)}

    def with_head(params, x):
        return fn({"params": params["params"]}, x) @ params["head"]

    return with_head, params, inputs, {}, kept(*hidden, ("head", 0, units))


class Block(nn.Module):
    """Pre-norm attention over 4 heads of 3, and an MLP."""

    @nn.compact
    def __call__(self, x, _):
        h = nn.RMSNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(4, qkv_features=12)(h, h)
        h = nn.gelu(nn.Dense(10)(nn.RMSNorm()(x)))
        return x + nn.Dense(8)(h), None


class Transformer(nn.Module):
    """Tied embedding, scanned and rematerialized blocks."""

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(11, 8)
        block = nn.scan(nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
        x, _ = block()(embed(tokens), None)
        return embed.attend(nn.RMSNorm()(x))


def transformer():
    """Heads, the MLP's width, and the stream (RMSNorm divides by the dense width, so it may shrink)."""
    heads, mlp, stream, inside = [0, 3], [1, 2, 4, 8, 9], [0, 2, 3, 5, 7], "params/ScanCheckpointBlock_0"
    attention = f"{inside}/MultiHeadDotProductAttention_0"
    rows = [("params/Embed_0/embedding", 1, stream), ("params/RMSNorm_0/scale", 0, stream)]
    for name in ("query", "key", "value"):
        rows += [(f"{attention}/{name}/kernel", 1, stream), (f"{attention}/{name}/kernel", 2, heads)]
        rows += [(f"{attention}/{name}/bias", 1, heads)]
    rows += [(f"{attention}/out/kernel", 1, heads), (f"{attention}/out/kernel", 3, stream)]
    rows += [(f"{attention}/out/bias", 1, stream)]
    rows += [(f"{inside}/RMSNorm_{i}/scale", 1, stream) for i in range(2)]
    rows += [(f"{inside}/Dense_0/kernel", 1, stream), (f"{inside}/Dense_0/kernel", 2, mlp)]
    rows += [(f"{inside}/Dense_0/bias", 1, mlp), (f"{inside}/Dense_1/kernel", 1, mlp)]
    rows += [(f"{inside}/Dense_1/kernel", 2, stream), (f"{inside}/Dense_1/bias", 1, stream)]
    return *linen(Transformer(), ids(2, 5, below=11)), kept(*rows)


def llama():
    """Fused projections, RoPE, grouped query attention and SwiGLU: key head 1 with its two query heads, some width."""
    _, params = zoo.random()
    rows = np.arange(16)
    query, key, hidden = rows[8:], np.arange(4, 8), [0, 3, 5, 6, 7, 11, 20]
    fn = functools.partial(zoo.apply, heads=4, kv_heads=2)
    return fn, params, (ids(2, 5, below=20),), {}, kept(
        ("wq", 1, query), ("wk", 1, key), ("wv", 1, key), ("wo", 2, query),
        ("w1", 1, hidden), ("w3", 1, hidden), ("w2", 2, hidden),
    )  # fmt: skip


MODELS = {
    "lenet": lenet,
    "residual": residual,
    "residual_train": functools.partial(residual, True),
    "separable": separable,
    "lstm": functools.partial(recurrent, nn.LSTMCell, "ifgo"),
    "optimized_lstm": functools.partial(recurrent, nn.OptimizedLSTMCell, "ifgo"),
    "gru": functools.partial(recurrent, nn.GRUCell, "rzn"),
    "transformer": transformer,
    "llama": llama,
}
