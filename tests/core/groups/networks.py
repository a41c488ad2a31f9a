"""Random networks: a program is a list of (operation, three numbers), which any numbers make a network of.

Every operation reads tensors (batch, time, channels) from a pool by index, any weights it wants, and adds a tensor to
the pool. The last tensors are read out. So a failing program shrinks to few operations, and reads as what it does.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

BATCH, TIME, CHANNELS = 2, 4, 6
WIDTHS = (4, 6, 8, 12)
Program = tuple[tuple[str, int, int, int], ...]


class Weights:
    """Hands out parameters in order: makes them while it records, reads them from a dict afterwards."""

    def __init__(self, known: dict[str, Any] | None = None):
        self.known, self.made = known, {}
        self.order: Iterator[int] = itertools.count()

    def __call__(self, *shape: int) -> Any:
        name = f"w{next(self.order):02d}"
        if self.known is not None:
            self.made[name] = self.known[name]
        else:
            noise = np.random.RandomState(len(self.made)).standard_normal(shape)
            self.made[name] = noise / np.sqrt(max(1, noise.size // shape[-1])) if len(shape) > 1 else 1 + noise / 3
        return self.made[name]


def project(w, x, width):
    return x @ w(x.shape[-1], width)


def divisor(channels, k):
    """A number of heads or groups."""
    numbers = [n for n in range(1, channels + 1) if channels % n == 0]
    return numbers[(k % 3 - 1) % len(numbers)]


UNARY: tuple[Callable[[Any], Any], ...] = (
    jax.nn.relu,
    jnp.tanh,
    jax.nn.sigmoid,
    jax.nn.gelu,
    lambda x: jnp.exp(jnp.tanh(x)),
    lambda x: x * x,
    jnp.cos,
    lambda x: x + 1,
    jnp.abs,
    lambda x: jnp.where(x > 0, x, 0.5),
    lambda x: 1 / (1 + x * x),
    jax.nn.softplus,
    jnp.sign,
    lambda x: jnp.maximum(x, 0.25),
    jax.checkpoint(jax.nn.silu),
    lambda x: x / 3 - x**3,
)
BINARY: tuple[Callable[[Any, Any], Any], ...] = (
    jnp.add,
    jnp.subtract,
    jnp.multiply,
    jnp.maximum,
    lambda x, y: x * jax.nn.sigmoid(y),
    lambda x, y: x / (1 + jnp.abs(y)),
    lambda x, y: jnp.where(x > y, x, y * 0.5),
)


def dense(w, x, y, k):
    return project(w, x, WIDTHS[k % 4])


def unary(w, x, y, k):
    return UNARY[k % len(UNARY)](x)


def binary(w, x, y, k):
    other = y if x.shape == y.shape else project(w, y, x.shape[-1])
    return BINARY[k % len(BINARY)](x, other)


def bias(w, x, y, k):
    c = w(x.shape[-1])[None, None]
    return (x + c, x * c, x + c.mean(), x - c * c)[k % 4]


def concatenate(w, x, y, k):
    return jnp.concatenate([x, y] if k % 2 else [y, x, y], -1)[..., :20]


def gate(w, x, y, k):
    half = max(1, x.shape[-1] // 2)
    left, right = x[..., :half], x[..., -half:]
    return left * jax.nn.sigmoid(right) if k % 2 else right + left


def cut(w, x, y, k):
    c = x.shape[-1]
    return (x[..., c // 3 :], x[..., ::2], x[..., min(1, c - 1) : max(2, c - 1)], x[..., ::-1])[k % 4]


def rearrange(w, x, y, k):
    c = x.shape[-1]
    kinds = (
        lambda: x + x[..., ::-1],
        lambda: jnp.roll(x, 1 + k % 3, -1),
        lambda: jnp.repeat(x, 2, -1)[..., :20],
        lambda: jnp.tile(x, (1, 1, 2))[..., :20],
        lambda: jnp.pad(x, ((0, 0), (0, 0), (1, 2))),
        lambda: jnp.pad(x, ((0, 0), (0, 0), (0, 2)), constant_values=0.7),
        lambda: x[..., np.random.RandomState(k).permutation(c)],
        lambda: x[..., np.arange(c) // 2],
    )
    return kinds[k % len(kinds)]()


def shuffle(w, x, y, k):
    heads = divisor(x.shape[-1], k)
    return x.reshape(BATCH, TIME, heads, -1).swapaxes(-1, -2).reshape(x.shape)


def within_heads(w, x, y, k):
    heads = divisor(x.shape[-1], k)
    h = x.reshape(BATCH, TIME, heads, -1)
    kinds = (
        lambda: h * lax.rsqrt((h * h).mean(-1, keepdims=True) + 1e-3),
        lambda: h - h.mean(2, keepdims=True),
        lambda: h * w(h.shape[-1])[None, None, None],
        lambda: jnp.einsum("bthd,hde->bthe", h, w(heads, h.shape[-1], h.shape[-1])),
        lambda: h @ w(h.shape[-1], 4),
        lambda: jax.nn.softmax(h, -1),
    )
    return kinds[k // 3 % len(kinds)]().reshape(BATCH, TIME, -1)


def norm(w, x, y, k):
    mean = x.mean(-1, keepdims=True)
    square = (x * x).mean(-1, keepdims=True)
    kinds = (
        lambda: (x - mean) * lax.rsqrt(square - mean * mean + 1e-3),
        lambda: x * lax.rsqrt(square + 1e-3),
        lambda: (x - mean) * lax.rsqrt(((x - mean) ** 2).mean(-1, keepdims=True) + 1e-3),
        lambda: (x - x.mean(1, keepdims=True)) * lax.rsqrt(x.var(1, keepdims=True) + 1e-3),
        lambda: (x - w(x.shape[-1])[None, None]) * lax.rsqrt(w(x.shape[-1])[None, None] ** 2 + 1e-3),
    )
    scaled = kinds[k % len(kinds)]()
    return scaled * w(x.shape[-1])[None, None] + w(x.shape[-1])[None, None]


def gather_channels(w, x, y, k):
    """A number for each position out of all channels, which every channel sees."""
    kinds = (
        lambda: x.sum(-1, keepdims=True),
        lambda: jnp.tanh(x).mean(-1, keepdims=True),
        lambda: jax.nn.sigmoid(x).sum(-1, keepdims=True),
        lambda: x.max(-1, keepdims=True),
        lambda: jnp.abs(x).max(-1, keepdims=True),
        lambda: (x * x).sum(-1, keepdims=True),
        lambda: jax.nn.logsumexp(x, -1, keepdims=True),
        lambda: jnp.linalg.norm(x + 1e-9, axis=-1, keepdims=True),
    )
    number = kinds[k % len(kinds)]()
    return y * jax.nn.sigmoid(number) if k // 8 % 2 else y + number


def over_time(w, x, y, k):
    kinds = (
        lambda: x * jax.nn.sigmoid(project(w, jax.nn.relu(project(w, x.mean(1, keepdims=True), 4)), x.shape[-1])),
        lambda: jax.nn.softmax(x, 1),
        lambda: jnp.cumsum(x, 1),
        lambda: x - x.max(1, keepdims=True),
        lambda: x[:, ::-1],
        lambda: jnp.sort(x, 1),
    )
    return kinds[k % len(kinds)]()


def over_channels(w, x, y, k):
    kinds = (
        lambda: jax.nn.softmax(x, -1),
        lambda: jnp.cumsum(x, -1),
        lambda: jnp.sort(x, -1),
        lambda: x * jnp.linspace(1, 2, x.shape[-1], dtype=x.dtype)[None, None],
        lambda: x * jnp.arange(x.shape[-1]).astype(x.dtype)[None, None],
        lambda: lax.top_k(x, min(4, x.shape[-1]))[0],
        lambda: jax.nn.one_hot(x.argmax(-1), x.shape[-1], dtype=x.dtype),
        lambda: lax.reduce_window(x, 0.0, lax.add, (1, 1, 3), (1, 1, 1), "SAME"),
        lambda: jnp.where(jnp.tri(TIME, x.shape[-1], dtype=bool)[None], x, 0.0),
    )
    return kinds[k % len(kinds)]()


def attention(w, x, y, k):
    heads, width = 2 + k % 2, 2 + k // 2 % 2
    q, key, v = (project(w, t, heads * width).reshape(BATCH, TIME, heads, width) for t in (x, y, y))
    weights = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", q, key), -1)
    mixed = jnp.einsum("bhts,bshd->bthd", weights, v).reshape(BATCH, TIME, -1)
    return project(w, mixed, x.shape[-1]) if k % 3 else mixed


def kernel_attention(w, x, y, k):
    """No parameters: products of data with data."""
    if k % 2 and x.shape == y.shape:
        return jnp.einsum("bti,bsi,bsj->btj", x, y, x) / 8
    return jnp.einsum("bti,bsi,bsj->btj", x, x, y) / 8


def recurrence(w, x, y, k):
    """A scan over time, its state (and its outputs) of the input's or another width."""
    width = WIDTHS[k % 4]
    into, again = w(x.shape[-1], width), w(width, width)
    start = jnp.broadcast_to(w(1, width), (BATCH, width)) if k // 4 % 2 else jnp.zeros((BATCH, width), x.dtype)

    def step(h, x):
        h = jnp.tanh(x @ into + h @ again) if k // 8 % 2 else jax.nn.sigmoid(x @ into) * h + jnp.tanh(h @ again)
        return h, h

    return lax.scan(step, start, x.swapaxes(0, 1), reverse=k // 16 % 2 == 1)[1].swapaxes(0, 1)


def stack(w, x, y, k):
    """Two layers in a scan, residual or not."""
    c = x.shape[-1]
    up, down = w(2, c, 8), w(2, 8, c)

    def layer(h, weights):
        new = jax.nn.gelu(h @ weights[0]) @ weights[1]
        return (h + new if k % 2 else new), (h * h).sum(-1, keepdims=True)

    h, squares = lax.scan(jax.checkpoint(layer) if k // 2 % 2 else layer, x, (up, down))
    return h + squares.sum(0)


def convolution(w, x, y, k):
    c = x.shape[-1]
    groups = (1, 1, c, 2)[k % 4]
    if c % groups:
        groups = 1
    out = c if groups > 1 else WIDTHS[k // 4 % 4]
    numbers = ("NWC", "WIO", "NWC")
    return lax.conv_general_dilated(
        x, w(3, c // groups, out), (1,), "SAME", dimension_numbers=numbers, feature_group_count=groups
    )


def tied(w, x, y, k):
    """A matrix that was used before, as it is or transposed."""
    c = x.shape[-1]
    for matrix in reversed(list(w.made.values())):
        if matrix.ndim == 2 and c in matrix.shape:
            return x @ matrix if matrix.shape[0] == c else x @ matrix.T
    return project(w, x, c)


def reshape(w, x, y, k):
    c = x.shape[-1]
    kinds = (
        lambda: x.reshape(BATCH, c, TIME).swapaxes(1, 2),
        lambda: jnp.broadcast_to(project(w, x.reshape(BATCH, -1), 8)[:, None], (BATCH, TIME, 8)),
        lambda: project(w, x.swapaxes(1, 2), TIME).swapaxes(1, 2),
        lambda: project(w, x.reshape(BATCH * TIME, c), 6).reshape(BATCH, TIME, 6),
        lambda: jnp.concatenate([jnp.broadcast_to(w(1, 1, c), (BATCH, 1, c)), x], 1)[:, :TIME],
        lambda: jnp.stack([x, y], -1).reshape(BATCH, TIME, -1) if x.shape == y.shape else x,
    )
    return kinds[k % len(kinds)]()


def control(w, x, y, k):
    kinds = (
        lambda: lax.cond(x.sum() > 0, lambda x: x * 2, lambda x: x, x),
        lambda: lax.fori_loop(0, 2, lambda _, h: jnp.tanh(h) + x, x),
        lambda: lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, s[1] * 0.5), (0, x))[1],
        lambda: jax.vmap(lambda m: jax.nn.relu(x @ m))(w(2, x.shape[-1], 6)).sum(0),
        lambda: x + jax.grad(lambda x: jnp.tanh(x).sum())(x),
        lambda: jnp.where(x.sum() > 0, x, 0.3),
        lambda: jax.lax.map(jnp.tanh, x),
        lambda: x + jax.random.normal(jax.random.key(k), x.shape, x.dtype),
    )
    return kinds[k % len(kinds)]()


OPERATIONS: dict[str, Callable[..., Any]] = {
    op.__name__: op
    for op in (
        *(dense, unary, binary, bias, concatenate, gate, cut, rearrange, shuffle, within_heads, norm, gather_channels),
        *(
            over_time,
            over_channels,
            attention,
            kernel_attention,
            recurrence,
            stack,
            convolution,
            tied,
            reshape,
            control,
        ),
    )
}


def run(program: Program, w: Weights, x: Any) -> tuple[Any, ...]:
    """The network: a first layer, the program, a read-out by weights and one by sums of squares."""
    pool = [x, project(w, x, 8)]
    for name, i, j, k in program:
        pool.append(OPERATIONS[name](w, pool[-1 - i % len(pool)], pool[-1 - j % len(pool)], k))
    return project(w, pool[-1], 3), (pool[-2] ** 2).sum(-1)


def network(program: Program) -> tuple[Callable[..., Any], dict[str, Any], Any]:
    """``fn(params, x)``, its parameters and an input, in the float type that JAX has now."""
    dtype = jnp.result_type(float)
    x = np.random.RandomState(7).standard_normal((BATCH, TIME, CHANNELS)).astype(dtype)
    made = Weights()
    jax.eval_shape(lambda x: run(program, made, x), x)
    params = {name: jnp.asarray(value, dtype) for name, value in made.made.items()}
    return lambda params, x: run(program, Weights(params), x), params, jnp.asarray(x)
