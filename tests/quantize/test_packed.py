import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxcompress as jc
from jaxcompress.core.explain import explain
from jaxcompress.core.lift import lift
from jaxcompress.quantize import PackedInts, Quantized
from jaxcompress.quantize.packed import narrowed

RNG = np.random.default_rng(0)


def codes_of(shape, bits, signed=True):
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
    codes = RNG.integers(low, high, shape)
    codes = np.where(codes < 0, -1, 1) if bits == 1 and signed else codes
    return jnp.asarray(codes, jnp.int8 if signed else jnp.uint8)


def test_bits_lie_where_the_docstring_says():
    leaf = PackedInts.create(jnp.array([3, -4, 0, 1, 2, -1, -1, 3, 1], jnp.int8), bits=3)
    # Two bytes make one chunk: bit k of byte i is that of element 2 k + i. The first byte has 011 000 010 111 001, the
    # second one 100 001 111 011, and each plane one digit of all.
    assert leaf.words.tolist() == [
        [0b11001, 0b1110],
        [0b01101, 0b1100],
        [0b01000, 0b0101],
    ]
    assert (leaf.chunk, leaf.length, leaf.stored_bits) == (2, 9, 48)


@settings(max_examples=10)
@given(st.integers(1, 8), st.integers(0, 20), st.booleans(), st.sampled_from([(), (3,), (2, 1)]))
def test_packing_is_exact(bits, length, signed, outer):
    codes = codes_of((*outer, length), bits, signed)
    leaf = PackedInts.create(codes, bits=bits)
    assert (leaf.shape, leaf.dtype) == (codes.shape, codes.dtype)
    np.testing.assert_array_equal(leaf.materialize(), codes)
    assert leaf.words.dtype == jnp.uint8
    assert leaf.words.nbytes == int(np.prod(outer)) * bits * -(-length // 8)


@pytest.mark.parametrize("length", [256, 264, 521, 2048])
def test_long_rows_are_packed_in_chunks(length):
    codes = codes_of((2, length), 5)
    leaf = PackedInts.create(codes, bits=5)
    np.testing.assert_array_equal(jax.jit(lambda leaf: leaf.materialize())(leaf), codes)
    assert leaf.chunk >= 32
    assert leaf.words.nbytes <= 2 * 5 * 1.12 * -(-length // 8)
    step = leaf.granule(1)
    if length % step == 0 and step < length:
        part = jax.jit(lambda leaf, at: leaf.window(1, at, step))(leaf, step)
        np.testing.assert_array_equal(part.materialize(), codes[:, step : 2 * step])


def test_indexing_along_every_axis_stays_packed():
    codes = codes_of((4, 6, 21), 3)
    leaf = PackedInts.create(codes, bits=3)
    for axis, size in enumerate(codes.shape):
        index = jnp.array([size - 1, 0, 1])
        part = leaf.map_axis(axis, lambda field, at, index=index: jnp.take(field, index, at))
        assert isinstance(part, PackedInts)
        np.testing.assert_array_equal(part.materialize(), jnp.take(codes, index, axis))
    for layer, dense in zip(leaf.unstack(), codes, strict=True):
        np.testing.assert_array_equal(layer.materialize(), dense)
    np.testing.assert_array_equal(leaf.move_to_front(1).materialize(), jnp.moveaxis(codes, 1, 0))
    assert leaf.move_to_front(2) is None
    np.testing.assert_array_equal(jax.vmap(lambda layer: layer.materialize())(leaf), codes)


def test_rows_of_an_embedding_are_looked_up_packed():
    table = Quantized.create(PackedInts.create(codes_of((11, 9), 3), bits=3), jnp.full((11, 1), 0.5))
    ids = jnp.array([[3, 0], [10, 3]])

    def fn(table, ids):
        return jnp.take(table, ids, axis=0)

    assert all(use.served for use in explain(fn, table, ids))
    np.testing.assert_array_equal(lift(fn)(table, ids), table.materialize()[ids])


def test_codes_are_held_in_as_few_bits_as_jax_has_or_packed():
    for bits, expected in ((8, jnp.int8), (4, jnp.int4)):
        assert narrowed(codes_of((3, 8), bits), bits).dtype == expected
    assert narrowed(codes_of((3, 8), 4, signed=False), 4).dtype == jnp.uint4
    assert {bits: narrowed(codes_of((3, 8), bits), bits).words.nbytes for bits in (1, 2, 3, 5, 6, 7)} == {
        bits: 3 * bits for bits in (1, 2, 3, 5, 6, 7)
    }


def test_files_hold_the_integers_so_that_their_distribution_is_coded(tmp_path):
    codes = jnp.asarray(np.clip(np.round(RNG.normal(size=(64, 256))), -4, 3), jnp.int8)  # entropy 2.1 bits
    leaf = PackedInts.create(codes, bits=3)
    size = jc.save(tmp_path / "a", {"w": leaf}, coder="constriction")
    again = jc.load(tmp_path / "a").params["w"]
    assert (again.bits, again.length, again.signed, again.chunk) == (3, 256, True, 32)
    np.testing.assert_array_equal(again.words, leaf.words)
    assert size < 0.75 * leaf.words.nbytes
    with pytest.raises(ValueError, match=r"1 to 8 bits, got .* and 99"):
        leaf.for_file().replace(bits=99).from_file()


def test_what_cannot_be_packed_is_named():
    with pytest.raises(TypeError, match="codes must be int8 or uint8, got int32"):
        PackedInts.create(jnp.arange(3), bits=4)
    with pytest.raises(ValueError, match="bits must be from 1 to 8, got 9"):
        PackedInts.create(jnp.zeros(3, jnp.int8), bits=9)
    with pytest.raises(ValueError, match="got a scalar"):
        PackedInts.create(jnp.int8(1), bits=3)
    with pytest.raises(ValueError, match="codes of 3 bits must be -4 to 3, got 4"):
        PackedInts.create(jnp.array([3, 4], jnp.int8), bits=3)
    with pytest.raises(ValueError, match=r"codes of 1 bits must be -1 and \+1, got 0"):
        PackedInts.create(jnp.array([1, 0], jnp.int8), bits=1)
