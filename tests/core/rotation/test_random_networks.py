"""Random networks: whatever is found to be a rotation leaves the function as it is, and its gains really fold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcompress.core.rotation import apply, rotations
from tests.core.rotation.cases import assert_same, orthogonal, rms
from tests.zoo.model import data

ROWS, SIZE, INNER = 4, 5, 3

# What may become of the stream: ``(h, p, i) -> h``; ``p`` makes parameters when they are first asked for.
STEPS = {
    "read and write": lambda h, p, i: h + jax.nn.relu(h @ p("up", SIZE, INNER)) @ p("down", INNER, SIZE),
    "norm and write": lambda h, p, i: h + jnp.tanh(rms(h) @ p("up", SIZE, INNER)) @ p("down", INNER, SIZE),
    "gain": lambda h, p, i: rms(h, p("gain", SIZE)),
    "gained branch": lambda h, p, i: h + jnp.tanh(rms(h, p("gain", SIZE)) @ p("up", SIZE, INNER)) @ p("d", INNER, SIZE),
    "gain and bias": lambda h, p, i: (
        h + jnp.tanh((rms(h, 1 + p("g", SIZE)) + p("b", SIZE)[None]) @ p("up", SIZE, INNER)) @ p("d", INNER, SIZE)
    ),
    "shared gain": lambda h, p, i: rms(h, p("shared", SIZE, shared=True)) @ p("out", SIZE, SIZE),
    "shared kernel": lambda h, p, i: h + rms(h) @ p("square", SIZE, SIZE, shared=True),
    "tied": lambda h, p, i: (
        h + jnp.tanh(h @ p("table", SIZE, INNER, shared=True)) @ p("table", SIZE, INNER, shared=True).T
    ),
    "bias": lambda h, p, i: h + p("bias", SIZE)[None],
    "scale": lambda h, p, i: -2 * h,
    "rows": lambda h, p, i: h[::-1] * jnp.arange(ROWS, dtype=h.dtype)[:, None],
    "masked rows": lambda h, p, i: jnp.where(jnp.arange(ROWS)[:, None] > 1, h, jnp.zeros_like(h)),
    "centre": lambda h, p, i: h - h.mean(-1, keepdims=True),
    "project": lambda h, p, i: h @ p("mix", SIZE, SIZE),
    "mixed rows": lambda h, p, i: jax.nn.softmax(h @ h.T) @ h,
    "scan": lambda h, p, i: lax.scan(
        lambda c, w: (c + jnp.tanh(rms(c, w[0]) @ w[1]) @ w[2], None),
        h,
        (p("gains", 2, SIZE), p("ups", 2, SIZE, INNER), p("downs", 2, INNER, SIZE)),
    )[0],
    "loop": lambda h, p, i: lax.fori_loop(0, 2, lambda _, c: rms(c @ p("again", SIZE, SIZE)), h),
    "twice the gain": lambda h, p, i: rms(h, p("g1", SIZE)) * p("g2", SIZE)[None],
    "penalty": lambda h, p, i: h * (1 + (p("gain", SIZE) ** 2).sum()),
    "nonlinear": lambda h, p, i: jnp.tanh(h),
}


def network(names):
    """``(fn, shapes)`` of a chain of steps between two layers; parameters are found by a first call."""
    shapes = {"in": (2, SIZE), "out": (SIZE, 2)}

    def fn(params, x, asked=None):
        h = x @ params["in"]
        for i, name in enumerate(names):

            def p(key, *shape, shared=False, i=i):
                path = key if shared else f"{i} {key}"
                if asked is not None:
                    asked[path] = shape
                    return jnp.ones(shape)
                return params[path]

            h = STEPS[name](h, p, i)
        return h @ params["out"]

    asked = {}
    jax.eval_shape(lambda: fn({name: jnp.ones(shape) for name, shape in shapes.items()}, jnp.ones((ROWS, 2)), asked))
    return fn, shapes | asked


def check(seed: int) -> int:
    random = np.random.RandomState(seed)
    fn, shapes = network(random.choice(list(STEPS), random.randint(2, 6)))
    params = {path: jnp.asarray(random.standard_normal(shape) + 0.1, jnp.float32) for path, shape in shapes.items()}
    x = data(ROWS, 2)
    out = fn(params, x)
    found = rotations(fn, params, x)
    for rotation in found:
        turned = apply(params, rotation, orthogonal(rotation.size, ones=bool(rotation.ones), seed=seed))
        scale = np.abs(out).max()
        np.testing.assert_allclose(fn(turned, x) / scale, out / scale, atol=1e-3)  # chains of norms amplify rounding
    return len(found)


@pytest.mark.parametrize("seed", range(12))
def test_random_chains(seed: int) -> None:
    check(seed)


@pytest.mark.slow
def test_many_random_chains() -> None:
    assert sum(check(seed) for seed in range(12, 300)) > 100


def test_a_gain_of_two_streams_is_folded_in_both() -> None:
    assert check(51) == 3


def test_the_steps_are_not_all_refused() -> None:
    fn, shapes = network(["gained branch", "scan", "gain and bias", "mixed rows", "rows"])
    params = {
        path: jnp.asarray(np.random.RandomState(1).standard_normal(shape), jnp.float32)
        for path, shape in shapes.items()
    }
    (found,) = (r for r in rotations(fn, params, data(ROWS, 2)) if ("in", 1) in r.members)
    assert len(found.folds) == 4
    x = data(ROWS, 2)
    assert_same(fn(apply(params, found, orthogonal(SIZE)), x), fn(params, x))
