"""Networks of fixed shape compute what the real ones do, children inherit, and evolution grows what it needs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcompress.search.large_scale import (
    Bounds,
    LargeScaleEvolution,
    Mutation,
    apply,
    drawn_weights,
    inherited,
    mutate_by,
    parameters,
)
from tests.search.large_scale.test_mutations import BOUNDS, SOME, network

SKIPS = [(0, 2), (0, 3), (1, 4)]
IMAGES = jax.random.normal(jax.random.key(5), (4, *BOUNDS.image))
begin = jax.jit(partial(drawn_weights, BOUNDS))
logits = jax.jit(partial(apply, BOUNDS))


def real_network(weights, dna, x):
    """The network at its own sizes, by JAX's strided convolutions."""
    vertices = [np.asarray(x, np.float32)]
    for i in range(int(dna.count)):
        new = vertices[-1]
        if dna.convolution[i]:
            (h, w), stride = dna.window[i].tolist(), 2 ** int(dna.stride[i])
            rows, columns = (slice(2 - n // 2, 3 + n // 2) for n in (h, w))
            kernel = weights.kernels[i, rows, columns, : new.shape[-1], : int(dna.channels[i])]
            padding = [(h // 2, h // 2), (w // 2, w // 2)]
            dimensions = ("NHWC", "HWIO", "NHWC")
            new = lax.conv_general_dilated(new, kernel, (stride, stride), padding, dimension_numbers=dimensions)
            new = np.asarray(new) + np.asarray(weights.biases)[i, : int(dna.channels[i])][None, None, None]
        for source in np.flatnonzero(np.asarray(dna.skips)[:, i + 1]):
            skip, (height, width, channels) = vertices[source], new.shape[1:]
            skip = skip[:, np.arange(height) * skip.shape[1] // height][:, :, np.arange(width) * skip.shape[2] // width]
            skip = skip[..., :channels]
            new = new + np.pad(skip, ((0, 0), (0, 0), (0, 0), (0, channels - skip.shape[-1])))
        vertices.append(np.maximum(new, 0) if dna.relu[i] else new)
    last = vertices[-1]
    return last.mean((1, 2)) @ np.asarray(weights.output)[: last.shape[-1]] + np.asarray(weights.output_bias)[None]


@pytest.mark.parametrize(
    "dna",
    [
        network(),
        SOME,
        network(
            (3, (3, 5), 1, True), (2, (5, 1), 1, True), (6, (3, 3), 0, False), None, skips=[(0, 2), (0, 3), (1, 4)]
        ),
    ],
    ids=["trivial", "some", "full"],
)
def test_fixed_shapes_compute_the_real_network(dna):
    weights = begin(dna, jax.random.key(1))
    assert parameters(BOUNDS, dna) >= sum(int(np.count_nonzero(leaf)) for leaf in weights)
    np.testing.assert_allclose(logits(weights, dna, IMAGES), real_network(weights, dna, IMAGES), rtol=1e-4, atol=1e-5)


@jax.jit
def child_of(kind, key):
    """The child of `SOME` by one mutation: its weights and what it says."""
    weights = drawn_weights(BOUNDS, SOME, jax.random.key(1))
    weights = jax.tree.map(lambda x: jnp.where(x == 0, x, x + 0.1), weights)
    child = mutate_by(BOUNDS, SOME, kind, key)
    heir = inherited(BOUNDS, SOME, weights, child, jax.random.key(2))
    return weights, child, heir, apply(BOUNDS, weights, SOME, IMAGES), apply(BOUNDS, heir, child.dna, IMAGES)


@pytest.mark.parametrize("kind", [Mutation.IDENTITY, Mutation.ALTER_LEARNING_RATE, Mutation.INSERT_ONE_TO_ONE])
def test_children_of_identity_like_mutations_compute_what_their_parents_do(kind):
    *_, before, after = child_of(int(kind), jax.random.key(4))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


def test_only_what_changed_its_shape_is_drawn_anew():
    """A filter's size: this filter alone, if it changed. A reset: everything."""
    seen = set()
    for key in jax.random.split(jax.random.key(0), 8):
        weights, child, heir, _, _ = child_of(int(Mutation.FILTER_SIZE), key)
        changed = (np.asarray(child.dna.window) != np.asarray(SOME.window)).any(-1)
        seen.add(tuple(np.flatnonzero(changed).tolist()))
        for i in (0, 2):
            assert np.array_equal(heir.kernels[i], weights.kernels[i]) != changed[i]
        np.testing.assert_array_equal(heir.output, weights.output)
    assert seen == {(), (0,), (2,)}
    weights, child, heir, before, after = child_of(int(Mutation.RESET_WEIGHTS), jax.random.key(0))
    assert not np.intersect1d(weights.kernels[weights.kernels != 0], heir.kernels).size
    assert not np.intersect1d(weights.output[weights.output != 0], heir.output).size
    assert np.abs(after - before).max() > 0.01


def test_lowers_for_every_platform():
    def everything(key):
        weights, child, heir, before, after = child_of(int(Mutation.FILTER_SIZE), key)
        return jax.grad(lambda w: apply(BOUNDS, w, child.dna, IMAGES).sum())(heir), before, after, weights

    exported = jax.export.export(jax.jit(everything), platforms=("cpu", "cuda", "tpu"))(jax.random.key(0))
    assert exported.platforms == ("cpu", "cuda", "tpu")


def stripes(rows=96):
    """Rows or columns of random brightness, of mean 0: the mean over an image, all the start knows, says nothing."""
    lines = jax.random.normal(jax.random.key(3), (rows, 1, 6))
    x = jnp.broadcast_to(lines - lines.mean(-1, keepdims=True), (rows, 6, 6))
    y = jnp.arange(rows) % 2
    x = jnp.where(y[:, None, None] == 1, x, jnp.swapaxes(x, 1, 2))[..., None]
    return {"train": {"x": x[:64], "y": y[:64]}, "valid": {"x": x[64:], "y": y[64:]}}


@pytest.fixture(scope="module")
def evolved():
    bounds = Bounds(image=(6, 6, 1), outputs=2, layers=2, channels=4, kernel=3)
    evolution = LargeScaleEvolution(bounds=bounds, population=6, pairs=3, steps=24, batch_size=16)
    data = stripes()
    with jax.numpy_dtype_promotion("strict"):
        start = evolution.init(jax.random.key(0), data)
        state, history = evolution.run(start, data, generations=40)
    return evolution, data, start, state, history


@pytest.mark.slow
def test_it_grows_and_beats_its_start(evolved):
    evolution, data, start, state, history = evolved
    assert not start.population.dna.count.any()
    assert float(start.population.error.min()) > 0.25
    assert float(history.best[-1]) < 0.1
    assert float(history.layers[-1]) >= 1.0
    assert int(history.parameters[-1]) > (1 + 1) * 2
    assert int(state.generation) == 40
    dna, weights = evolution.best(state)
    found = jax.jit(evolution.logits)(weights, dna, data["valid"]["x"])
    error = (found.argmax(-1) != data["valid"]["y"]).mean(dtype=jnp.float32)
    assert float(error) == pytest.approx(float(history.best[-1]), abs=1e-6)


@pytest.mark.slow
def test_the_worse_of_each_pair_dies(evolved):
    """So the best one never does, and every child's parent was alive."""
    *_, state, history = evolved
    assert (np.diff(np.asarray(history.best)) <= 0).all()
    assert (np.asarray(history.parent_error)[1:] >= np.asarray(history.best)[:-1, None]).all()
    assert (np.asarray(state.population.generation) <= 40).all()
    assert len(np.unique(np.asarray(history.mutation))) > 6


@pytest.mark.slow
@pytest.mark.standard_promotion
def test_digits():
    """From 9 of 10 wrong to less than half; going on from a parent's weights gains more than beginning anew."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x, y = jnp.asarray(images / 16, jnp.float32).reshape(-1, 8, 8, 1), jnp.asarray(labels, jnp.int32)
    order = np.random.RandomState(0).permutation(len(y))  # the last writers are others than the first
    parts = {"train": order[:1297], "valid": order[1297:]}
    data = {name: {"x": x[rows], "y": y[rows]} for name, rows in parts.items()}
    bounds = Bounds(image=(8, 8, 1), outputs=10, layers=4, channels=8, kernel=3)
    evolution = LargeScaleEvolution(bounds=bounds, population=12, pairs=6, steps=150, batch_size=32)
    start = evolution.init(jax.random.key(0), data)
    _, history = evolution.run(start, data, generations=40)
    assert float(start.population.error.min()) > 0.8
    assert float(history.best[-1]) < 0.5
    assert float(history.layers[-1]) > 1.5
    kinds, gain = np.asarray(history.mutation), np.asarray(history.parent_error - history.child_error)
    late = np.arange(40)[:, None] >= 10
    kept, reset = (gain[(kinds == kind) & late] for kind in (Mutation.IDENTITY, Mutation.RESET_WEIGHTS))
    assert min(len(kept), len(reset)) > 5
    assert kept.mean() > reset.mean()


def test_errors():
    data = stripes()
    evolution = LargeScaleEvolution(bounds=Bounds(image=(6, 6, 1), outputs=2), population=6, pairs=3)
    wrong = data | {"train": {"x": jnp.zeros((4, 7, 6, 1)), "y": jnp.zeros(4, jnp.int32)}}
    with pytest.raises(ValueError, match="images of data\\['train'\\] have shape"):
        evolution.init(jax.random.key(0), wrong)
    broken = data | {"valid": {"x": data["valid"]["x"].at[0].set(jnp.nan), "y": data["valid"]["y"]}}
    with pytest.raises(ValueError, match="data holds 36 values that are NaN or infinite at 'valid/x'"):
        evolution.init(jax.random.key(0), broken)
    beyond = data | {"train": data["train"] | {"y": data["train"]["y"] + 1}}
    with pytest.raises(ValueError, match=r"the labels of data\['train'\] must be in \[0, 2\)"):
        evolution.init(jax.random.key(0), beyond)
    with pytest.raises(ValueError, match="must not be above half of the population=3"):
        LargeScaleEvolution(bounds=evolution.bounds, population=6, pairs=4)
