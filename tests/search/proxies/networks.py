"""Networks of runtime arrays for the proxies: a masked MLP, and a cell whose edges choose among operations."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

FEATURES, WIDTH, CLASSES = 6, 16, 3


def mlp_params(seed=0, width=WIDTH):
    keys = jax.random.split(jax.random.key(seed), 3)
    shapes = {"a": (FEATURES, width), "b": (width, width), "c": (width, CLASSES)}
    pairs = zip(keys, shapes.items(), strict=True)
    drawn = {name: jax.random.normal(key, shape) / shape[0] ** 0.5 for key, (name, shape) in pairs}
    return drawn | {"bias": jnp.zeros(width)}


def mlp(params, x):
    h = jax.nn.relu(x @ params["a"] + params["bias"][None])
    return jax.nn.relu(h @ params["b"]) @ params["c"]


def masked_mlp(width, params, x):
    """`mlp` of which the first ``width`` units of either layer are alive."""
    mask = (jnp.arange(WIDTH) < width).astype(x.dtype)[None]
    h = jax.nn.relu((x @ params["a"] + params["bias"][None]) * mask)
    return jax.nn.relu((h @ params["b"]) * mask) @ params["c"]


def cut(params, width):
    """The parameters of the small network that `masked_mlp` imitates."""
    a, b, c = params["a"][:, :width], params["b"][:width, :width], params["c"][:width]
    return {"a": a, "b": b, "c": c, "bias": params["bias"][:width]}


CHANNELS, EDGES = 4, 3
NONE, SKIP, CONV1, CONV3, POOL = range(5)


def cell_params(seed=0):
    keys = jax.random.split(jax.random.key(seed), 4)
    return {
        "stem": jax.random.normal(keys[0], (3, 3, 3, CHANNELS)) * 0.3,
        "one": jax.random.normal(keys[1], (EDGES, 1, 1, CHANNELS, CHANNELS)) * 0.5,
        "three": jax.random.normal(keys[2], (EDGES, 3, 3, CHANNELS, CHANNELS)) * 0.2,
        "head": jax.random.normal(keys[3], (CHANNELS, CLASSES)),
    }


def cell(codes, params, images):
    """A cell as those of NAS-Bench-201, of three nodes and without normalization; of five operations one on an edge."""
    nodes, edge = [conv(images, params["stem"])], 0
    for node in range(1, 3):
        arriving = []
        for earlier in range(node):
            one, three = params["one"][edge], params["three"][edge]
            operations = [
                lambda x, *_: jnp.zeros_like(x),
                lambda x, *_: x,
                lambda x, one, _: conv(jax.nn.relu(x), one),
                lambda x, _, three: conv(jax.nn.relu(x), three),
                lambda x, *_: _average(x),
            ]
            arriving.append(lax.switch(codes[edge], operations, nodes[earlier], one, three))
            edge += 1
        nodes.append(functools.reduce(jnp.add, arriving))
    return nodes[-1].mean((1, 2)) @ params["head"]


def conv(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _average(x):
    return lax.reduce_window(x, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME") / 9
