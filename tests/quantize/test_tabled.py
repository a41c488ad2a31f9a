import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.quantize import FixedTable, PackedInts, Tabled

CODES = jnp.array([[0, 2, 1, 3], [3, 3, 0, 1]], jnp.uint8)


def test_tables_and_scales_serve_their_own_groups():
    table = jnp.array([[[-1.0, 0.0, 1.0, 2.0]], [[0.0, 5.0, 6.0, 7.0]]])  # one for each row
    scale = jnp.array([[1.0, 10.0]])  # one for each half of the columns
    leaf = Tabled.create(CODES, table, scale)
    np.testing.assert_array_equal(leaf.materialize(), [[-1.0, 1.0, 0.0, 20.0], [7.0, 7.0, 0.0, 50.0]])
    np.testing.assert_array_equal(leaf.unscaled(jnp.float32), [[-1.0, 1.0, 0.0, 2.0], [7.0, 7.0, 0.0, 5.0]])
    packed = Tabled.create(PackedInts.create(CODES, bits=2), table, scale)
    np.testing.assert_array_equal(packed.materialize(), leaf.materialize())
    assert (leaf.stored_bits, packed.stored_bits, packed.bits, packed.levels) == (64 + 320, 32 + 320, 2, 4)
    row = packed.map_axis(0, lambda field, axis: jnp.take(field, jnp.array([1]), axis))
    np.testing.assert_array_equal(row.materialize(), leaf.materialize()[1:])


def test_known_levels_are_no_part_of_the_data():
    leaf = FixedTable.create(CODES, jnp.array([[2.0], [4.0]]), (-1, 0, 0.5, 1))
    np.testing.assert_array_equal(leaf.materialize(), [[-2.0, 1.0, 0.0, 2.0], [4.0, 4.0, -4.0, 0.0]])
    assert (leaf.levels, leaf.stored_bits, leaf.bits) == ((-1.0, 0.0, 0.5, 1.0), 64 + 64, 8)
    again = leaf.with_codes(CODES[::-1])
    np.testing.assert_array_equal(again.materialize(), [[2.0, 2.0, -2.0, 0.0], [-4.0, 2.0, 0.0, 4.0]])


def test_what_is_no_table_is_named():
    table, scale = jnp.zeros((1, 1, 4)), jnp.ones((1, 1))
    with pytest.raises(TypeError, match="codes must be uint8 or uint4, or packed without sign, got int8"):
        Tabled.create(CODES.astype(jnp.int8), table, scale)
    with pytest.raises(TypeError, match="table must be float, got int32"):
        Tabled.create(CODES, table.astype(jnp.int32), scale)
    with pytest.raises(ValueError, match=r"table, but for its levels, must have the axes of the codes.*\(3, 1\)"):
        Tabled.create(CODES, jnp.zeros((3, 1, 4)), scale)
    with pytest.raises(ValueError, match="codes must be below the 3 levels, got 3"):
        Tabled.create(CODES, table[..., :3], scale)
    with pytest.raises(ValueError, match="codes must be below the 3 levels, got 3"):
        FixedTable.create(PackedInts.create(CODES, bits=2), scale, (0.0, 1.0, 2.0))
    with pytest.raises(ValueError, match=r"ascending order, got \(0.0, 0.0, 1.0, 2.0\)"):
        FixedTable.create(CODES, scale, (0.0, 0.0, 1.0, 2.0))
    with pytest.raises(ValueError, match=r"scale must have the axes of the codes.*got \(4,\)"):
        FixedTable.create(CODES, jnp.ones(4), (0.0, 1.0, 2.0, 3.0))
