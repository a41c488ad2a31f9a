"""Costs of layers by hand, and what holds for every ready-made space."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.search.space import Choice, Constraint, Space
from jaxcompress.search.spaces import (
    ENAS,
    EfficientNet,
    ImageBlocks,
    MobileNet,
    NasBench201,
    NasNet,
    Text,
    beside,
    training,
)
from jaxcompress.search.spaces.costs import Cost, convolution, dense, depthwise, divisible, halved

FAMILIES = {
    "nas_bench_201": NasBench201(),
    "nasnet": NasNet(blocks=3, operations=ENAS, normal=1),
    "mobilenet": MobileNet(widths=(0.75, 1.0), resolutions=(128, 160)),
    "efficientnet": EfficientNet(),
    "image_blocks": ImageBlocks(),
    "text": Text(vocabulary=1000, classes=6),
}


def test_layers_by_hand():
    assert cost(convolution(3, 8, 25, 100, bias=True)) == (3 * 8 * 25 + 2 * 8 + 8, 2 * 3 * 8 * 25 * 100)
    assert cost(convolution(3, 8, 25, 100, norm=False)) == (600, 120_000)
    assert cost(depthwise(8, 9, 10)) == (72 + 16, 2 * 72 * 10)
    assert cost(dense(10, 4)) == (44, 80)
    assert cost(dense(10, 4).times(3) + dense(10, 4, bias=False).times(False)) == (132, 240)
    assert halved(jnp.array([7, 8])).tolist() == [4, 4]


def cost(cost: Cost):
    return int(cost.parameters), float(cost.flops)


def round_filters(width: float) -> int:
    """As the code published with EfficientNet rounds, in Python's float64."""
    new = max(8, int(width + 4) // 8 * 8)
    return new + 8 if new < 0.9 * width else new


def test_divisible():
    """For every multiplier of two digits that a search would ask for, and every width of the published networks."""
    for base in (16, 24, 32, 40, 80, 96, 112, 160, 192, 320, 960, 1280):
        multipliers = np.arange(35, 221) / 100
        ours = divisible(base * jnp.asarray(multipliers, jnp.float32))
        exact = [round_filters(base * multiplier) for multiplier in multipliers]
        np.testing.assert_array_equal(ours, exact)


@functools.cache
def drawn(name):
    """Candidates of a family, their costs together and one after the other."""
    family = FAMILIES[name]
    space = family.space()
    genomes = space.decode(space.sample(jax.random.key(0), 16))
    return genomes, jax.jit(jax.vmap(family.costs))(genomes), jax.jit(lambda g: jax.lax.map(family.costs, g))(genomes)


@pytest.mark.parametrize("name", FAMILIES)
def test_one_program_for_all_candidates(name):
    _, together, alone = drawn(name)
    np.testing.assert_array_equal(together.parameters, alone.parameters)
    np.testing.assert_allclose(together.flops, alone.flops, rtol=1e-6)
    assert together.parameters.dtype == jnp.int32
    assert together.flops.dtype == jnp.float32
    assert (np.asarray(together.parameters) > 0).all()
    assert len(np.unique(together.parameters)) > 4


@pytest.mark.parametrize("name", FAMILIES)
def test_limits(name):
    """The violation is what is over, relative to the limit; the same limits make the same space."""
    genomes, costs, _ = drawn(name)
    family = FAMILIES[name]
    limit, most = float(np.median(costs.parameters)), float(np.median(costs.flops))
    space = family.space(parameters=limit, flops=most)
    assert space == family.space(parameters=limit, flops=most)
    assert space != family.space(parameters=limit)
    violation = jax.jit(jax.vmap(space.violation))(genomes)
    over = [np.maximum(np.asarray(n, np.float64) - m, 0) / m for n, m in zip(costs, (limit, most), strict=True)]
    np.testing.assert_allclose(violation, over[0] + over[1], rtol=1e-5, atol=1e-6)
    assert (np.asarray(violation) == 0).any()
    assert (np.asarray(violation) > 0).any()
    assert "constraint: parameters <=" in str(space)


def test_beside():
    """Constraints read their own part; conditions keep to it too."""
    model = NasBench201().space(parameters=500_000)
    space = beside(model=model, training=training())
    config = {
        "model": {"edges": ["nor_conv_3x3"] * 2 + ["none"] * 4},
        "training": {
            "rate": 0.01, "schedule": "constant", "warmup": 0.0, "momentum": 0.9, "weight_decay": 1e-4,
            "label_smoothing": 0.0, "augmentation": {"flip": True, "shift": 2, "hole": 0},
        },
    }  # fmt: skip
    genome = space.decode(space.encode(config))
    expected = (73306 + 2 * 243040) / 500_000 - 1
    np.testing.assert_allclose(space.violation(genome), expected, rtol=1e-5)
    assert [constraint.name for constraint in space.constraints] == ["model/parameters"]
    assert space.size == math.inf
    assert space == beside(model=NasBench201().space(parameters=500_000), training=training())
    at_least = Space({"a": Choice((1, 2))}, [Constraint("a", lambda genome: genome["a"], at_least=2)])
    assert float(beside(x=at_least).violation({"x": {"a": jnp.int32(1)}})) == 0.5
    with pytest.raises(ValueError, match="no spaces given"):
        beside()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: NasNet(operations=("conv_1x1", "conv_2")), "'conv_2' is unknown"),
        (lambda: NasNet(combine=("add", "mul")), "'mul' is neither"),
        (lambda: NasNet(output="some"), "'some' is neither"),
        (lambda: EfficientNet(beta=0.9), r"beta=\) must be at least 1, got 0.9"),
        (lambda: EfficientNet(largest=60), "out of reach"),
        (lambda: ImageBlocks(widths=(16, 24)), "24 is no multiple of 16"),
        (lambda: ImageBlocks(splits=((1, 2, 3, 4),)), r"\(1, 2, 3, 4\) must be four numbers"),
    ],
)
def test_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()
