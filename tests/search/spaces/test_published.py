"""Parameters and multiply-accumulates of published networks, found again in the spaces that hold them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.search.spaces import DARTS, EfficientNet, MobileNet, NasBench201, NasNet, Stage
from jaxcompress.search.spaces.costs import convolution, dense, divisible
from jaxcompress.search.spaces.inverted_residual import inverted_residual

# Depth and width factors, resolution; parameters and giga-MACs of torchvision's EfficientNets.
EFFICIENT_NETS = [
    (1.0, 1.0, 224, 5_288_548, 0.386),
    (1.1, 1.0, 240, 7_794_184, 0.687),
    (1.2, 1.1, 288, 9_109_994, 1.088),
    (1.4, 1.2, 300, 12_233_232, 1.827),
    (1.8, 1.4, 380, 19_341_616, 4.394),
    (2.2, 1.6, 456, 30_389_784, 10.266),
    (2.6, 1.8, 528, 43_040_704, 19.068),
    (3.1, 2.0, 600, 66_347_960, 37.746),
]


def test_efficient_nets():
    """All eight, by one program: the parameters exactly, MACs to the digits that are published."""
    network = EfficientNet()
    costs = jax.jit(lambda depth, width, side: network.costs_of(network.at(depth, width, side)))
    for depth, width, side, parameters, giga_macs in EFFICIENT_NETS:
        cost = costs(depth, width, side)
        assert int(cost.parameters) == parameters
        assert abs(float(cost.flops) / 2e9 - giga_macs) < 0.0006


def test_compound_scaling():
    """FLOPs double, about, with every step of the knob; its zero is B0."""
    network = EfficientNet()
    space = network.space()
    genomes = space.decode(space.encode([{"phi": float(phi)} for phi in range(8)]))
    scaled = jax.jit(jax.vmap(network.scaled))(genomes)
    assert scaled.widths[0].tolist() == [16, 24, 40, 80, 112, 192, 320]
    assert scaled.repeats[0].tolist() == [1, 2, 2, 3, 3, 4, 1]
    assert scaled.resolution.tolist() == [round(224 * 1.15**phi / 4) * 4 for phi in range(8)]
    assert scaled.repeats[:, 2].tolist() == [int(np.ceil(2 * 1.2**phi - 1e-5)) for phi in range(8)]
    flops = np.asarray(jax.jit(jax.vmap(network.costs))(genomes).flops, np.float64)
    per_step = (flops[-1] / flops[0]) ** (1 / 7)
    assert pytest.approx(1.92, abs=0.01) == 1.2 * 1.1**2 * 1.15**2
    assert 1.85 < per_step < 2.05  # blocks and channels are rounded up
    assert (np.diff(flops) > 0).all()


def test_mobile_net_v2():
    stages = (Stage(24), Stage(32), Stage(64), Stage(96, 1), Stage(160), Stage(320, 1))
    family = MobileNet(
        stages=stages, kernels=(3,), expansions=(6,), depths=(1, 2, 3, 4), stem=32, first=16, last=1280, features=None
    )
    block = {"kernel": 3, "expansion": 6}
    config = {"width": 1.0, "resolution": 224, "stages": [{"blocks": [block] * n} for n in (2, 3, 4, 3, 3, 1)]}
    cost = jax.jit(family.costs)(family.space().decode(family.space().encode(config)))
    assert int(cost.parameters) == 3_504_872  # torchvision
    assert abs(float(cost.flops) / 2e9 - 0.301) < 0.0006


# Kernel, inner and outer channels, squeeze-and-excitation, stride (Howard et al., 2019, table 1).
MOBILE_NET_V3_LARGE = [
    (3, 16, 16, 0, 1), (3, 64, 24, 0, 2), (3, 72, 24, 0, 1), (5, 72, 40, 1, 2), (5, 120, 40, 1, 1), (5, 120, 40, 1, 1),
    (3, 240, 80, 0, 2), (3, 200, 80, 0, 1), (3, 184, 80, 0, 1), (3, 184, 80, 0, 1), (3, 480, 112, 1, 1),
    (3, 672, 112, 1, 1), (5, 672, 160, 1, 2), (5, 960, 160, 1, 1), (5, 960, 160, 1, 1),
]  # fmt: skip


def test_blocks_of_mobile_net_v3():
    """With squeeze-and-excitation through a quarter of the inner channels, as the space of once-for-all has it."""
    kernels, inner, outputs, squeeze, strides = np.array(MOBILE_NET_V3_LARGE, np.int32).T
    inputs = np.concatenate([[16], outputs[:-1]]).astype(np.int32)
    sides = 112 // np.cumprod(strides)
    before = np.concatenate([[112], sides[:-1]])
    squeezed = jnp.where(squeeze == 1, divisible((inner // 4).astype(np.float32)), 0)
    blocks = inverted_residual(
        inputs, inner, outputs, kernel=kernels, positions_in=before**2, positions_out=sides**2, squeezed=squeezed
    )
    total = convolution(3, 16, 9, 112**2) + blocks.total() + convolution(160, 960, 1, 49)
    total += dense(960, 1280) + dense(1280, 1000)
    assert int(total.parameters) == 5_483_032  # torchvision
    assert abs(float(total.flops) / 2e9 - 0.217) < 0.0006


def test_once_for_all_by_hand():
    """One network of the space, added up in plain Python; what lies behind the depth of a stage costs nothing."""
    family = MobileNet(classes=10, widths=(0.5, 1.0), resolutions=(64, 96))
    space = family.space()
    block = {"kernel": 5, "expansion": 4}
    config = {"width": 0.5, "resolution": 96, "stages": [{"blocks": [block] * n} for n in (2, 3, 4, 2, 2)]}
    cost = jax.jit(family.costs)(space.decode(space.encode(config)))
    rounded = lambda width: max(8, int(width + 4) // 8 * 8)  # noqa: E731
    parameters, macs, side, inputs = 3 * 8 * 9 + 16, 27 * 8 * 48 * 48, 48, 8
    parameters += 9 * 8 + 16 + 8 * 8 + 16
    macs += (9 * 8 + 64) * side**2
    for stage, depth in zip(family.stages, (2, 3, 4, 2, 2), strict=True):
        outputs = {24: 16, 40: 24, 80: 40, 112: 56, 160: 80}[stage.width]
        for i in range(depth):
            stride = stage.stride if i == 0 else 1
            inner, small = inputs * 4, -(-side // stride)
            squeezed = rounded(inner // 4) if stage.squeeze else 0
            excitation = 2 * inner * squeezed
            parameters += inputs * inner + 2 * inner + 25 * inner + 2 * inner + inner * outputs + 2 * outputs
            parameters += excitation + (squeezed + inner if squeezed else 0)
            macs += inputs * inner * side**2 + (25 * inner + inner * outputs) * small**2 + excitation
            inputs, side = outputs, small
    parameters += 80 * 480 + 960 + 480 * 640 + 640 * 10 + 10
    macs += 80 * 480 * side**2 + 480 * 640 + 6400
    assert side == 3
    assert int(cost.parameters) == parameters
    np.testing.assert_allclose(float(cost.flops), 2 * macs, rtol=1e-6)


def test_size_of_once_for_all():
    assert MobileNet().space().size == ((3 * 3) ** 2 + (3 * 3) ** 3 + (3 * 3) ** 4) ** 5
    assert 2e19 < MobileNet().space().size < 2.2e19  # the paper: about 2 * 10^19


# The cells of DARTS (second order) and P-DARTS on CIFAR-10: pairs of (operation, state) per block.
CELLS = {
    "darts": (
        [("sep_conv_3x3", 0), ("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("sep_conv_3x3", 1), ("sep_conv_3x3", 1),
         ("skip_connect", 0), ("skip_connect", 0), ("dil_conv_3x3", 2)],
        [("max_pool_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 2), ("max_pool_3x3", 1), ("max_pool_3x3", 0),
         ("skip_connect", 2), ("skip_connect", 2), ("max_pool_3x3", 1)],
        3_349_342,
    ),
    "p-darts": (
        [("skip_connect", 0), ("dil_conv_3x3", 1), ("skip_connect", 0), ("sep_conv_3x3", 1), ("sep_conv_3x3", 1),
         ("sep_conv_3x3", 3), ("sep_conv_3x3", 0), ("dil_conv_5x5", 4)],
        [("avg_pool_3x3", 0), ("sep_conv_5x5", 1), ("sep_conv_3x3", 0), ("dil_conv_5x5", 2), ("max_pool_3x3", 0),
         ("dil_conv_3x3", 1), ("dil_conv_3x3", 1), ("dil_conv_5x5", 3)],
        3_433_798,
    ),
}  # fmt: skip


def cell(edges):
    """Pairs of edges as blocks."""
    blocks = {}
    for i, (left, right) in enumerate(zip(edges[::2], edges[1::2], strict=True)):
        states = {"left": left[1], "right": right[1], "left_operation": left[0], "right_operation": right[0]}
        blocks[f"block_{i}"] = {**states, "combine": "add"}
    return blocks


def test_cells_of_darts():
    """20 cells of 36 channels, without the auxiliary head; the counts that the authors' code prints."""
    family = NasNet(blocks=4, operations=DARTS, combine=("add",), output="all", channels=36)
    space = family.space()
    costs = jax.jit(family.costs)
    for normal, reduction, parameters in CELLS.values():
        genome = space.decode(space.encode({"normal": cell(normal), "reduction": cell(reduction)}))
        assert int(costs(genome).parameters) == parameters


@pytest.fixture(scope="module")
def table(data_folder):
    return np.load(data_folder / "nb201.npz")


def test_nas_bench_201_extremes():
    """From the paper's benchmark: 220.12 mega-MACs and 1.531546 M parameters of the largest, 7.78 of the empty one."""
    family = NasBench201()
    costs = jax.jit(family.costs)
    empty, full = (costs({"edges": jnp.full(6, op, jnp.int32)}) for op in (0, 3))
    assert int(full.parameters) == 1_531_546
    assert abs(float(full.flops) / 2e6 - 220.12) < 0.006
    assert abs(float(empty.flops) / 2e6 - 7.78) < 0.006


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100), ("imagenet", 120)])
def test_sizes_of_the_table(table, name, classes):
    """All rows, but for 150 in which the table has one convolution more or fewer.

    These are cells with the same convolution twice side by side, or on an edge that leads nowhere: the benchmark seems
    to repeat results among cells that it takes to be alike.
    """
    family = NasBench201(classes=classes)
    space = family.space()
    genomes = space.decode(space.enumerate())
    np.testing.assert_array_equal(family.row(genomes), np.arange(15625))
    costs = jax.jit(jax.vmap(family.costs))(genomes)
    off = np.asarray(costs.parameters) - np.round(table[f"{name}_size"].astype(np.float64) * 1e6)
    right = np.abs(off) <= 1  # the table is float32 millions
    assert right.sum() == 15625 - 150
    assert {round(n) for n in np.abs(off[~right])} == {28_000, 243_040}


def test_edges_of_the_table(table):
    """Exactly the cells without a way from input to output are at chance: the digits are the edges in our order."""
    none = np.asarray(NasBench201().space().enumerate().codes) == 0
    one, two, one_two, three, one_three, two_three = (~none).T
    second = two | one & one_two
    connected = three | one & one_three | second & two_three
    at_chance = np.nanmean(table["cifar10_val"], axis=1) <= 10.0001
    np.testing.assert_array_equal(at_chance, ~connected)
    assert at_chance.sum() == 341
