"""Recurrent layers: kernels that are loop-invariant in a scan over time."""

import functools

import flax.linen as nn

from tests.zoo.model import data, entry, linen

# Names of the kernels inside each cell.
CELLS = {
    "lstm": (nn.LSTMCell, [f"{a}{b}" for a in "ih" for b in "ifgo"]),
    "optimized_lstm": (nn.OptimizedLSTMCell, [f"{a}{b}" for a in "ih" for b in "ifgo"]),
    "gru": (nn.GRUCell, [f"{a}{b}" for a in "ih" for b in "rzn"]),
    "simple": (nn.SimpleCell, ["i", "h"]),
}


def recurrent(name):
    cell, kernels = CELLS[name]
    weights = {f"params/cell/{kernel}/kernel": "io" for kernel in kernels}
    return linen(nn.RNN(cell(12)), data(2, 4, 8), weights=weights)


class Bidirectional(nn.Module):
    """A forward LSTM and a backward GRU."""

    @nn.compact
    def __call__(self, x):
        return nn.Bidirectional(nn.RNN(nn.LSTMCell(8)), nn.RNN(nn.GRUCell(8)))(x)


def bidirectional():
    forward, backward = (CELLS[name][1] for name in ("lstm", "gru"))
    weights = {f"params/LSTMCell_0/{kernel}/kernel": "io" for kernel in forward}
    weights |= {f"params/GRUCell_0/{kernel}/kernel": "io" for kernel in backward}
    return linen(Bidirectional(), data(2, 4, 8), weights=weights)


MODELS = (
    *(entry(f"recurrent_{name}", functools.partial(recurrent, name)) for name in CELLS),
    entry("recurrent_bidirectional", bidirectional),
)
