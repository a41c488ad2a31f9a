"""Functions and what a rotation makes of them: ``name -> (function, shapes, sizes of the rotations that are found)``.

The input is (4, D). A size of ``-n`` is a rotation that has to keep the vector of ones.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy import stats

D, H = 6, 8
TWO = {"a": (D, H), "b": (H, D)}
BIASED = TWO | {"bias": (H,)}
NHWC = ("NHWC", "HWIO", "NHWC")


def hidden(between):
    """A network of two layers with something in the middle."""
    return lambda p, x: between(x @ p["a"]) @ p["b"]


def rms(x, gain=None):
    out = x * lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5)
    return out if gain is None else out * gain[None]


def layer_norm(x):
    centred = x - x.mean(-1, keepdims=True)
    return centred * lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5)


def stacked(p, x):
    """A stream through scanned layers with gains of their own."""

    def step(h, w):
        return h + jax.nn.relu(rms(h, w[0]) @ w[1]) @ w[2], None

    return rms(lax.scan(step, x @ p["a"], (p["gain"], p["up"], p["down"]))[0]) @ p["b"]


def looped(p, x):
    return lax.fori_loop(0, 3, lambda i, h: h + jax.nn.relu(rms(h) @ p["up"]) @ p["down"], x @ p["a"]) @ p["b"]


def from_zeros(p, x):
    """Summed up over the rows of the input."""
    total, _ = lax.scan(lambda h, row: (h + row @ p["a"], None), jnp.zeros(H), x)
    return total @ p["b"]


def from_ones(p, x):
    total, _ = lax.scan(lambda h, row: (h + row @ p["a"], None), jnp.ones(H), x)
    return total @ p["b"]


def either(p, x):
    branches = [lambda h: h, jnp.zeros_like, lambda h: rms(2 * h)]
    return lax.switch(x[0, 0].astype(jnp.int32) % 3, branches, x @ p["a"]) @ p["b"]


def cached(p, x):
    """Written into zeros, row by row."""
    return lax.dynamic_update_slice(jnp.zeros((9, H)), x @ p["a"], (2, 0)) @ p["b"]


def tied(p, x):
    table = p["a"]
    return rms(x @ table) @ table.T


def tied_gain(p, x):
    return rms(x @ p["a"], p["bias"]) @ p["a"].T


def two_readers(p, x):
    """One kernel behind two norms with gains of their own: neither can be folded."""
    h = x @ p["a"]
    return rms(h, p["bias"]) @ p["b"] + rms(h, p["other"]) @ p["b"]


def gain_kept(p, x):
    """The gain is read by something else too."""
    return rms(x @ p["a"], p["bias"]) @ p["b"] + jnp.tanh(p["bias"]).sum()


def positions(p, x):
    """A convolution over positions, channels in the stream."""
    h = lax.conv_general_dilated(x.reshape(1, 4, 1, D), p["k"], (1, 1), "SAME", dimension_numbers=NHWC)
    return rms(h).reshape(4, H) @ p["b"]


def heads(p, x):
    """Attention, the rows as tokens: queries and keys turn together, values and outputs, per head dimension."""
    q, k, v = (jnp.einsum("td,dhe->hte", x, p[name]) for name in "qkv")
    scores = jax.nn.softmax(jnp.einsum("hte,hse->hts", q, k))
    return jnp.einsum("hts,hse,hed->td", scores, v, p["o"])


HEADS = {name: (D, 2, 3) for name in "qkv"} | {"o": (2, 3, D)}
LAYERS = {"gain": (3, H), "up": (3, H, 5), "down": (3, 5, H)}

CASES = {
    "linear": (hidden(lambda h: h), TWO, [H]),
    "scaled": (hidden(lambda h: -h / 3 * 2), TWO, [H]),
    "jit": (lambda p, x: jax.jit(hidden(rms))(p, x), TWO, [H]),
    "remat": (lambda p, x: jax.checkpoint(hidden(rms))(p, x), TWO, [H]),
    "rms": (hidden(rms), TWO, [H]),
    "norm": (hidden(lambda h: h / jnp.linalg.norm(h, axis=-1, keepdims=True)), TWO, [H]),
    "row_scale": (lambda p, x: (x @ p["a"]) * jax.nn.sigmoid(x[:, :1]) @ p["b"], TWO, [H]),
    "row_mask": (lambda p, x: jnp.where(x[:, :1] > 0, x @ p["a"], jnp.float32(0)) @ p["b"], TWO, [H]),
    "rows_summed": (lambda p, x: (x @ p["a"]).sum(0, keepdims=True) @ p["b"], TWO, [H]),
    "running": (hidden(lambda h: jnp.cumsum(h, 0)), TWO, [H]),
    "reshaped": (hidden(lambda h: h.reshape(2, 2, H).swapaxes(0, 1).reshape(4, H)), TWO, [H]),
    "padded_rows": (lambda p, x: jnp.pad(x @ p["a"], ((0, 1), (0, 0))) @ p["b"], TWO, [H]),
    "joined_rows": (lambda p, x: jnp.concatenate([x @ p["a"], rms(x @ p["a"])]) @ p["b"], TWO, [H]),
    "looked_up": (lambda p, x: p["a"][jnp.argmax(x, 1)] @ p["b"], TWO, [H]),
    "bias": (lambda p, x: rms(x @ p["a"] + p["bias"][None]) @ p["b"], BIASED, [H]),
    "gain": (lambda p, x: rms(x @ p["a"], p["bias"]) @ p["b"], BIASED, [H]),
    "gain_plus_one": (lambda p, x: rms(x @ p["a"], 1 + p["bias"]) @ p["b"], BIASED, [H]),
    "gain_and_bias": (
        lambda p, x: (rms(x @ p["a"], p["bias"]) + p["shift"][None]) @ p["b"],
        BIASED | {"shift": (H,)},
        [H],
    ),
    "scores": (lambda p, x: jax.nn.softmax((x @ p["a"]) @ (x @ p["c"]).T), {"a": (D, H), "c": (D, H)}, [H]),
    "heads": (heads, HEADS, [3, 3]),
    "scan": (stacked, TWO | LAYERS, [H]),
    "while": (looped, TWO | {"up": (H, 5), "down": (5, H)}, [H]),
    "from_zeros": (from_zeros, TWO, [H]),
    "from_ones": (from_ones, TWO, [-H]),
    "cond": (either, TWO, [H]),
    "cached": (cached, TWO, [H]),
    "tied": (tied, TWO, [H]),
    "convolution": (positions, {"k": (3, 1, D, H), "b": (H, D)}, [H]),
    "layer_norm": (hidden(layer_norm), TWO, [-H]),
    "mean": (hidden(lambda h: h - h.mean(-1, keepdims=True)), TWO, [-H]),
    "plus_one": (hidden(lambda h: h + 1), TWO, [-H]),
    "filled": (lambda p, x: jnp.where(x[:, :1] > 0, x @ p["a"], jnp.float32(2)) @ p["b"], TWO, [-H]),
    # what no rotation passes
    "relu": (hidden(jax.nn.relu), TWO, []),
    "tanh": (hidden(jnp.tanh), TWO, []),
    "softmax": (hidden(jax.nn.softmax), TWO, []),
    "cube": (hidden(lambda h: h**3), TWO, []),
    "square_alone": (hidden(lambda h: h * h), TWO, []),
    "largest_square": (hidden(lambda h: h / (h * h).max(-1, keepdims=True)), TWO, []),
    "divided": (hidden(lambda h: 1 / h), TWO, []),
    "divided_by_like": (hidden(lambda h: h / (1 + h * h)), TWO, []),
    "largest_row": (hidden(lambda h: h.max(0, keepdims=True)), TWO, []),
    "reversed": (hidden(lambda h: jnp.flip(h, 1)), TWO, []),
    "halves": (lambda p, x: (x @ p["a"])[:, : H // 2] @ p["b"][: H // 2], TWO, []),
    "split": (hidden(lambda h: jnp.concatenate(jnp.split(h, 2, axis=1)[::-1], 1)), TWO, []),
    "merged": (hidden(lambda h: h.reshape(4, 2, H // 2).swapaxes(1, 2).reshape(4, H)), TWO, []),
    "padded": (lambda p, x: jnp.pad(x @ p["a"], ((0, 0), (1, 0)))[:, :H] @ p["b"], TWO, []),
    "sorted": (hidden(lambda h: jnp.sort(h, -1)), TWO, []),
    "masked": (hidden(lambda h: h * (jnp.arange(H) > 2)[None].astype(h.dtype)), TWO, []),
    "selected": (hidden(lambda h: jnp.where(h > 0, h, jnp.zeros_like(h))), TWO, []),
    "indexed": (lambda p, x: (x @ p["a"])[:, jnp.argmax(x, 1)] @ p["b"][:4], TWO, []),
    "gated": (lambda p, x: ((x @ p["a"]) * (x @ p["c"])) @ p["b"], TWO | {"c": (D, H)}, []),
    "tied_gain": (tied_gain, {"a": (D, H), "bias": (H,)}, []),
    "two_readers": (two_readers, BIASED | {"other": (H,)}, []),
    "gain_kept": (gain_kept, BIASED, []),
    "gain_squared": (lambda p, x: rms(rms(x @ p["a"], p["bias"])) @ p["b"], BIASED, []),
    "rounded": (hidden(lambda h: h.astype(jnp.int32).astype(h.dtype)), TWO, []),
    "joined": (lambda p, x: jnp.concatenate([x @ p["a"], x], 1) @ p["c"], TWO | {"c": (H + D, 2)}, []),
    "result": (lambda p, x: x @ p["a"], {"a": (D, H)}, []),
}


def orthogonal(size: int, *, ones: bool = False, seed: int = 0) -> np.ndarray:
    """A random orthogonal matrix, over all of them alike; with ``ones`` over those that keep the vector of ones."""
    if not ones:
        return stats.ortho_group.rvs(size, random_state=seed) if size > 1 else np.ones((1, 1))
    basis = np.linalg.qr(np.c_[np.ones(size), np.eye(size)[:, 1:]])[0]
    inner = np.eye(size)
    inner[1:, 1:] = stats.ortho_group.rvs(size - 1, random_state=seed)
    return basis @ inner @ basis.T


def assert_same(ours, theirs) -> None:
    """Up to the rounding of float32 through a few products."""
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())
