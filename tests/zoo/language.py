"""Networks for sequences: unrolled transformers, fused projections, recurrent classifiers, a convolution over text."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from tests.zoo.llama import rotate
from tests.zoo.model import data, entry, ids
from tests.zoo.vision import model

VOCABULARY = 20


class Transformer(nn.Module):
    """Two unrolled pre-norm blocks, learned positions, an untied head."""

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(VOCABULARY, 12)(tokens)
        x = x + self.param("positions", nn.initializers.normal(1.0), x.shape[1:])[None]
        for _ in range(2):
            h = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(3)(h, h)
            x = x + nn.Dense(12)(nn.gelu(nn.Dense(16)(nn.LayerNorm()(x))))
        return nn.Dense(VOCABULARY)(nn.LayerNorm()(x))


class FusedGQA(nn.Module):
    """One projection for queries, keys and values; RoPE; shared key heads; a fused SwiGLU."""

    heads: int = 4
    kv_heads: int = 2
    width: int = 4

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(VOCABULARY, 12)(tokens)
        batch, length, dim = x.shape
        h, k = self.heads * self.width, self.kv_heads * self.width
        fused = nn.Dense(h + 2 * k, use_bias=False)(nn.RMSNorm()(x))
        query, key, value = (
            part.reshape(batch, length, -1, self.width) for part in jnp.split(fused, [h, h + k], axis=-1)
        )
        share = self.heads // self.kv_heads
        key, value = jnp.repeat(rotate(key), share, 2), jnp.repeat(value, share, 2)
        scores = jnp.einsum("bqhd,bkhd->bhqk", rotate(query), key) / jnp.sqrt(jnp.float32(self.width))
        causal = jnp.tril(jnp.ones((length, length), bool))[None, None]
        attention = jax.nn.softmax(jnp.where(causal, scores, jnp.float32(-1e9)))
        mixed = jnp.einsum("bhqk,bkhd->bqhd", attention, value).reshape(batch, length, h)
        x = x + nn.Dense(dim, use_bias=False)(mixed)
        gate, up = jnp.split(nn.Dense(32, use_bias=False)(nn.RMSNorm()(x)), 2, axis=-1)
        x = x + nn.Dense(dim, use_bias=False)(nn.silu(gate) * up)
        return nn.Dense(VOCABULARY)(nn.RMSNorm()(x))


class TextCNN(nn.Module):
    """Kim, 2014: convolutions of several widths over the embedding, the largest over time.

    By a window: the gradient of `jnp.max` asks whether entries equal the maximum, which XLA may round in two ways.
    """

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(VOCABULARY, 8)(tokens)
        windows = [nn.relu(nn.Conv(features, (size,))(x)) for size, features in ((2, 6), (3, 8), (4, 4))]
        return nn.Dense(5)(jnp.concatenate([nn.max_pool(w, w.shape[1:2])[:, 0] for w in windows], -1))


class LSTM(nn.Module):
    """A dense layer, an LSTM, the last state."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(5)(nn.RNN(nn.LSTMCell(12))(nn.relu(nn.Dense(8)(x)))[:, -1])


class Stack(nn.Module):
    """A bidirectional pair, an LSTM and a GRU, under a GRU."""

    @nn.compact
    def __call__(self, x):
        x = nn.Bidirectional(nn.RNN(nn.OptimizedLSTMCell(6)), nn.RNN(nn.GRUCell(8)))(x)
        return nn.Dense(5)(nn.RNN(nn.GRUCell(7))(x).mean(1))


def tokens():
    return ids(2, 6, below=VOCABULARY)


def embedded(module):
    """A model that looks its input up."""

    def factory():
        fn, params, inputs, more = model(module, tokens())
        more["weights"]["params/Embed_0/embedding"] = "lo"
        return fn, params, inputs, more

    return factory


# Their families are those of `attention`, `convolution` and `recurrent`.
MODELS = (
    entry("attention_unrolled", embedded(Transformer())),
    entry("attention_fused_gqa", embedded(FusedGQA())),
    entry("conv_text", embedded(TextCNN())),
    entry("recurrent_classifier", lambda: model(LSTM(), data(2, 4, 6))),
    entry("recurrent_stack", lambda: model(Stack(), data(2, 4, 6))),
)
