"""NASNet's search space: a normal and a reduction cell of blocks that join two earlier states."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxcompress.search.checks import whole
from jaxcompress.search.space import Choice, IntRange, Space
from jaxcompress.search.spaces.cell_operations import NASNET, check_operations, operation_cost
from jaxcompress.search.spaces.costs import Cost, convolution, dense
from jaxcompress.search.spaces.limits import limited

SIDES = ("left", "right")


@dataclasses.dataclass(frozen=True)
class NasNet:
    """The space of NASNet, AmoebaNet, ENAS and DARTS: two cells, each of ``blocks`` blocks.

    A block takes two of the states before it (0 and 1 are the outputs of the two cells before, the others those of
    earlier blocks), applies an operation to each, and adds or concatenates them; after a concatenation a 1x1
    convolution brings the channels back. A cell puts out its loose ends, the blocks that no other block takes, side by
    side. 1x1 convolutions adapt what comes into a cell; in the reduction cell, operations on states 0 and 1 have a
    stride of two, and channels double.

    The network: a 3x3 stem of three times ``channels``, ``normal`` normal cells, a reduction cell, ``normal`` normal
    cells, a reduction cell, ``normal`` normal cells, the mean, a classifier.

    Args:
        blocks: of each cell.
        operations: what may be applied: `cell_operations.NASNET`, ``ENAS``, ``DARTS``, or names like theirs.
        combine: ``"add"``, ``"concat"``, or both to choose from.
        output: ``"loose"``, or ``"all"`` where all blocks go out (as in DARTS).
        classes: of the task.
        channels: inside of the first cells.
        normal: normal cells between reductions.
        size: height and width of the images.

    Raises:
        ValueError: for an operation, a combination or an output that is unknown.

    Example:
        >>> NasNet(blocks=1, combine=("add",)).space().size  # two cells of two inputs out of two, two operations of 13
        456976

    References:
        Zoph et al., 2018, section 3, figures 2 and 3. https://arxiv.org/abs/1707.07012
        Liu et al., 2019 (DARTS), section 3.1. https://arxiv.org/abs/1806.09055
    """

    blocks: int = 5
    operations: tuple[str, ...] = NASNET
    combine: tuple[str, ...] = ("add", "concat")
    output: str = "loose"
    classes: int = 10
    channels: int = 32
    normal: int = 6
    size: int = 32

    def __post_init__(self) -> None:
        whole(self, blocks=self.blocks, classes=self.classes, channels=self.channels)
        whole(self, normal=self.normal, size=self.size)
        check_operations(self.operations)
        if unknown := set(self.combine) - {"add", "concat"}:
            raise ValueError(f"NasNet(combine=): {sorted(unknown)[0]!r} is neither 'add' nor 'concat'")
        if self.output not in ("loose", "all"):
            raise ValueError(f"NasNet(output=): {self.output!r} is neither 'loose' nor 'all'")

    def space(self, *, parameters: float | None = None, flops: float | None = None) -> Space:
        """``normal`` and ``reduction``, each of ``block_0, block_1, ...``; with limits where they are given."""
        cell = {f"block_{i}": self._block(i) for i in range(self.blocks)}
        return limited({"normal": cell, "reduction": cell}, self, parameters, flops)

    def _block(self, i: int) -> dict[str, Any]:
        states = {side: IntRange(0, i + 1) for side in SIDES}
        operations = {f"{side}_operation": Choice(self.operations) for side in SIDES}
        return {**states, **operations, "combine": Choice(self.combine)}

    def loose(self, cell: Any) -> jax.Array:
        """Which blocks of a decoded cell go out: bool ``[blocks]``."""
        if self.output == "all":
            return jnp.ones(self.blocks, bool)
        taken = jnp.stack([cell[f"block_{i}"][side] for i in range(self.blocks) for side in SIDES])
        return ~jnp.any(taken[:, None] == jnp.arange(2, self.blocks + 2)[None, :], axis=0)

    def costs(self, genome: Any) -> Cost:
        """Parameters and FLOPs of the whole network of one decoded genome."""
        width, side = self.channels, self.size
        total = convolution(3, 3 * width, 9, side**2)
        earlier = last = jnp.int32(3 * width)  # channels of the two cells before
        cells: dict[tuple[int, bool], Cost] = {}
        for i in range(3 * self.normal + 2):
            reduces = i in (self.normal, 2 * self.normal + 1)
            width = 2 * width if reduces else width
            total += convolution(earlier, width, 1, side**2) + convolution(last, width, 1, side**2)
            side = (side + 1) // 2 if reduces else side
            cell = genome["reduction" if reduces else "normal"]
            if (width, reduces) not in cells:
                cells[width, reduces] = self._cell(cell, width, side**2, reduces)
            total += cells[width, reduces]
            earlier, last = last, width * jnp.sum(self.loose(cell), dtype=jnp.int32)
        return total + dense(last, self.classes)

    def _cell(self, cell: Any, width: int, positions: int, reduces: bool) -> Cost:
        """The blocks of one cell."""
        table = self._operations(width, positions, reduces)
        joins = jnp.array([name == "concat" for name in self.combine])
        parts = []
        for i in range(self.blocks):
            block = cell[f"block_{i}"]
            for side in SIDES:
                of_cells = (block[side] < 2).astype(jnp.int32)  # these have the stride
                operation = block[f"{side}_operation"]
                parts.append(Cost(table.parameters[of_cells, operation], table.flops[of_cells, operation]))
            parts.append(convolution(2 * width, width, 1, positions).times(joins[block["combine"]]))
        return stacked(parts).total()

    def _operations(self, width: int, positions: int, reduces: bool) -> Cost:
        """The costs of all operations on earlier blocks and on earlier cells, ``[2, operations]``; constants."""
        with jax.ensure_compile_time_eval():
            each = [
                stacked([operation_cost(name, width, positions, stride) for name in self.operations])
                for stride in (1, 2 if reduces else 1)
            ]
            return stacked(each)


def stacked(costs: list[Cost]) -> Cost:
    """Costs side by side, along a new first axis."""
    return jax.tree.map(lambda *parts: jnp.stack(parts), *costs)
