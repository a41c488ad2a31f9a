"""How a product with a quantized weight is computed: a table by platform and shape, from measurements.

| form | what it does |
| ---- | ------------ |
| ``scale_after`` | multiplies by the codes cast to floats; the scale, constant along the sum, after it |
| ``blocks`` | casts one block of the summed axis at a time and adds up: never a dense float copy of the kernel |
| ``materialize`` | makes the dense kernel, then multiplies |
| ``integer`` | quantized data: codes times codes in int32, the scales after the sum |
| ``fake`` | quantized data: rounds the data to its grid, then one of the first three |

All forms of one leaf give the same up to rounding. The choice is made when the program is lowered for a platform; the
leaf kind `jaxcompress.quantize.InForm` overrides it for the weights (`jaxcompress.quantize.with_form`).

The rows for ``cpu`` are measured by ``python -m benchmarks.quantize_latency`` (2 cores with AVX512-VNNI, XLA of jaxlib
0.10): for a single row ``blocks`` wins, since the block that is cast stays in the cache, and weights alone take
0.95 to 1.2 times as long as floats; ``integer`` wins from 4 rows on. On a CPU weight-only quantization saves memory,
not time, once there are more rows than that: for speed quantize the activations too, or call `jaxcompress.materialize`
once before serving. The rows for other platforms are not measured yet: there XLA fuses the cast into the product
(``scale_after``), and products of 8 bits have their own units.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
from jax import lax

from jaxcompress.core.leaf import CompressedArray
from jaxcompress.quantize.integer_product import LONGEST_SUM, Axes

Form = Literal["auto", "scale_after", "blocks", "materialize", "integer", "fake"]
PLATFORMS = ("cpu", "cuda", "tpu")


class Call(NamedTuple):
    """The shape of one product.

    Attributes:
        rows: of data that meet one kernel; positions under the window of a convolution.
        summed: entries of a sum.
        outputs: results of a row.
        conv: True for a convolution.
    """

    rows: int
    summed: int
    outputs: int
    conv: bool = False

    @classmethod
    def of_matmul(cls, x: jax.Array, leaf: CompressedArray, contract: Axes, batch: Axes) -> Call:
        """Of a contraction."""
        summed = math.prod(x.shape[axis] for axis in contract[0])
        stack = math.prod(x.shape[axis] for axis in batch[0])
        outputs = leaf.size // max(1, summed * stack)
        return cls(_known(x.size // max(1, summed * stack)), summed, outputs)

    @classmethod
    def of_conv(cls, x: jax.Array, leaf: CompressedArray, params: dict[str, Any]) -> Call:
        """Of a convolution; rows are counted at the positions of the input."""
        numbers = params["dimension_numbers"]
        summed = math.prod(leaf.shape[axis] for axis in numbers.rhs_spec[1:])
        features = x.shape[numbers.lhs_spec[1]]
        return cls(_known(x.size // max(1, features)), summed, leaf.shape[numbers.rhs_spec[0]], conv=True)


def _known(rows: Any) -> int:
    """A number of rows; one that a program keeps symbolic (`jax.export`) counts as many."""
    return rows if isinstance(rows, int) else 1 << 30


def weight_form(platform: str, call: Call) -> Form:
    """The form of a weight-only product whose scale is constant along the sum, or in groups.

    Example:
        >>> weight_form("cpu", Call(rows=1, summed=1024, outputs=1024)), weight_form("cpu", Call(512, 1024, 1024))
        ('blocks', 'scale_after')
    """
    large = call.summed * call.outputs >= 2**18  # smaller kernels fit the cache, and a loop costs more than it saves
    return "blocks" if platform == "cpu" and call.rows < 4 and large and not call.conv else "scale_after"


def takes_integers(platform: str, call: Call) -> bool:
    """Whether quantized data meets quantized weights as integers: where that is faster, and no sum can overflow.

    Example:
        >>> takes_integers("cpu", Call(1, 1024, 1024)), takes_integers("cpu", Call(64, 1024, 1024))
        (False, True)
    """
    if call.summed > LONGEST_SUM:
        return False
    if platform != "cpu":
        return not call.conv  # not every back end has convolutions of 8-bit integers
    return call.rows >= 4 and (not call.conv or call.summed >= 256)


def by_platform(
    decide: Callable[[str], bool], yes: Callable[..., jax.Array], no: Callable[..., jax.Array], *args: Any
) -> jax.Array:
    """``yes(*args)`` on the platforms for which ``decide`` is true, ``no(*args)`` on the others.

    Only the branch of the platform that is lowered for enters the program.
    """
    chosen = {platform: yes if decide(platform) else no for platform in PLATFORMS}
    if len(set(map(id, chosen.values()))) == 1:
        return chosen["cpu"](*args)
    return lax.platform_dependent(*args, cpu=chosen["cpu"], tpu=chosen["tpu"], default=chosen["cuda"])


def by_platform_text(name: Callable[[str], str]) -> str:
    """What is chosen where: one name, or each with its platforms.

    Example:
        >>> by_platform_text(lambda platform: "blocks" if platform == "cpu" else "scale_after")
        'blocks on cpu, scale_after on cuda and tpu'
    """
    names = {platform: name(platform) for platform in PLATFORMS}
    distinct = list(dict.fromkeys(names.values()))
    if len(distinct) == 1:
        return distinct[0]
    return ", ".join(f"{one} on {' and '.join(p for p in PLATFORMS if names[p] == one)}" for one in distinct)
