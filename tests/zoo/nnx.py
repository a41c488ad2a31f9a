"""Flax NNX modules: the parameters are the state, the graph definition is closed over."""

import functools

from flax import nnx

from tests.zoo.model import data, entry, fill, ids


class CNN(nnx.Module):
    """Convolution, batch norm, a head."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(8, use_running_average=True, rngs=rngs)
        self.head = nnx.Linear(8 * 6 * 6, 5, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x)))
        return self.head(x.reshape(x.shape[0], -1))


class ScanStack(nnx.Module):
    """Layers made by `nnx.vmap`, run by `nnx.scan`."""

    def __init__(self, rngs):
        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def make(rngs):
            return nnx.Linear(12, 12, rngs=rngs)

        self.layers = make(rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def run(x, layer):
            return nnx.tanh(layer(x))

        return run(x, self.layers)


class Transformer(nnx.Module):
    """One pre-norm block over tokens."""

    def __init__(self, rngs):
        self.embed = nnx.Embed(20, 12, rngs=rngs)
        self.norms = nnx.List([nnx.LayerNorm(12, rngs=rngs) for _ in range(3)])
        self.attention = nnx.MultiHeadAttention(3, 12, 12, 12, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(12, 16, rngs=rngs), nnx.Linear(16, 12, rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens)
        x = x + self.attention(self.norms[0](x))
        x = x + self.down(nnx.gelu(self.up(self.norms[1](x))))
        return self.embed.attend(self.norms[2](x))


def module(make, *inputs, weights):
    """Factory result for an NNX module, its state filled from the abstract one."""
    graph, shapes = nnx.split(nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0))))

    def fn(state, *inputs):
        return nnx.merge(graph, state)(*inputs)

    return fn, fill(shapes), inputs, {"weights": weights}


def rnn(cell, kernels):
    def make(rngs):
        return nnx.RNN(cell(8, 12, rngs=rngs), rngs=rngs)

    return module(make, data(2, 4, 8), weights={f"cell/{name}/kernel": "io" for name in kernels})


def attention(rngs):
    return nnx.MultiHeadAttention(4, 16, 16, 16, decode=False, rngs=rngs)


HEADS = {"query/kernel": "ioo", "key/kernel": "ioo", "value/kernel": "ioo", "out/kernel": "iio"}
GATES = ["ii", "if_", "ig", "io", "hi", "hf", "hg", "ho"]
X = functools.partial(data, 4, 16)


def factory(make, inputs, **weights):
    return lambda: module(make, *inputs(), weights=weights)


MODELS = (
    entry("nnx_linear", factory(functools.partial(nnx.Linear, 16, 24), lambda: (X(),), kernel="io")),
    entry("nnx_general", factory(functools.partial(nnx.LinearGeneral, 16, (4, 8)), lambda: (X(),), kernel="ioo")),
    entry(
        "nnx_einsum",
        factory(functools.partial(nnx.Einsum, "...d,dhk->...hk", (16, 4, 8)), lambda: (X(),), kernel="ioo"),
    ),
    entry("nnx_conv", factory(functools.partial(nnx.Conv, 3, 8, (3, 3)), lambda: (data(2, 6, 6, 3),), kernel="iiio")),
    entry("nnx_embed", factory(functools.partial(nnx.Embed, 24, 16), lambda: (ids(3, 5, below=24),), embedding="lo")),
    entry("nnx_attention", lambda: module(attention, data(2, 5, 16), weights=HEADS)),
    entry(
        "nnx_cnn",
        lambda: module(CNN, data(2, 6, 6, 3), weights={"conv/kernel": "iiio", "head/kernel": "io"}),
    ),
    entry(
        "nnx_transformer",
        lambda: module(
            Transformer,
            ids(2, 6, below=20),
            weights={f"attention/{path}": axes for path, axes in HEADS.items()}
            | {"embed/embedding": "lo/oi", "up/kernel": "io", "down/kernel": "io"},
        ),
    ),
    entry("nnx_lstm", lambda: rnn(nnx.LSTMCell, GATES)),
    entry("nnx_optimized_lstm", lambda: rnn(nnx.OptimizedLSTMCell, ["dense_i", "dense_h"])),
    entry("nnx_scan", lambda: module(ScanStack, data(4, 12), weights={"layers/kernel": "sio"})),
)
