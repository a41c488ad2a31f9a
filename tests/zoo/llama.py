"""A Llama (GQA, RoPE, SwiGLU, tied head).

It comes as a plain function on the llama2.c layout, and as a Flax module with a scanned stack. The trained one (260,032
parameters) comes from the data folder; a random one of the same architecture needs none.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tests.zoo.model import arrays, entry, ids

TINY = dict(dim=16, hidden=24, layers=2, heads=4, kv_heads=2, vocab=20)
# Name -> reading of the axes in the plain function, all (layers, out, in).
MATRICES = {name: "soi" for name in ("wq", "wk", "wv", "wo", "w1", "w2", "w3")}
LAYERED = ("att_norm", "ffn_norm", *MATRICES)


def apply(params: dict[str, jax.Array], tokens: jax.Array, *, heads: int, kv_heads: int) -> jax.Array:
    """Logits of the plain function: tokens (batch, length) -> (batch, length, vocab)."""
    x = params["emb"][tokens]
    for layer in range(params["wq"].shape[0]):
        at = {name: params[name][layer] for name in LAYERED}
        h = rms_norm(x, at["att_norm"])
        q, k, v = (split_heads(h @ at[name].T, n) for name, n in (("wq", heads), ("wk", kv_heads), ("wv", kv_heads)))
        x = x + attend(q, k, v).reshape(x.shape) @ at["wo"].T
        h = rms_norm(x, at["ffn_norm"])
        x = x + (jax.nn.silu(h @ at["w1"].T) * (h @ at["w3"].T)) @ at["w2"].T
    return rms_norm(x, params["norm"]) @ params["emb"].T


def rms_norm(x: jax.Array, scale: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5) * scale[None, None]


def split_heads(x: jax.Array, heads: int) -> jax.Array:
    return x.reshape(*x.shape[:-1], heads, -1)


def rotate(x: jax.Array) -> jax.Array:
    """RoPE on interleaved pairs: x (batch, length, heads, width)."""
    half = x.shape[-1] // 2
    angles = np.arange(x.shape[1])[:, None] * 1e4 ** (-np.arange(half)[None] / half)
    turn = [jnp.asarray(f(angles), x.dtype)[None, :, None] for f in (np.cos, np.sin)]
    even, odd = x[..., ::2], x[..., 1::2]
    return jnp.stack([even * turn[0] - odd * turn[1], even * turn[1] + odd * turn[0]], -1).reshape(x.shape)


def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Causal attention; groups of query heads share a key head."""
    batch, length, heads, width = q.shape
    q = rotate(q).reshape(batch, length, k.shape[2], -1, width)
    scores = jnp.einsum("bqkgd,bskd->bkgqs", q, rotate(k)) / jnp.sqrt(jnp.asarray(width, q.dtype))
    causal = jnp.tril(jnp.ones((length, length), bool))[None, None, None]
    weights = jax.nn.softmax(jnp.where(causal, scores, jnp.asarray(-1e30, scores.dtype)))
    return jnp.einsum("bkgqs,bskd->bqkgd", weights, v).reshape(batch, length, heads, width)


class Block(nn.Module):
    """One layer, for `nn.scan`."""

    hidden: int
    heads: int
    kv_heads: int

    @nn.compact
    def __call__(self, x, _):
        dense = functools.partial(nn.DenseGeneral, use_bias=False)
        width = x.shape[-1] // self.heads
        h = rms_norm(x, self.param("att_norm", nn.initializers.ones, x.shape[-1:]))
        heads = {"q": self.heads, "k": self.kv_heads, "v": self.kv_heads}
        q, k, v = (dense((n, width), name=f"w{name}")(h) for name, n in heads.items())
        x = x + dense(x.shape[-1], axis=(-2, -1), name="wo")(attend(q, k, v))
        h = rms_norm(x, self.param("ffn_norm", nn.initializers.ones, x.shape[-1:]))
        gated = nn.silu(dense(self.hidden, name="w1")(h)) * dense(self.hidden, name="w3")(h)
        return x + dense(x.shape[-1], name="w2")(gated), None


class Llama(nn.Module):
    """The same model as a Flax module."""

    dim: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(self.vocab, self.dim, name="emb")
        stack = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.layers)
        x, _ = stack(self.hidden, self.heads, self.kv_heads, name="layers")(embed(tokens), None)
        return embed.attend(rms_norm(x, self.param("norm", nn.initializers.ones, (self.dim,))))


def to_flax(params: dict[str, Any], *, heads: int, kv_heads: int) -> dict[str, Any]:
    """Variables of `Llama` from the llama2.c layout: kernels (layers, out, in) become (layers, in..., out...)."""
    layers = {name: params[name] for name in ("att_norm", "ffn_norm")}
    for name in MATRICES:
        kernel = params[name].swapaxes(1, 2)
        if name in ("wq", "wk", "wv"):
            kernel = kernel.reshape(*kernel.shape[:2], heads if name == "wq" else kv_heads, -1)
        if name == "wo":
            kernel = kernel.reshape(kernel.shape[0], heads, -1, kernel.shape[-1])
        layers[name] = {"kernel": kernel}
    return {"params": {"emb": {"embedding": params["emb"]}, "layers": layers, "norm": params["norm"]}}


def data_folder() -> Path:
    """Where the real data is, if it is there: ``JAXCOMPRESS_DATA``, else ``../shared/data`` beside the checkout."""
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    return Path(os.environ.get("JAXCOMPRESS_DATA", default))


@functools.cache
def real_data() -> ModuleType:
    """The data folder's loaders.

    Raises:
        FileNotFoundError: without the folder.
    """
    path = data_folder() / "realdata.py"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: set JAXCOMPRESS_DATA to the data folder")
    spec = importlib.util.spec_from_file_location("realdata", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def trained() -> tuple[dict[str, int], dict[str, jax.Array]]:
    """Configuration and parameters (llama2.c layout) of the trained model."""
    config, params, _ = real_data().stories260k()
    return {name: config[name] for name in TINY}, {name: jnp.asarray(value) for name, value in params.items()}


@functools.cache
def windows(count: int = 144) -> np.ndarray:
    """The first windows of 513 tokens (encoding all 144 takes ten seconds)."""
    encode = real_data().stories260k()[2]
    tokens: list[int] = []
    for story in real_data().tinystories():
        if len(tokens) > 512 * count:
            break
        tokens += encode(story)
    return np.stack([tokens[i * 512 : i * 512 + 513] for i in range(count)]).astype(np.int32)


def perplexity(fn: Any, params: Any, tokens: np.ndarray) -> float:
    """``exp`` of the mean cross-entropy over windows, ``fn(params, tokens) -> logits``, one window at a time."""

    @jax.jit
    def loss(params: Any, window: jax.Array) -> jax.Array:
        scores = jax.nn.log_softmax(fn(params, window[None, :-1])[0])
        return -jnp.take_along_axis(scores, window[1:, None], axis=1).mean()

    return float(np.exp(np.mean([float(loss(params, jnp.asarray(window))) for window in tokens])))


def random(config: dict[str, int] = TINY) -> tuple[dict[str, int], dict[str, jax.Array]]:
    """A random model of the same architecture."""
    d, h, n, kv = (
        config["dim"],
        config["hidden"],
        config["layers"],
        config["dim"] * config["kv_heads"] // config["heads"],
    )
    shapes = dict(emb=(config["vocab"], d), wq=(n, d, d), wk=(n, kv, d), wv=(n, kv, d), wo=(n, d, d), w1=(n, h, d))
    params = arrays(**shapes, w2=(n, d, h), w3=(n, h, d))
    return config, params | {"att_norm": jnp.ones((n, d)), "ffn_norm": jnp.ones((n, d)), "norm": jnp.ones(d)}


def plain(source):
    config, params = source()
    heads = {name: config[name] for name in ("heads", "kv_heads")}
    weights = {"emb": "lo/oi", **MATRICES}
    fn = functools.partial(apply, **heads)
    return fn, params, (ids(2, 6, below=config["vocab"]),), {"weights": weights}


def flax(source):
    config, params = source()
    variables = to_flax(params, heads=config["heads"], kv_heads=config["kv_heads"])
    readings = {"wq": "sioo", "wk": "sioo", "wv": "sioo", "wo": "siio"}
    weights = {f"params/layers/{name}/kernel": readings.get(name, "sio") for name in MATRICES}
    weights["params/emb/embedding"] = "lo/oi"
    return Llama(**config).apply, variables, (ids(2, 6, below=config["vocab"]),), {"weights": weights}


MODELS = (
    entry("llama_plain", lambda: plain(random)),
    entry("llama_flax", lambda: flax(random)),
    entry("llama_trained_plain", lambda: plain(trained), "data"),
    entry("llama_trained_flax", lambda: flax(trained), "data"),
)
