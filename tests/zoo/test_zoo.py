"""Every model of the zoo works by itself: finite outputs, and weights that are where the entry says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.core.paths import flatten_with_paths
from tests.zoo import ENTRIES, ZOO, llama


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_dense_model_is_finite(entry, request):
    if "data" in entry.tags:
        request.getfixturevalue("data_folder")
    model = entry.model
    with entry.context():
        static = {k: v for k, v in model.kwargs.items() if not jax.tree.all(jax.tree.map(is_array, v))}
        traced = {k: v for k, v in model.kwargs.items() if k not in static}
        out = jax.jit(lambda p, x, kw: model.fn(p, *x, **kw, **static))(model.params, model.inputs, traced)
    leaves = jax.tree.leaves(out)
    assert leaves
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating))
    paths, arrays, _ = flatten_with_paths(model.params)
    shapes = {path: leaf.shape for path, leaf in zip(paths, arrays, strict=True)}
    for path, readings in model.weights.items():
        assert all(len(axes) == len(shapes[path]) for axes in readings.split("/")), (path, sorted(shapes))


def is_array(value):
    return isinstance(value, jax.Array)


def test_names_are_unique():
    assert len(ZOO) == len(ENTRIES)


def test_random_llamas_agree():
    """The Flax module with converted parameters is the plain function."""
    plain, flax = ZOO["llama_plain"].model, ZOO["llama_flax"].model
    # float32 rounding of two layers of different association order, logits of order 1.
    np.testing.assert_allclose(
        jax.jit(plain.fn)(plain.params, *plain.inputs),
        jax.jit(flax.fn)(flax.params, *flax.inputs),
        atol=2e-5,
        rtol=2e-5,
    )


def test_trained_llamas_agree_on_real_text(data_folder):
    """Perplexity of two windows: the plain function and the Flax module, and below a random model's 512."""
    plain, flax = ZOO["llama_trained_plain"].model, ZOO["llama_trained_flax"].model
    tokens = llama.windows(2)
    ours = llama.perplexity(plain.fn, plain.params, tokens)
    assert 3.0 < ours < 8.0  # 4.868 over all windows (data/README.md)
    np.testing.assert_allclose(llama.perplexity(flax.fn, flax.params, tokens), ours, rtol=1e-5)


@pytest.mark.slow
def test_trained_llama_has_the_published_perplexity(data_folder):
    """5.187 over the 112 windows of the report split (data/README.md, three digits)."""
    model = ZOO["llama_trained_plain"].model
    assert abs(llama.perplexity(model.fn, model.params, llama.windows()[32:]) - 5.187) < 6e-4
