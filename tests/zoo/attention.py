"""Attention, and a small transformer whose blocks are scanned and rematerialized."""

import flax.linen as nn
import jax.numpy as jnp

from tests.zoo.model import data, entry, ids, linen

HEADS = {f"params/{name}/kernel": "ioo" for name in ("query", "key", "value")} | {"params/out/kernel": "iio"}


class Masked(nn.Module):
    """Cross-attention under a mask."""

    @nn.compact
    def __call__(self, x, memory):
        mask = nn.make_attention_mask(
            jnp.ones(x.shape[:2]), jnp.asarray(jnp.arange(memory.shape[1]) < 4, x.dtype)[None]
        )
        return nn.MultiHeadDotProductAttention(2, qkv_features=8, name="attention")(x, memory, mask=mask)


class Block(nn.Module):
    """A pre-norm block."""

    @nn.compact
    def __call__(self, x, _):
        h = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(2)(h, h)
        h = nn.gelu(nn.Dense(24)(nn.LayerNorm()(x)))
        return x + nn.Dense(16)(h), None


class Transformer(nn.Module):
    """Tied embedding, scanned and rematerialized blocks."""

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(20, 16)
        block = nn.scan(nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        x, _ = block()(embed(tokens), None)
        return embed.attend(nn.LayerNorm()(x))


def self_attention():
    return linen(nn.MultiHeadDotProductAttention(4), data(2, 5, 16), weights=HEADS)


def cross_attention():
    weights = {path.replace("params", "params/attention"): axes for path, axes in HEADS.items()}
    return linen(Masked(), data(2, 3, 16), data(2, 5, 16, seed=3), weights=weights)


def transformer():
    inside = "params/ScanCheckpointBlock_0"
    weights = {
        "params/Embed_0/embedding": "lo/oi",
        f"{inside}/Dense_0/kernel": "sio",
        f"{inside}/Dense_1/kernel": "sio",
    }
    attention = f"{inside}/MultiHeadDotProductAttention_0"
    weights |= {path.replace("params", attention): "s" + axes for path, axes in HEADS.items()}
    return linen(Transformer(), ids(2, 6, below=20), weights=weights)


MODELS = (
    entry("attention_self", self_attention),
    entry("attention_cross", cross_attention),
    entry("attention_transformer", transformer),
)
