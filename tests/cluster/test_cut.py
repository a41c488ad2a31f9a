"""Blocks of arrays, and the second moments that meet them."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxcompress as jc
from jaxcompress.cluster.cut import cut_of
from jaxcompress.cluster.product_codebook import ProductCodebook
from jaxcompress.core.moments import matrices_of, statistic_of
from jaxcompress.core.parts import Roles
from tests.zoo.model import arrays, data

DENSE = Roles((), (0,), (1,))
HWIO = Roles((), (0, 1, 2), (3,), (0, 1))
OIHW = Roles((), (1, 2, 3), (0,), (2, 3))
HEADS = Roles((0,), (2, 3), (1,))


def cut(shape, roles, block, along="inputs", tables="layer"):
    return cut_of(shape, roles, block, along=along, tables=tables, method="product", name="w")


@pytest.mark.parametrize(
    ("shape", "roles", "block", "along", "lengths"),
    [
        ((8, 6), DENSE, 4, "inputs", (4, 1)),
        ((8, 6), DENSE, 3, "outputs", (1, 3)),
        ((3, 3, 4, 5), HWIO, 9, "inputs", (3, 3, 1, 1)),
        ((3, 3, 4, 5), HWIO, 18, "inputs", (3, 3, 2, 1)),
        ((3, 3, 4, 5), HWIO, 3, "inputs", (1, 3, 1, 1)),
        ((5, 4, 3, 3), OIHW, 36, "inputs", (1, 4, 3, 3)),
        ((2, 5, 4, 6), HEADS, 12, "inputs", (1, 1, 2, 6)),
        ((1, 1, 8, 5), HWIO, 4, "inputs", (1, 1, 4, 1)),
    ],
)
@pytest.mark.parametrize("tables", ["layer", "position"])
def test_a_leaf_puts_back_what_a_cut_takes_apart(shape, roles, block, along, lengths, tables):
    own = cut(shape, roles, block, along, tables)
    assert own.lengths == lengths
    array = np.arange(np.prod(shape)).reshape(shape)
    blocks = np.asarray(own.split(jnp.asarray(array)))  # [tables, positions, n, d]
    assert blocks.shape[0] == own.table_count
    assert blocks.shape[1] * blocks.shape[2] == own.sharing
    codes = np.arange(own.sharing).reshape(blocks.shape[1:3])[None].repeat(own.table_count, 0)
    tables_of = blocks.reshape(own.table_count, own.sharing, block)
    leaf = ProductCodebook.create(
        own.join(jnp.asarray(codes, jnp.uint8)), own.join_tables(jnp.asarray(tables_of, jnp.float32)), own.block
    )
    np.testing.assert_array_equal(leaf.materialize(), array)


def conv(numbers):
    def fn(p, x):
        return lax.conv_general_dilated(x, p["w"], (1, 1), "SAME", dimension_numbers=("NHWC", numbers, "NHWC"))

    return fn


@pytest.mark.parametrize("name", ["HWIO", "OIHW", "dense", "stacked"])
def test_metric_is_the_part_of_the_moment_that_a_block_meets(name):
    """The output error of a change of single blocks, from the moments as observed, in float64."""
    fn, shape, x, block = {
        "HWIO": (conv("HWIO"), (3, 3, 2, 5), data(2, 5, 5, 2), 9),
        "OIHW": (conv("OIHW"), (5, 2, 3, 3), data(2, 5, 5, 2), 18),
        "dense": (lambda p, x: x @ p["w"], (6, 4), data(9, 6), 3),
        "stacked": (lambda p, x: lax.scan(lambda x, w: (x @ w, None), x, p["w"])[0], (2, 6, 6), data(9, 6), 2),
    }[name]
    params = arrays(w=shape)
    stats = jc.observe(fn, params, [x])
    layout = matrices_of("w", shape, stats, method="product")
    moment = statistic_of("w", layout, stats, "second_moment", method="product")
    own = cut(shape, layout.roles, block)
    change = np.asarray(arrays(seed=5, w=shape)["w"], np.float64)
    blocks, metric = np.asarray(own.split(jnp.asarray(change))), np.asarray(own.metric(moment), np.float64)
    ours = np.einsum("tpnd,tpde,tpne->tpn", blocks.astype(np.float64), metric, blocks.astype(np.float64))
    numbers = np.zeros(shape, int)
    for number, at in enumerate(np.ndindex(own.codes_shape)):
        numbers[tuple(slice(i * n, (i + 1) * n) for i, n in zip(at, own.lengths, strict=True))] = number
    d, which = np.asarray(layout.split(jnp.asarray(change))), np.asarray(layout.split(jnp.asarray(numbers)))
    theirs = np.zeros(numbers.max() + 1)
    for number in range(theirs.size):
        alone = np.where(which == number, d, 0)
        theirs[number] = np.einsum("bfo,bfg,bgo->", alone, np.asarray(moment, np.float64), alone)
    np.testing.assert_allclose(own.join(jnp.asarray(ours)).reshape(-1), theirs, rtol=1e-4)
    diagonal = np.asarray(layout.join(jnp.broadcast_to(jnp.diagonal(moment, axis1=1, axis2=2)[..., None], d.shape)))
    np.testing.assert_array_equal(own.importance(moment), diagonal)


def test_blocks_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"block=5 does not divide the inputs of 'w' .* sizes \(8,\)"):
        cut((8, 6), DENSE, 5)
    with pytest.raises(ValueError, match=r"block=12 .* sizes \(4, 3, 3\) of which the last fills first"):
        cut((3, 3, 4, 5), HWIO, 12)
    with pytest.raises(ValueError, match="block=16 does not divide the inputs"):
        cut((8, 6), DENSE, 16)
    with pytest.raises(ValueError, match="block must be a positive integer, got 0 for 'w'"):
        cut((8, 6), DENSE, 0)
