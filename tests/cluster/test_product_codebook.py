import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.cluster import ProductCodebook

CODES = np.array([[0, 2, 1], [1, 0, 0]], np.uint8)  # two blocks of two inputs for each of three outputs
TABLE = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], np.float32)
DENSE = np.array([[1, 5, 3], [2, 6, 4], [3, 1, 1], [4, 2, 2]], np.float32)


def shared():
    return ProductCodebook.create(jnp.asarray(CODES), jnp.asarray(TABLE)[None, None], (2, 1))


def random(*shape, block, own=(), levels=4, seed=0):
    """Codes and tables drawn at random, tables of their own along the axes ``own``."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, levels, [n // b for n, b in zip(shape, block, strict=True)])
    sizes = [n if axis in own else 1 for axis, n in enumerate(codes.shape)]
    table = rng.normal(size=(*sizes, levels, int(np.prod(block))))
    return ProductCodebook.create(jnp.asarray(codes, jnp.uint8), jnp.asarray(table, jnp.float32), block)


def by_hand(leaf):
    """Block by block, in NumPy."""
    out, codes, table = np.zeros(leaf.shape), np.asarray(leaf.codes), np.asarray(leaf.codebook)
    for at in np.ndindex(codes.shape):
        own = tuple(i * size // n for i, size, n in zip(at, table.shape, codes.shape, strict=False))
        region = tuple(slice(i * b, (i + 1) * b) for i, b in zip(at, leaf.lengths, strict=True))
        out[region] = table[own][codes[at]].reshape(leaf.lengths)
    return out


def test_blocks_by_hand():
    leaf = shared()
    np.testing.assert_array_equal(leaf.materialize(), DENSE)
    assert (leaf.shape, leaf.levels, leaf.stored_bits) == ((4, 3), 3, 6 * 2 + 6 * 32)


@pytest.mark.parametrize(
    ("shape", "block", "own"),
    [((6, 4), (1, 2), (1,)), ((3, 3, 4, 2), (3, 3, 1, 1), ()), ((4, 6, 4), (2, 3, 1), (0, 2)), ((8,), (4,), (0,))],
)
def test_any_block_and_any_tables(shape, block, own):
    leaf = random(*shape, block=block, own=own)
    np.testing.assert_array_equal(jax.jit(lambda leaf: leaf.materialize())(leaf), by_hand(leaf).astype(np.float32))


def test_rows_of_an_embedding_are_decoded_alone():
    params = {"table": random(50, 8, block=(1, 4), own=(1,))}
    fn = lambda p, ids: p["table"][ids]  # noqa: E731
    ids = jnp.array([[3, 49], [0, 3]])
    np.testing.assert_array_equal(jc.lift(fn)(params, ids), by_hand(params["table"]).astype(np.float32)[ids])
    (line,) = [line for line in jc.explain(fn, params, ids) if line.kind == "product_codebook"]
    assert line.served


def test_rows_in_blocks_are_decoded_with_their_blocks():
    params = {"table": random(48, 6, block=(4, 2), own=(0, 1))}
    fn = lambda p, ids: jnp.take(p["table"], ids, axis=0, mode="clip")  # noqa: E731
    ids = jnp.array([3, 47, 47, 16, 99])
    np.testing.assert_array_equal(
        jc.lift(fn)(params, ids), by_hand(params["table"]).astype(np.float32)[np.minimum(ids, 47)]
    )
    assert not jc.explain(fn, params, ids).materialized


def test_gradients_of_an_entry_are_summed_over_its_blocks():
    leaf, weights = shared(), np.random.default_rng(1).normal(size=(4, 3))
    trainable, frozen = jc.split_trainable({"w": leaf})
    grads = jax.grad(lambda t: jnp.sum(jc.merge(t, frozen)["w"].materialize() * weights.astype(np.float32)))(trainable)
    summed = np.zeros((3, 2))
    for i, j in np.ndindex(CODES.shape):
        summed[CODES[i, j]] += weights[2 * i : 2 * i + 2, j]
    np.testing.assert_allclose(grads["w"].codebook[0, 0], summed, rtol=1e-5)
    assert grads["w"].codes is None


@pytest.mark.parametrize(
    ("equation", "x", "leaf"),
    [
        ("bi,io->bo", (3, 16), random(16, 6, block=(4, 1))),
        ("bi,io->bo", (2, 16), random(16, 6, block=(4, 1), own=(0,))),
        ("bd,vd->bv", (4, 8), random(20, 8, block=(1, 4), own=(1,))),  # logits of an embedding
        ("bhw,hwo->bo", (2, 4, 6), random(4, 6, 5, block=(2, 3, 1))),
        ("bi,iho->bho", (1, 8), random(8, 3, 4, block=(2, 1, 1))),
        ("sbi,sio->sbo", (2, 3, 8), random(2, 8, 6, block=(1, 4, 1), own=(0,))),
        ("bsi,iso->bso", (3, 2, 8), random(8, 2, 6, block=(4, 1, 1))),
    ],
)
def test_sums_of_looked_up_products(equation, x, leaf):
    fn = lambda p, x: jnp.einsum(equation, x, p["w"], precision="highest")  # noqa: E731
    x = jnp.asarray(np.random.default_rng(2).normal(size=x), jnp.float32)
    (line,) = [line for line in jc.explain(fn, {"w": leaf}, x) if line.kind == "product_codebook"]
    assert line.served
    assert "looked up products on cpu" in repr(jc.explain(fn, {"w": leaf}, x))
    np.testing.assert_allclose(
        jax.jit(jc.lift(fn))({"w": leaf}, x), fn({"w": by_hand(leaf).astype(np.float32)}, x), atol=1e-5
    )


def test_no_products_are_looked_up_where_that_does_not_pay():
    leaf = random(16, 6, block=(4, 1))
    fn = lambda p, x: x @ p["w"]  # noqa: E731
    assert jc.explain(fn, {"w": leaf}, jnp.ones((5, 16))).materialized  # more rows than a block is long
    many = random(16, 6, block=(4, 1), levels=7)  # more vectors than outputs
    assert jc.explain(fn, {"w": many}, jnp.ones((1, 16))).materialized
    assert jc.explain(lambda p, x: x @ p["w"].T, {"w": leaf}, jnp.ones((1, 6))).materialized  # blocks of outputs
    assert jc.explain(fn, {"w": random(16, 6, block=(4, 1), own=(1,))}, jnp.ones((1, 16))).materialized


def test_gradients_through_looked_up_products():
    params, x = (
        {"w": random(16, 6, block=(4, 1))},
        jnp.asarray(np.random.default_rng(2).normal(size=(2, 16)), jnp.float32),
    )
    fn = lambda p, x: jnp.sum(jnp.tanh(x @ p["w"]))  # noqa: E731
    trainable, frozen = jc.split_trainable(params)
    grads = [
        jax.grad(lambda t, x, run=run: run(jc.merge(t, frozen), x), argnums=(0, 1))(trainable, x)
        for run in (jc.lift(fn), lambda p, x: fn(jc.materialize(p), x))
    ]
    for ours, theirs in zip(*map(jax.tree.leaves, grads), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_slices_along_whole_axes_stay_compressed():
    leaf = random(6, 4, block=(2, 1), own=(1,))
    columns = leaf.map_axis(1, lambda field, axis: jnp.take(field, jnp.array([3, 0]), axis))
    np.testing.assert_array_equal(columns.materialize(), by_hand(leaf).astype(np.float32)[:, [3, 0]])
    assert leaf.map_axis(0, lambda field, axis: field) is None
    one = random(2, 4, block=(2, 1))  # a single block: fields of size 1
    assert one.map_axis(0, lambda field, axis: field) is None
    assert one.axis_positions(0) is None


def test_an_axis_with_tables_of_its_own_may_be_scanned():
    """An axis of length-1 blocks in front of the layers: `scan` takes it off, and the block with it."""
    leaf = random(5, 4, 4, block=(1, 2, 1), own=(0,))
    fn = lambda p, x: jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, p["w"])[0]  # noqa: E731
    x = jnp.ones((2, 4))
    np.testing.assert_allclose(jc.lift(fn)({"w": leaf}, x), fn({"w": leaf.materialize()}, x), atol=1e-5)
    assert leaf.move_to_front(0).unstack()[3].block == (2, 1)
    assert leaf.axis_positions(0) is None
    with pytest.raises(ValueError, match="not a stack axis"):
        leaf.unstack()


def test_methods_leave_it_alone():
    for method in (jc.quantize.rtn, jc.cluster.kmeans):
        with pytest.raises(ValueError, match="'w' is a product_codebook leaf, coded already: materialize it"):
            method({"w": shared()}, bits=2)


def test_create_names_what_is_wrong():
    codes, table = jnp.asarray(CODES), jnp.asarray(TABLE)[None, None]
    with pytest.raises(TypeError, match="codes must be uint8 or uint16, got int32"):
        ProductCodebook.create(codes.astype(jnp.int32), table, (2, 1))
    with pytest.raises(TypeError, match="codebook must be float, got int32"):
        ProductCodebook.create(codes, table.astype(jnp.int32), (2, 1))
    with pytest.raises(ValueError, match=r"block must hold a positive integer .* got \(0, 1\)"):
        ProductCodebook.create(codes, table, (0, 1))
    with pytest.raises(ValueError, match=r"the 3 entries of a block \(3, 1\); got \(1, 1, 3, 2\)"):
        ProductCodebook.create(codes, table, (3, 1))
    with pytest.raises(ValueError, match="codebook must have an axis for each of the codes'"):
        ProductCodebook.create(codes, table[0], (2, 1))
    with pytest.raises(ValueError, match=r"\(the first 1 in full\)"):
        ProductCodebook.create(codes, table, (2,))
    with pytest.raises(ValueError, match="below the 2 levels, got 2"):
        ProductCodebook.create(codes, table[:, :, :2], (2, 1))
