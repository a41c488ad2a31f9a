"""Cells: sums by hand, convolutions against XLA's, discrete choices against mixtures of one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

from jaxcompress.search.cells import NAS_BENCH_201, Cell, CellNetwork
from jaxcompress.search.cells.operations import average_pool, convolve
from jaxcompress.search.spaces import nas_bench_201

NONE, SKIP, CONV1, CONV3, POOL = range(5)
NETWORK = CellNetwork(classes=4, channels=3, stages=2, cells=2, inputs=1)


def image(*shape):
    return jax.random.normal(jax.random.key(0), shape)


def test_names_and_edges_are_those_of_the_benchmark():
    assert tuple(operation.name for operation in NAS_BENCH_201) == nas_bench_201.OPERATIONS
    assert Cell().edges == nas_bench_201.EDGES
    assert NETWORK.space.cardinalities == (5,) * 6


def test_nodes_are_sums():
    """Skips alone: x, then 2x, then x + x + 2x; with edges removed, less."""
    cell, x = Cell(), image(2, 4, 4, 3)
    params = cell.init(jax.random.key(1), 3)
    apply = jax.jit(cell.apply)
    for choice, times in [
        ([SKIP] * 6, 4.0),
        ([SKIP, SKIP, SKIP, NONE, NONE, SKIP], 2.0),
        ([SKIP, NONE, NONE, SKIP, SKIP, SKIP], 2.0),
        ([NONE] * 6, 0.0),
    ]:
        np.testing.assert_allclose(apply(params, jnp.array(choice), x), times * x, rtol=1e-6)
    pooled = apply(params, jnp.array([POOL, NONE, POOL, NONE, NONE, SKIP]), x)
    np.testing.assert_allclose(pooled, average_pool(average_pool(x)), rtol=1e-5, atol=1e-6)


def test_means_do_not_count_the_border():
    x = np.asarray(image(2, 3, 5, 2), np.float64)
    expected = np.zeros_like(x)
    for i in range(3):
        for j in range(5):
            window = x[:, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
            expected[:, i, j] = window.mean((1, 2))
    np.testing.assert_allclose(average_pool(jnp.asarray(x, jnp.float32)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "stride", "shape", "dilation"),
    [(3, 1, (5, 4), 1), (3, 2, (6, 6), 1), (3, 2, (5, 7), 1), (1, 2, (5, 4), 1), (3, 1, (6, 5), 2), (3, 2, (7, 6), 3)],
)
def test_convolution_is_xlas(size, stride, shape, dilation):
    x, kernel = image(2, *shape, 3), jax.random.normal(jax.random.key(1), (size, size, 3, 4))

    def native(x, kernel):
        pads = [(dilation * (size // 2),) * 2] * 2
        numbers, wide = ("NHWC", "HWIO", "NHWC"), (dilation, dilation)
        return lax.conv_general_dilated(x, kernel, (stride, stride), pads, rhs_dilation=wide, dimension_numbers=numbers)

    def both(function):
        value, pull = jax.vjp(function, x, kernel)
        return value, *pull(jnp.cos(jnp.arange(value.size, dtype=jnp.float32)).reshape(value.shape))

    ours, theirs = jax.jit(lambda: (both(lambda x, k: convolve(x, k, stride, dilation)), both(native)))()
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-5)


def test_a_choice_is_the_mixture_that_is_sure_of_it():
    """In value and gradient, one by one and side by side; what an edge does not use has no gradient."""
    network = CellNetwork(classes=4, channels=2, stages=1, cells=1, inputs=1)
    params, x = network.init(jax.random.key(1)), image(4, 5, 5, 1)
    genomes = network.space.decode(network.space.sample(jax.random.key(2), 3))
    mixtures = {"edges": jax.nn.one_hot(genomes["edges"], 5)}

    def value(params, genome):
        return jnp.sum(jnp.sin(network.apply(params, genome, x)))

    slopes = jax.jit(lambda params, genomes: lax.map(lambda g: jax.value_and_grad(value)(params, g), genomes))
    discrete, mixed = slopes(params, genomes), slopes(params, mixtures)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4), discrete, mixed)
    together = jax.jit(jax.vmap(value, (None, 0)))(params, genomes)
    np.testing.assert_allclose(together, discrete[0], rtol=1e-4, atol=1e-4)
    (stage,) = discrete[1]["stages"]
    for name, code in (("nor_conv_1x1", CONV1), ("nor_conv_3x3", CONV3)):
        used = np.abs(np.asarray(stage[name]["kernel"])).sum((1, 3, 4, 5, 6)) > 0  # [genomes, edges]
        assert not used[np.asarray(genomes["edges"]) != code].any()
        assert used.any()


def test_lowers_for_every_platform():
    params = jax.eval_shape(NETWORK.init, jax.random.key(0))
    arrays = {"edges": jax.ShapeDtypeStruct((6,), jnp.int32)}, jax.ShapeDtypeStruct((2, 6, 6, 1), jnp.float32)
    platforms = ("cpu", "cuda", "tpu")
    assert export.export(jax.jit(NETWORK.apply), platforms=platforms)(params, *arrays).platforms == platforms


def test_choices_of_another_shape_are_an_error():
    params = NETWORK.init(jax.random.key(1))
    with pytest.raises(ValueError, match=r"choice has shape \(5,\); this cell takes int \[6\].*or float \[6, 5\]"):
        NETWORK.apply(params, {"edges": jnp.zeros(5, jnp.int32)}, image(2, 6, 6, 1))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Cell(nodes=1), r"Cell\(nodes=\) must be an integer of at least 2, got 1"),
        (lambda: Cell(operations=()), "must name what an edge can be"),
        (lambda: CellNetwork(classes=0), r"CellNetwork\(classes=\) must be an integer of at least 1, got 0"),
        (lambda: CellNetwork(inputs=1.5), r"CellNetwork\(inputs=\) must be an integer of at least 1, got 1.5"),
        (lambda: CellNetwork(cells=-1), r"CellNetwork\(cells=\) must be an integer of at least 0, got -1"),
    ],
)
def test_sizes_that_cannot_be(make, match):
    with pytest.raises(ValueError, match=match):
        make()
