"""NASNet's cells against a plain count, and by hand."""

import jax
import jax.numpy as jnp
import pytest

from jaxcompress.search.spaces import ENAS, NASNET, NasNet
from jaxcompress.search.spaces.cell_operations import operation_cost


def test_operations_by_hand():
    width, positions = 8, 16
    expected = {
        "none": (0, 0),
        "skip_connect": (0, 0),
        "avg_pool_3x3": (0, 0),
        "max_pool_7x7": (0, 0),
        "conv_1x1": (64 + 16, 64),
        "conv_3x3": (9 * 64 + 16, 9 * 64),
        "conv_1x3_3x1": (2 * 3 * 64 + 16, 6 * 64),
        "conv_1x7_7x1": (2 * 7 * 64 + 16, 14 * 64),
        "dil_conv_3x3": (72 + 64 + 16, 72 + 64),
        "sep_conv_5x5": (2 * (25 * 8 + 64 + 16), 2 * (25 * 8 + 64)),
    }
    for name, (parameters, macs) in expected.items():
        cost = operation_cost(name, width, positions)
        assert (int(cost.parameters), float(cost.flops)) == (parameters, 2 * macs * positions)
    assert int(operation_cost("skip_connect", width, positions, stride=2).parameters) == 64 + 16


def plain_count(family, config):
    """Parameters by walking through the network, layer by layer."""

    def operation(name, width, stride):
        if name == "skip_connect":
            return width**2 + 2 * width if stride == 2 else 0
        if "pool" in name:
            return 0
        side = int(name[-1])
        return 2 * (side**2 * width + width**2 + 2 * width)

    width, total = family.channels, 27 * 3 * family.channels + 6 * family.channels
    before = [3 * width, 3 * width]
    plan = (["normal"] * family.normal + ["reduction"]) * 2 + ["normal"] * family.normal
    for kind in plan:
        width *= 2 if kind == "reduction" else 1
        total += sum(inputs * width + 2 * width for inputs in before)
        taken = set()
        for i in range(family.blocks):
            block = config[kind][f"block_{i}"]
            for side in ("left", "right"):
                taken.add(block[side])
                stride = 2 if kind == "reduction" and block[side] < 2 else 1
                total += operation(block[f"{side}_operation"], width, stride)
            total += 2 * width * width + 2 * width if block["combine"] == "concat" else 0
        outputs = width * len(set(range(2, family.blocks + 2)) - taken)
        before = [before[1], outputs]
    return total + outputs * family.classes + family.classes


def test_random_cells():
    family = NasNet(blocks=4, operations=ENAS, normal=2, channels=8)
    space = family.space()
    genes = space.sample(jax.random.key(0), 12)
    costs = jax.jit(jax.vmap(family.costs))(space.decode(genes))
    assert costs.parameters.tolist() == [plain_count(family, config) for config in space.config(genes)]


@pytest.mark.parametrize(("output", "loose"), [("loose", [False, True, False, True]), ("all", [True] * 4)])
def test_loose_ends(output, loose):
    family = NasNet(blocks=4, output=output)
    sides = [(0, 1), (1, 2), (0, 0), (4, 1)]
    cell = {f"block_{i}": {"left": jnp.int32(a), "right": jnp.int32(b)} for i, (a, b) in enumerate(sides)}
    assert family.loose(cell).tolist() == loose


def test_size():
    """Block i chooses twice among i + 2 states and 13 operations, and how to combine them; in each of two cells."""
    assert len(NASNET) == 13
    one = 1
    for i in range(5):
        one *= (i + 2) ** 2 * 13**2 * 2
    assert NasNet().space().size == one**2
