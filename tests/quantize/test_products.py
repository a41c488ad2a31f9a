import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

from jaxcompress.quantize import AffineQuantized, format_of, products
from jaxcompress.quantize.products import block_size, blocks, can_block, materialized, scale_after, window
from jaxcompress.quantize.rtn import round_to_nearest

RNG = np.random.default_rng(0)
MATMUL = ((1,), (0,)), ((), ())


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def leaf(shape, scale_shape, name="int", bits=None, symmetric=True):
    return round_to_nearest(normal(*shape) + 0.5, scale_shape, format_of(name, bits, symmetric))


# Per case: the leaf, the shape of the data, the numbers of the product, and the weights of a block.
CASES = {
    "channel": (lambda: leaf((16, 6), (1, 6)), (5, 16), MATMUL, 24),
    "tensor, zero point": (lambda: leaf((16, 6), (1, 1), bits=8, symmetric=False), (5, 16), MATMUL, 24),
    "packed channel, zero points": (lambda: leaf((16, 6), (1, 6), bits=3, symmetric=False), (5, 16), MATMUL, 24),
    "packed groups, zero points": (lambda: leaf((16, 6), (8, 3), bits=5, symmetric=False), (5, 16), MATMUL, 24),
    "packed, summed along the bits": (lambda: leaf((6, 512), (6, 2), bits=2), (5, 512), (((1,), (1,)), ((), ())), 512),
    "nf4 groups": (lambda: leaf((16, 6), (2, 6), "nf4"), (5, 16), MATMUL, 1),
    "table of channels": (lambda: leaf((16, 6), (1, 6), "levels", 2), (5, 16), MATMUL, 24),
    "blocks of floats": (lambda: leaf((64, 6), (2, 6), "mxfp4"), (5, 64), MATMUL, 1),
    "batched": (lambda: leaf((3, 16, 6), (3, 4, 6), bits=4), (3, 5, 16), (((2,), (1,)), ((0,), (0,))), 36),
    "several summed axes": (lambda: leaf((4, 16, 6), (2, 4, 6), bits=4), (5, 4, 16), (((1, 2), (0, 1)), ((), ())), 96),
}


@pytest.mark.parametrize("case", CASES)
def test_a_sum_over_blocks_is_the_product(case):
    make, x_shape, numbers, elements = CASES[case]
    kernel, x = make(), normal(*x_shape)
    assert can_block(kernel, x, numbers[0])
    axis = max(numbers[0][1], key=lambda a: kernel.shape[a])
    assert block_size(kernel, axis, elements) < kernel.shape[axis]  # several of them
    expected = lax.dot_general(x, kernel.materialize(), numbers)
    ours = jax.jit(lambda leaf, x: blocks(leaf, x, *numbers, block_elements=elements))(kernel, x)
    assert (ours.shape, ours.dtype) == (expected.shape, expected.dtype)
    # Sums of at most 512 products of size 1, in another order.
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(materialized(kernel, x, *numbers), expected, rtol=1e-6, atol=1e-6)
    after = scale_after(kernel, x, *numbers)
    assert (after is None) == any(kernel.scale.shape[a] != 1 for a in numbers[0][1])
    if after is not None:
        np.testing.assert_allclose(after, expected, rtol=1e-5, atol=2e-5)


def test_integers_are_exact_in_every_float_of_16_bits():
    """Codes less zero points reach 255, and powers of two as scales round nothing: equal bit for bit."""
    codes = jnp.asarray(RNG.integers(-128, 128, (16, 6)), jnp.int8)
    zero = jnp.asarray(RNG.integers(-128, 128, (1, 6)), jnp.int8)
    kernel = AffineQuantized.create(codes, jnp.full((1, 6), 0.25), zero, jnp.bfloat16)
    x = jnp.asarray(RNG.integers(-8, 9, (5, 16)), jnp.bfloat16)
    exact = np.asarray(x, np.float64) @ ((np.asarray(codes, np.float64) - np.asarray(zero, np.float64)) / 4)
    for form in (scale_after, blocks):
        ours = form(kernel, x, *MATMUL, preferred_element_type=jnp.float32)
        np.testing.assert_array_equal(ours, exact)
        assert form(kernel, x, *MATMUL).dtype == jnp.bfloat16


def float_sizes(jaxpr):
    """Sizes of all float values anywhere in a jaxpr."""
    found = []
    for eqn in jaxpr.eqns:
        found += [v.aval.size for v in eqn.outvars if jnp.issubdtype(v.aval.dtype, jnp.floating)]
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda p: hasattr(p, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            found += float_sizes(inner) if hasattr(inner, "eqns") else []
    return found


@pytest.mark.parametrize("bits", [8, 3])
def test_no_dense_float_copy_exists_even_in_the_gradient(bits):
    kernel, x = leaf((64, 32), (8, 32), bits=bits), normal(2, 64)
    run = lambda leaf, x: blocks(leaf, x, *MATMUL, block_elements=512)  # noqa: E731
    loss = lambda leaf, x: jnp.sum(jnp.sin(run(leaf, x)))  # noqa: E731
    dense = lambda leaf, x: jnp.sum(jnp.sin(x @ leaf.materialize()))  # noqa: E731
    assert max(float_sizes(jax.make_jaxpr(run)(kernel, x).jaxpr)) == 512
    gradient = jax.grad(loss, argnums=1)
    assert max(float_sizes(jax.make_jaxpr(gradient)(kernel, x).jaxpr)) == 512
    assert max(float_sizes(jax.make_jaxpr(jax.grad(dense, argnums=1))(kernel, x).jaxpr)) == 2048
    np.testing.assert_allclose(gradient(kernel, x), jax.grad(dense, argnums=1)(kernel, x), rtol=1e-4, atol=1e-4)


def test_windows_are_slices():
    kernel = leaf((16, 6), (4, 6), bits=3, symmetric=False)
    part = window(kernel, 0, jnp.int32(8), 4)
    np.testing.assert_array_equal(part.materialize(), kernel.materialize()[8:12])
    assert not can_block(leaf((12, 6), (1, 6), bits=3), normal(5, 6), ((1,), (1,)))  # bits are cut in chunks alone
    assert not can_block(kernel, normal(5, 16).astype(jnp.bfloat16), MATMUL[0])


def test_matmul_takes_the_form_of_the_table(monkeypatch):
    monkeypatch.setattr(
        products, "weight_form", lambda platform, call: "blocks" if platform == "cpu" else "scale_after"
    )
    monkeypatch.setattr(products, "BLOCK_ELEMENTS", 24)
    x = normal(5, 16)

    def loops(kernel):
        text = str(jax.make_jaxpr(lambda leaf, x: leaf.matmul(x, contract=MATMUL[0], batch=MATMUL[1]))(kernel, x))
        return "scan" in text

    grouped = leaf((16, 6), (2, 6), bits=8)
    assert loops(grouped)
    assert loops(leaf((16, 6), (1, 6), bits=3))
    assert leaf((16, 6), (2, 6), bits=3).matmul(x, contract=MATMUL[0], batch=MATMUL[1]) is None  # slow in loops
    assert not loops(leaf((16, 6), (1, 6), "fp8_e4m3"))
    out = jax.jit(lambda leaf, x: leaf.matmul(x, contract=MATMUL[0], batch=MATMUL[1]))(grouped, x)
    np.testing.assert_allclose(out, x @ grouped.materialize(), rtol=1e-5, atol=1e-5)
    program = export.export(
        jax.jit(lambda leaf, x: leaf.matmul(x, contract=MATMUL[0], batch=MATMUL[1])), platforms=("cpu", "cuda", "tpu")
    )(grouped, x)
    again = export.deserialize(program.serialize())
    np.testing.assert_allclose(again.call(grouped, x), out, rtol=1e-6, atol=1e-6)
