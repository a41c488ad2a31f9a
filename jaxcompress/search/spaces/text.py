"""Text classifiers: convolutions over words, LSTMs and GRUs of searched widths and depths."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxcompress.search.checks import whole as whole_numbers
from jaxcompress.search.space import Choice, Conditional, Float, IntRange, Repeated, Space
from jaxcompress.search.spaces.costs import Cost, dense, whole
from jaxcompress.search.spaces.limits import limited

KINDS = ("cnn", "lstm", "gru")


@dataclasses.dataclass(frozen=True)
class Text:
    """Classifiers of sequences of words: an embedding, one of three kinds of body, dropout, a classifier.

    - ``cnn``: one to four branches, each a stack of ``layers`` convolutions over ``window`` words with ``filters``
      channels (with biases, "SAME" padding) and the maximum over the words; the branches side by side;
    - ``lstm``, ``gru``: ``layers`` recurrent layers of ``units``, in one direction or both; the last state.

    Args:
        vocabulary: words of the embedding.
        classes: of the task.
        length: words of a text, which FLOPs are counted for.
        embeddings: widths of the embedding.
        filters: channels of the convolutions.
        windows: the smallest and the largest window.
        branches: the largest number of branches.
        units: widths of the recurrent layers.
        layers: the largest depth of either.

    Example:
        >>> text = Text(vocabulary=1000, classes=6, embeddings=(50,))
        >>> config = {"embedding": 50, "dropout": 0.5, "kind": "lstm",
        ...           "recurrent": {"units": 64, "layers": 1, "both": False}}
        >>> genome = text.space().decode(text.space().encode(config))
        >>> int(text.costs(genome).parameters)  # 50 * 1000 + 4 * 64 * (50 + 64 + 1) + 65 * 6
        79830

    References:
        Kim, 2014 (convolutions for sentences), section 2. https://arxiv.org/abs/1408.5882
        Hochreiter & Schmidhuber, 1997 (LSTM). https://doi.org/10.1162/neco.1997.9.8.1735
        Cho et al., 2014 (GRU), section 2.3. https://arxiv.org/abs/1406.1078
    """

    vocabulary: int
    classes: int
    length: int = 40
    embeddings: tuple[int, ...] = (32, 64, 128)
    filters: tuple[int, ...] = (25, 50, 100)
    windows: tuple[int, int] = (2, 5)
    branches: int = 4
    units: tuple[int, ...] = (32, 64, 128)
    layers: int = 3

    def __post_init__(self) -> None:
        whole_numbers(self, vocabulary=self.vocabulary, classes=self.classes, length=self.length)
        whole_numbers(self, branches=self.branches, layers=self.layers)

    def space(self, *, parameters: float | None = None, flops: float | None = None) -> Space:
        """``embedding``, ``dropout``, ``kind``, and ``convolutional`` or ``recurrent``; with limits where given."""
        convolutional = {
            "filters": Choice(self.filters),
            "layers": IntRange(1, self.layers),
            "windows": Repeated(IntRange(*self.windows), times=IntRange(1, self.branches)),
        }
        recurrent = {"units": Choice(self.units), "layers": IntRange(1, self.layers), "both": Choice((False, True))}
        variables = {
            "embedding": Choice(self.embeddings),
            "dropout": Float(0.0, 0.7),
            "kind": Choice(KINDS),
            "convolutional": Conditional(convolutional, on="kind", equals="cnn"),
            "recurrent": Conditional(recurrent, on="kind", equals=("lstm", "gru")),
        }
        return limited(variables, self, parameters, flops)

    def costs(self, genome: Any) -> Cost:
        """Parameters (with the embedding) and FLOPs of a text of ``length`` words, of one decoded genome."""
        embedding, kind = genome["embedding"], genome["kind"]
        table = Cost(whole(self.vocabulary * embedding), jnp.float32(0))
        of_words = self._convolutions(genome["convolutional"], embedding).times(kind == KINDS.index("cnn"))
        recurrent = genome["recurrent"]
        lstm = self._recurrent(recurrent, embedding, gates=4, extra=0).times(kind == KINDS.index("lstm"))
        gru = self._recurrent(recurrent, embedding, gates=3, extra=1).times(kind == KINDS.index("gru"))
        return table + of_words + lstm + gru

    def _convolutions(self, genome: Any, embedding: jax.Array) -> Cost:
        """The branches and the classifier behind them."""
        filters, windows = genome["filters"], genome["windows"]
        first = self._per_word(windows["values"] * embedding, filters, filters)
        later = self._per_word(windows["values"] * filters, filters, filters).times(genome["layers"] - 1)
        real = np.arange(self.branches) < windows["count"]
        return (first + later).times(real).total() + dense(filters * windows["count"], self.classes)

    def _recurrent(self, genome: Any, embedding: jax.Array, gates: int, extra: int) -> Cost:
        """The layers and the classifier behind them: per gate a bias, and ``extra`` biases more."""
        units = genome["units"]
        directions = 1 + genome["both"].astype(jnp.int32)
        biases = (gates + extra) * units
        first = self._per_word(gates * (embedding + units), units, biases)
        later = self._per_word(gates * (directions * units + units), units, biases).times(genome["layers"] - 1)
        return (first + later).times(directions) + dense(directions * units, self.classes)

    def _per_word(self, inputs: ArrayLike, outputs: jax.Array, biases: jax.Array) -> Cost:
        """A matrix that is applied to every word."""
        weights = whole(inputs) * outputs
        return Cost(weights + biases, 2.0 * self.length * weights.astype(jnp.float32))
