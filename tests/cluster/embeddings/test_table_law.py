"""Every kind of table: ``lift(fn)(leaf, x) == fn(leaf.materialize(), x)`` for what models do with tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.core.leaf import is_compressed
from tests.cluster.embeddings.kinds import DIM, KEY, LEAVES, ROWS
from tests.core.kinds import floats_of_shape, served

IDS = jnp.array([[3, 25, -1], [-30, 0, 19]])  # in range, beyond the end, negative, beyond the start
X = jax.random.normal(KEY, (2, 3, DIM))
OURS = {name: make for name, make in LEAVES.items() if name != "product codes"}

every_table = pytest.mark.parametrize("make", LEAVES.values(), ids=LEAVES)
SIMILAR = ("hashed", "add", "banded in order")  # what the others show, shown again in the slow run
each_of_ours = pytest.mark.parametrize(
    "make",
    [pytest.param(make, id=name, marks=[pytest.mark.slow] * (name in SIMILAR)) for name, make in OURS.items()],
)


def lookups(table, ids):
    """All the ways to take rows; fill gives NaN, which must be in the same places."""
    return [
        table[ids],
        *(jnp.take(table, ids, axis=0, mode=mode) for mode in ("fill", "clip", "wrap")),
        table.at[ids].get(mode="fill", fill_value=7.0),
        jax.vmap(lambda i: table[i])(ids),
    ]


@every_table
def test_lookups_take_the_rows_that_the_table_has(make):
    leaf = make()
    ours = jc.lift(lookups)(leaf, IDS)
    for got, expected in zip(ours, lookups(leaf.materialize(), IDS), strict=True):
        np.testing.assert_allclose(got, expected, rtol=2e-6, atol=2e-6)
    assert served(lookups, leaf, IDS)
    assert floats_of_shape(jc.lift(lookups), (ROWS, DIM), leaf, IDS) == 0


def tied(table, ids, x):
    """A lookup, a tied head, and what softmax makes of it put through the table again."""
    return (jax.nn.softmax((x + table[ids % ROWS]) @ table.T) @ table) @ table.T


@each_of_ours
def test_tied_heads_and_their_gradients(make):
    leaf = make()

    def loss(leaf, run):
        return jnp.sum(jnp.cos(jnp.arange(ROWS, dtype=jnp.float32))[None, None] * run(leaf, IDS, X))

    @jax.jit
    def both(trainable, frozen):
        ours = jax.value_and_grad(lambda t: loss(jc.merge(t, frozen), jc.lift(tied)))(trainable)
        dense = jax.value_and_grad(lambda t: loss(jc.merge(t, frozen), lambda w, *a: tied(w.materialize(), *a)))
        return ours, dense(trainable)

    ours, theirs = both(*jc.split_trainable(leaf))
    for got, expected in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert served(tied, leaf, IDS, X)


@each_of_ours
def test_stacks_of_tables(make):
    """Scanned, vmapped, taken apart, in step with a batch axis of the data."""
    leaf = make()
    stacked = jax.tree.map(lambda a: jnp.stack([a, a[::-1]]), leaf)

    def models(tables, ids, x):
        return (
            jax.lax.scan(lambda c, w: (jnp.tanh((c + w[ids]) @ w.T @ w), None), x, tables)[0],
            jax.vmap(lambda w, x: w[ids[0]] + x)(tables, x),
            jnp.einsum("bid,brd->rbi", x, tables),
            tables[1][ids],
            tables[:, 3],
        )

    ids = jnp.abs(IDS) % ROWS
    ours = jax.jit(jc.lift(models))(stacked, ids, X)
    for got, expected in zip(ours, models(stacked.materialize(), ids, X), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(stacked.materialize()[0], leaf.materialize(), rtol=1e-6, atol=1e-6)


CHAINS = {
    "rtn": lambda p: jc.quantize.rtn(p, bits=8),
    "kmeans": lambda p: jc.cluster.kmeans(p, bits=2),
    "magnitude": lambda p: jc.prune.magnitude(p, sparsity=0.5),
}


PAIRS = [
    ("importance", "magnitude"),
    ("importance", "rtn"),
    ("concat", "kmeans"),
    ("banded", "rtn"),
    ("subword", "rtn"),
]


@pytest.mark.parametrize(("name", "chain"), PAIRS)
def test_tables_inside_go_on_to_other_methods(name, chain, tmp_path):
    params = {"e": LEAVES[name]()}
    out = CHAINS[chain](params)
    changed = [field for field in out["e"].components().values() if is_compressed(field)]
    assert len(changed) == len([f for f in type(out["e"]).trainable if f in out["e"].components()])

    def fn(p, x):
        return x @ p["e"].T + p["e"][1].sum()

    np.testing.assert_allclose(jc.lift(fn)(out, X), fn(jc.materialize(out), X), rtol=1e-5, atol=1e-5)
    for field in changed:
        if field.support() is not None:
            assert not np.asarray(field.materialize())[~np.asarray(field.support())].any()
    jc.save(tmp_path / "m.jxc", out)
    np.testing.assert_array_equal(jc.load(tmp_path / "m.jxc").params["e"].materialize(), out["e"].materialize())


def test_stacked_int8_inside_decodes_only_the_rows_taken():
    leaf = jc.quantize.rtn({"e": LEAVES["hashed"]()})["e"]
    assert floats_of_shape(jc.lift(lambda w, i: w[i]), (7, DIM), leaf, IDS) == 0


@pytest.mark.parametrize("name", ["importance", "concat", "banded", "subword"])
def test_lookups_export_for_every_platform_with_a_symbolic_batch(name):
    leaf = LEAVES[name]()
    run = jax.jit(jc.lift(lambda table, ids: table[ids] @ table.T))
    (batch,) = jax.export.symbolic_shape("batch")
    avals = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), leaf)
    program = jax.export.export(run, platforms=("cpu", "cuda", "tpu"))(avals, jax.ShapeDtypeStruct((batch,), jnp.int32))
    again = jax.export.deserialize(program.serialize())
    ids = jnp.array([2, 5, 19])
    np.testing.assert_allclose(again.call(leaf, ids), run(leaf, ids), rtol=1e-6, atol=1e-6)


@each_of_ours
def test_cast_tables(make):
    leaf = make()
    narrow = leaf.astype(jnp.bfloat16)
    assert (narrow.dtype, narrow.materialize().dtype, narrow.shape) == (jnp.bfloat16, jnp.bfloat16, leaf.shape)
    # Each of the one to thirty terms of an entry is rounded to 8 bits.
    np.testing.assert_allclose(narrow.materialize().astype(jnp.float32), leaf.materialize(), atol=0.05)
