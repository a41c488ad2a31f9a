"""A network that is small enough to try every policy of, and what is asked of it."""

import jax
import jax.numpy as jnp

SHAPES = {"a": (12, 16), "b": (16, 16), "c": (16, 12)}


def params(seed: int = 0):
    keys = jax.random.split(jax.random.key(seed), len(SHAPES))
    weights = {name: jax.random.normal(k, SHAPES[name]) / 4 for name, k in zip(SHAPES, keys, strict=True)}
    return {name: {"kernel": w, "bias": jnp.zeros(w.shape[1])} for name, w in weights.items()}


def fn(params, x):
    for name in ("a", "b"):
        x = jnp.tanh(x @ params[name]["kernel"] + params[name]["bias"][None])
    return x @ params["c"]["kernel"] + params["c"]["bias"][None]


def data(seed: int = 9, n: int = 48):
    x = jax.random.normal(jax.random.key(seed), (n, 12))
    return x, fn(params(), x)


def evaluate(apply, params, data):
    """The squared error of the outputs, and the part of the rows whose largest output is another one."""
    out = apply(params, data[0])
    wrong = jnp.mean(out.argmax(-1) != data[1].argmax(-1), dtype=jnp.float32)
    return {"loss": jnp.mean(jnp.square(out - data[1])), "error": wrong}
