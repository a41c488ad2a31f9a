"""Linen's dense layers, embeddings, normalisation and dropout."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from tests.zoo.model import data, entry, ids, linen


class NormedCNN(nn.Module):
    """Convolution, a norm of choice, a head."""

    norm: str

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(8, (3, 3), use_bias=False)(x)
        x = nn.BatchNorm(use_running_average=not train)(x) if self.norm == "batch" else nn.GroupNorm(num_groups=2)(x)
        x = nn.relu(x).mean((1, 2))
        return nn.Dense(5)(x)


class TiedEmbedding(nn.Module):
    """Input and output share one table."""

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(24, 16)
        x = nn.LayerNorm()(embed(tokens))
        return embed.attend(nn.gelu(nn.Dense(16)(x)))


class Dropped(nn.Module):
    """Two layers with dropout between."""

    @nn.compact
    def __call__(self, x, train=True):
        x = nn.relu(nn.Dense(32)(x))
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(8)(x)


class EinsumThree(nn.Module):
    """Two parameters in one einsum with the data."""

    @nn.compact
    def __call__(self, x):
        a = self.param("a", nn.initializers.lecun_normal(), (16, 8))
        b = self.param("b", nn.initializers.lecun_normal(), (8, 16))
        return jnp.einsum("...i,ij,jk->...k", x, a, b)


KERNEL = {"params/kernel": "io"}
CNN = {"params/Conv_0/kernel": "iiio", "params/Dense_0/kernel": "io"}


def dense():
    return linen(nn.Dense(24), data(4, 16), weights=KERNEL)


def dense_bf16():
    return linen(nn.Dense(24, dtype=jnp.bfloat16), data(4, 16), weights=KERNEL)


def dense_bf16_params():
    module = nn.Dense(24, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    return linen(module, data(4, 16, dtype=jnp.bfloat16), weights=KERNEL)


def dense_x64():
    module = nn.Dense(24, dtype=jnp.float64, param_dtype=jnp.float64)
    return linen(module, data(4, 16, dtype=jnp.float64), weights=KERNEL)


def dense_general():
    return linen(nn.DenseGeneral((4, 8)), data(3, 5, 16), weights={"params/kernel": "ioo"})


def dense_general_joint():
    return linen(nn.DenseGeneral(12, axis=(-2, -1)), data(3, 4, 8), weights={"params/kernel": "iio"})


def dense_general_batched():
    module = nn.DenseGeneral(12, axis=-1, batch_dims=(0,))
    return linen(module, data(3, 4, 8), weights={"params/kernel": "sio"})


def einsum():
    return linen(nn.Einsum((16, 4, 8), "...d,dhk->...hk"), data(3, 5, 16), weights={"params/kernel": "ioo"})


def einsum_three():
    return linen(EinsumThree(), data(4, 16), weights={"params/a": "io", "params/b": "io"})


def embed():
    return linen(nn.Embed(24, 16), ids(3, 5, below=24), weights={"params/embedding": "lo"})


def embed_attend():
    weights = {"params/Embed_0/embedding": "lo/oi", "params/Dense_0/kernel": "io"}
    return linen(TiedEmbedding(), ids(3, 5, below=24), weights=weights)


def batch_norm():
    return linen(NormedCNN("batch"), data(2, 6, 6, 3), weights=CNN, train=False)


def batch_norm_train():
    return linen(NormedCNN("batch"), data(2, 6, 6, 3), weights=CNN, train=True, mutable=["batch_stats"])


def group_norm():
    return linen(NormedCNN("group"), data(2, 6, 6, 3), weights=CNN)


def weight_norm():
    """The kernel is divided by its norm on the way to the product."""
    return linen(nn.WeightNorm(nn.Dense(24)), data(4, 16), weights={"params/layer_instance/kernel": "io"})


def layer_norm():
    return linen(nn.LayerNorm(), data(4, 16), weights={})


def dropout():
    weights = {"params/Dense_0/kernel": "io", "params/Dense_1/kernel": "io"}
    return linen(Dropped(), data(4, 16), weights=weights, train=True, rngs={"dropout": jax.random.key(7)})


def lifted(transform):
    """`nn.remat` or `nn.jit` around a layer."""
    return linen(transform(nn.Dense)(24), data(4, 16), weights=KERNEL)


def vmapped():
    """One layer per example: the kernels are stacked."""
    stacked = nn.vmap(nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=0, out_axes=0)
    return linen(stacked(24), data(3, 5, 16), weights={"params/kernel": "sio"})


MODELS = (
    entry("linen_dense", dense),
    entry("linen_dense_bf16", dense_bf16),
    entry("linen_dense_bf16_params", dense_bf16_params),
    entry("linen_dense_x64", dense_x64, "x64"),
    entry("linen_dense_general", dense_general),
    entry("linen_dense_general_joint", dense_general_joint),
    entry("linen_dense_general_batched", dense_general_batched, "no_batch"),
    entry("linen_einsum", einsum),
    entry("linen_einsum_three", einsum_three),
    entry("linen_embed", embed),
    entry("linen_embed_attend", embed_attend),
    entry("linen_batch_norm", batch_norm),
    entry("linen_batch_norm_train", batch_norm_train),
    entry("linen_group_norm", group_norm),
    entry("linen_weight_norm", weight_norm),
    entry("linen_layer_norm", layer_norm),
    entry("linen_dropout", dropout),
    entry("linen_remat", functools.partial(lifted, nn.remat)),
    entry("linen_jit", functools.partial(lifted, nn.jit)),
    entry("linen_vmap", vmapped, "no_batch"),
)
