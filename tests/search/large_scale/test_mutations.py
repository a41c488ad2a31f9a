"""What mutations do to a network: each by hand, and all of them in long random rows."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcompress.search.large_scale import (
    DNA,
    Bounds,
    Mutation,
    mutate,
    mutate_by,
    parameters,
    possible,
    trivial,
)
from jaxcompress.search.large_scale.dna import vertices

BOUNDS = Bounds(image=(7, 6, 1), outputs=3, layers=4, channels=6, kernel=5, stride=1)


def network(*layers, skips=(), rate=0.1):
    """DNA of ``(channels, (height, width), stride, relu)``, or None for a one-to-one layer."""
    dna = jax.tree.map(np.array, trivial(BOUNDS, rate=rate))
    for i, layer in enumerate(layers):
        if layer is not None:
            dna.convolution[i] = True
            dna.channels[i], dna.window[i], dna.stride[i], dna.relu[i] = layer
    for skip in skips:
        dna.skips[skip] = True
    return DNA(*map(jnp.asarray, dna._replace(count=np.int32(len(layers)))))


SOME = network((2, (3, 3), 0, True), None, (4, (1, 3), 1, False), skips=[(0, 2), (1, 3)])
by = jax.jit(jax.vmap(partial(mutate_by, BOUNDS), in_axes=(None, None, 0)))
KEYS = jax.random.split(jax.random.key(0), 64)


def children(kind, dna=SOME):
    return jax.tree.map(np.asarray, by(dna, jnp.int32(kind), KEYS))


def same_but(found, *changed):
    for name in set(DNA._fields) - set(changed):
        np.testing.assert_array_equal(
            getattr(found.dna, name), np.broadcast_to(getattr(SOME, name), getattr(found.dna, name).shape)
        )


@pytest.mark.parametrize(
    ("kind", "field", "values"),
    [
        (Mutation.IDENTITY, None, None),
        (Mutation.RESET_WEIGHTS, None, None),
        (Mutation.ALTER_STRIDE, "stride", {(0, 0, 1, 0), (1, 0, 1, 0), (0, 0, 0, 0)}),
        (
            Mutation.ALTER_NUMBER_OF_CHANNELS,
            "channels",
            {(n, 0, 4, 0) for n in (1, 2, 3, 4)} | {(2, 0, n, 0) for n in range(2, 7)},
        ),
    ],
)
def test_mutations_that_change_one_thing(kind, field, values):
    """Strides one power up or down, channels half to twice (at most 6), every value that may come does come."""
    found = children(kind)
    same_but(found, field)
    if field:
        assert {tuple(row.tolist()) for row in getattr(found.dna, field)} == values
    origin = -1 if kind == Mutation.RESET_WEIGHTS else np.arange(4)
    assert (found.origin == origin).all()


def test_learning_rates_are_half_to_twice():
    rates = children(Mutation.ALTER_LEARNING_RATE).dna.rate
    assert 0.05 <= rates.min() < 0.07
    assert 0.18 < rates.max() <= 0.2


def test_filter_sizes_are_odd_and_change_one_side():
    found = children(Mutation.FILTER_SIZE)
    same_but(found, "window")
    sizes = {tuple(row[[0, 2]].ravel().tolist()) for row in found.dna.window}
    assert sizes == {
        *((h, 3, 1, 3) for h in (1, 3, 5)),
        *((3, w, 1, 3) for w in (1, 5)),
        *((3, 3, h, 3) for h in (3,)),
        *((3, 3, 1, w) for w in (1, 5)),
    }


def test_inserting_and_removing():
    """The inserted convolution gets the channels that come in; skips stay between the vertices they were between."""
    found = children(Mutation.INSERT_CONVOLUTION)
    for i, origin in enumerate(found.origin.tolist()):
        at = origin.index(-1)
        assert origin == [*range(at), -1, *range(at, 3)]
        assert found.dna.count[i] == 4
        assert found.dna.window[i, at].tolist() == [3, 3]
        assert found.dna.channels[i, at] == [1, 2, 2, 4][at]
        assert {tuple(pair) for pair in np.argwhere(found.dna.skips[i]).tolist()} == {
            tuple(vertex + (vertex > at) for vertex in skip) for skip in [(0, 2), (1, 3)]
        }
    assert set(found.dna.stride[np.arange(64), found.origin.argmin(1)].tolist()) == {0, 1}
    removed = children(Mutation.REMOVE_CONVOLUTION)
    assert (removed.dna.count == 2).all()
    rows = {tuple(map(tuple, np.argwhere(skips).tolist())) for skips in removed.dna.skips}
    assert rows == {((0, 1), (0, 2)), ((0, 2), (1, 2))}


def test_skips_are_added_where_there_is_none_and_removed_where_there_is_one():
    added = children(Mutation.ADD_SKIP).dna.skips
    assert {tuple(np.argwhere(skips & ~np.asarray(SOME.skips))[0].tolist()) for skips in added} == {
        *((0, 1), (0, 3), (1, 2), (2, 3))
    }
    assert (children(Mutation.REMOVE_SKIP).dna.skips.sum((1, 2)) == 1).all()


def test_what_is_possible():
    names = {kind.name for kind in Mutation if possible(BOUNDS, trivial(BOUNDS))[kind]}
    assert names == {"ALTER_LEARNING_RATE", "IDENTITY", "RESET_WEIGHTS", "INSERT_CONVOLUTION", "INSERT_ONE_TO_ONE"}
    full = network(*[(1, (1, 1), 0, False)] * 4)
    assert not possible(BOUNDS, full)[Mutation.INSERT_CONVOLUTION]
    assert not possible(BOUNDS, full)[Mutation.REMOVE_SKIP]


def test_long_rows_of_mutations_stay_within_the_bounds():
    """500 lives of 60 mutations in one program: every kind happens, every network is a network."""

    def life(key):
        def step(dna, key):
            child = mutate(BOUNDS, dna, key)
            return child.dna, child

        return lax.scan(step, trivial(BOUNDS), jax.random.split(key, 60))[1]

    found = jax.jit(jax.vmap(life))(jax.random.split(jax.random.key(1), 500))
    sizes = jax.jit(jax.vmap(jax.vmap(partial(vertices, BOUNDS))))(found.dna)
    dna = jax.tree.map(np.asarray, found.dna)
    assert set(np.unique(found.mutation)) == set(Mutation)
    assert set(np.unique(dna.count)) == set(range(5))
    there = np.arange(4) < dna.count[..., None]
    real = dna.convolution
    assert not (real & ~there).any()
    assert set(np.unique(dna.channels[real])) == set(range(1, 7))
    assert set(np.unique(dna.window[real])) == {1, 3, 5}
    assert set(np.unique(dna.stride[real])) == {0, 1}
    for field in ("channels", "window", "stride"):
        assert not getattr(dna, field)[~real].any()
    assert not np.tril(dna.skips).any()
    assert not (dna.skips & (np.arange(5) > dna.count[..., None])[..., None, :]).any()
    assert min(int(np.min(size)) for size in sizes) == 1


def test_parameters_by_hand():
    """3 x 3 from 1 to 2, 1 x 3 from 2 to 4, 4 to 3 outputs, and biases."""
    assert parameters(BOUNDS, SOME) == (9 * 2 + 2) + (3 * 2 * 4 + 4) + (4 * 3 + 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel": 4}, "kernel must be odd, got 4"),
        ({"channels": 2, "image": (4, 4, 3)}, "channels=2 cannot hold the 3 channels"),
        ({"image": (4, 4)}, r"image must be \(height, width, channels\), each 1 or more, got \(4, 4\)"),
        ({"layers": 0}, "layers and outputs must be 1 or more"),
    ],
)
def test_bad_bounds(settings, message):
    with pytest.raises(ValueError, match=message):
        Bounds(**({"image": (4, 4, 1), "outputs": 2} | settings))
