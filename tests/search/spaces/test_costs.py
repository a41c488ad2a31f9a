"""Costs of layers by hand, and what holds for every ready-made space."""

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
    Stage,
    Text,
    beside,
    training,
)
from jaxcompress.search.spaces.costs import Cost, convolution, dense, depthwise, divisible, halved

# With limits on parameters and FLOPs that some candidates keep.
FAMILIES = {
    "nas_bench_201": (NasBench201(), 500_000, 150e6),
    "nasnet": (NasNet(blocks=3, operations=ENAS, normal=1), 500_000, 160e6),
    "mobilenet": (MobileNet(widths=(0.75, 1.0), resolutions=(128, 160)), 4_500_000, 200e6),
    "efficientnet": (EfficientNet(), 20_000_000, 10e9),
    "image_blocks": (ImageBlocks(), 100_000, 50e6),
    "text": (Text(vocabulary=1000, classes=6), 150_000, 5e6),
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


@pytest.mark.parametrize("name", FAMILIES)
def test_limits(name):
    """One program for all candidates: the violation is what is over, relative to the limits."""
    family, parameters, flops = FAMILIES[name]
    space = family.space(parameters=parameters, flops=flops)

    @jax.jit
    def ask(key):
        genomes = space.decode(space.sample(key, 32))
        return jax.vmap(family.costs)(genomes), jax.vmap(space.violation)(genomes)

    costs, violation = ask(jax.random.key(0))
    assert costs.parameters.dtype == jnp.int32
    assert costs.flops.dtype == jnp.float32
    assert len(np.unique(costs.parameters)) > 4
    limits = zip(costs, (parameters, flops), strict=True)
    over = [np.maximum(np.asarray(cost, np.float64) - limit, 0) / limit for cost, limit in limits]
    np.testing.assert_allclose(violation, over[0] + over[1], rtol=1e-5, atol=1e-6)
    assert all(0 < (one > 0).mean() < 1 for one in over)
    assert "constraint: parameters <=" in str(space)
    assert space == family.space(parameters=parameters, flops=flops)
    assert space != family.space(parameters=parameters)


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
        (lambda: EfficientNet(multiple=0), r"EfficientNet\(multiple=\) must be an integer of at least 1, got 0"),
        (lambda: ImageBlocks(classes=-1), r"classes=\) must be an integer of at least 1, got -1"),
        (lambda: MobileNet(features=0), r"features=\) must be an integer of at least 1, got 0"),
        (
            lambda: MobileNet(stages=(Stage(16, stride=3),)),
            "stride=3.* a stride of 1 or 2",
        ),
        (lambda: NasBench201(cells=0), r"cells=\) must be an integer of at least 1, got 0"),
        (lambda: NasNet(blocks=0), r"blocks=\) must be an integer of at least 1, got 0"),
        (lambda: Text(vocabulary=100, classes=2.5), r"classes=\) must be an integer of at least 1, got 2.5"),
        (lambda: ImageBlocks(widths=(16, 24)), "24 is no multiple of 16"),
        (lambda: ImageBlocks(splits=((1, 2, 3, 4),)), r"\(1, 2, 3, 4\) must be four numbers"),
    ],
)
def test_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()
