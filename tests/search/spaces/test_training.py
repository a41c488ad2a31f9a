"""What the variables of a training strategy mean."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcompress.search.spaces import augmented, learning_rate, smoothed, training
from jaxcompress.search.spaces.training import SCHEDULES


def genome(**changes):
    base = {"rate": 0.5, "schedule": "constant", "warmup": 0.0, "momentum": 0.9, "weight_decay": 1e-4}
    base |= {"label_smoothing": 0.1, "augmentation": {"flip": False, "shift": 0, "hole": 0}} | changes
    space = training(rate=(0.001, 1.0))
    return space.decode(space.encode(base))


@pytest.mark.standard_promotion
def test_schedules():
    """Against optax, where it has the same; all four by one program."""
    steps = jnp.arange(101)
    rates = jax.jit(lambda genome: learning_rate(genome, steps, 100))
    at = lambda **changes: np.asarray(rates(genome(**changes)))  # noqa: E731
    np.testing.assert_allclose(at(), 0.5, rtol=1e-6)
    np.testing.assert_allclose(at(schedule="linear"), optax.linear_schedule(0.5, 0.0, 100)(steps), atol=1e-6)
    np.testing.assert_allclose(at(schedule="cosine"), optax.cosine_decay_schedule(0.5, 100)(steps), atol=1e-6)
    warm = optax.warmup_cosine_decay_schedule(0.0, 0.5, 10, 100)(steps)
    np.testing.assert_allclose(at(schedule="cosine", warmup=0.1), warm, atol=1e-6)
    dropping = at(schedule="steps", drops=3)
    expected = 0.5 * 10.0 ** -np.array([0, 0, 1, 1, 2, 2, 3, 3])
    np.testing.assert_allclose(dropping[[0, 24, 26, 49, 51, 74, 76, 100]], expected, rtol=1e-5)


def test_one_program_for_all_strategies(compilations):
    @jax.jit
    def rate(genome):
        return learning_rate(genome, 3, 10)

    genomes = [genome(schedule=name, **({"drops": 2} if name == "steps" else {})) for name in SCHEDULES]
    values = [float(rate(genome)) for genome in genomes]
    assert compilations("rate") == 1
    assert values == pytest.approx([0.5, 0.35, 0.25 * (1 + np.cos(0.3 * np.pi)), 0.5])


def test_smoothing():
    labels = jnp.array([[0, 3]])
    found = smoothed(genome(label_smoothing=0.1), labels, 4)
    np.testing.assert_allclose(found[0], [[0.925, 0.025, 0.025, 0.025], [0.025, 0.025, 0.025, 0.925]], rtol=1e-5)
    np.testing.assert_array_equal(smoothed(genome(label_smoothing=0.0), labels, 4), jax.nn.one_hot(labels, 4))


IMAGES = jnp.arange(1.0, 1.0 + 64 * 6 * 5).reshape(64, 6, 5, 1)


def augment(**strength):
    strength = {"flip": False, "shift": 0, "hole": 0, **strength}
    return np.asarray(PROGRAM(genome(augmentation=strength), jax.random.key(0), IMAGES))


PROGRAM = jax.jit(augmented)


def test_nothing_is_the_identity():
    np.testing.assert_array_equal(augment(), IMAGES)


def test_flips_half_of_the_images():
    found = augment(flip=True)
    flipped = (found == np.asarray(IMAGES)[:, :, ::-1]).all((1, 2, 3))
    same = (found == np.asarray(IMAGES)).all((1, 2, 3))
    assert (flipped ^ same).all()
    assert 16 < flipped.sum() < 48


def test_shifts_every_way_and_lets_zeros_in():
    """Each image is one of the 25 shifts by at most two pixels, as NumPy pads and cuts."""
    found = augment(shift=2)
    seen = set()
    for before, after in zip(np.asarray(IMAGES), found, strict=True):
        padded = np.pad(before, [(2, 2), (2, 2), (0, 0)])
        ways = {(a, b): padded[2 - a : 8 - a, 2 - b : 7 - b] for a in range(-2, 3) for b in range(-2, 3)}
        seen.add(next(way for way, image in ways.items() if (image == after).all()))
    assert len(seen) > 15
    assert {a for a, _ in seen} == {b for _, b in seen} == set(range(-2, 3))


def test_holes_are_squares_that_may_hang_over_the_edge():
    gone = (augment(hole=3) == 0)[..., 0]
    for one in gone:
        rows, columns = np.flatnonzero(one.any(1)), np.flatnonzero(one.any(0))
        assert one[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert len(rows) * len(columns) == one.sum()
        assert len(rows) in (2, 3)
        assert len(columns) in (2, 3)
    assert gone.any(0).all()
