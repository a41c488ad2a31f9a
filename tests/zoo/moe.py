"""Mixtures of experts: stacked expert weights met by a dense dispatch, a gather, a ragged product, a scan."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.zoo.model import arrays, data, entry, ids

EXPERTS, D, HIDDEN = 4, 8, 12
SHAPES = {"router": (D, EXPERTS), "up": (EXPERTS, D, HIDDEN), "down": (EXPERTS, HIDDEN, D)}
WEIGHTS = {"router": "io", "up": "sio", "down": "sio"}
DISPATCHED = {
    "router": "io",
    "up": "oio",
    "down": "iio",
}  # every expert sees every token: experts are outputs, then summed
GATHERED = {"router": "io", "up": "loo/sio", "down": "loo/sio"}


def dense_dispatch(params, x):
    """Every expert sees every token; the gate weighs the results."""
    gate = jax.nn.softmax(x @ params["router"])
    hidden = jax.nn.gelu(jnp.einsum("bi,eih->beh", x, params["up"]))
    return jnp.einsum("beh,ehd,be->bd", hidden, params["down"], gate)


def gathered(params, x, expert):
    """One expert per token: its weights are gathered."""
    hidden = jax.nn.gelu(jnp.einsum("bi,bih->bh", x, params["up"][expert]))
    return jnp.einsum("bh,bhd->bd", hidden, params["down"][expert]) + (x @ params["router"]).sum(-1, keepdims=True)


def one_expert(params, x, expert):
    """A traced index picks one expert for the whole batch."""
    return jax.nn.gelu(x @ params["up"][expert[0]]) @ params["down"][expert[0]]


def ragged(params, x):
    """Tokens sorted by expert, group sizes known."""
    sizes = jnp.asarray([2, 0, 3, 1], jnp.int32)
    return lax.ragged_dot(jax.nn.gelu(lax.ragged_dot(x, params["up"], sizes)), params["down"], sizes)


def scanned(params, x):
    """A scan over experts that accumulates."""
    gate = jax.nn.softmax(x @ params["router"])

    def body(total, expert):
        up, down, weight = expert
        return total + weight[:, None] * (jax.nn.gelu(x @ up) @ down), None

    return lax.scan(body, jnp.zeros_like(x), (params["up"], params["down"], gate.T))[0]


def result(fn, inputs, readings=WEIGHTS, names=tuple(SHAPES)):
    params = {name: value for name, value in arrays(**SHAPES).items() if name in names}
    return fn, params, inputs, {"weights": {name: readings[name] for name in names}}


EXPERT = ("up", "down")

MODELS = (
    entry("moe_dense_dispatch", lambda: result(dense_dispatch, (data(6, D),), DISPATCHED)),
    entry("moe_gathered", lambda: result(gathered, (data(6, D), ids(6, below=EXPERTS)), GATHERED)),
    entry("moe_one_expert", lambda: result(one_expert, (data(6, D), ids(6, below=EXPERTS)), names=EXPERT)),
    entry("moe_ragged", lambda: result(ragged, (data(6, D),), names=EXPERT), "no_batch", "no_vmap"),
    entry("moe_scanned", lambda: result(scanned, (data(6, D),))),
)
