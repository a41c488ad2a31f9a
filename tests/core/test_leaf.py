"""The leaf protocol: a third party's kind in one file."""

import dataclasses
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import jaxcompress as jc
from jaxcompress.core.fields import bit_width, data_fields, decode_static, encode_static, static_fields
from jaxcompress.core.leaf import dense, is_compressed, kind_class, kind_name
from tests.core.kinds import Grouped, Probe, Thin


@jc.leaf_kind("test_rounded", trainable=("whole",))
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Rounded(jc.CompressedArray):
    """What a third party writes: whole numbers and a step. Nothing in core knows it."""

    whole: Any
    step: float = dataclasses.field(default=0.5, metadata={"static": True})

    def alignment(self):
        return {"whole": tuple(range(len(self.whole.shape)))}

    @property
    def dtype(self):
        return jnp.dtype(jnp.float32)

    def materialize(self):
        return self.whole.astype(jnp.float32) * jnp.float32(self.step)

    def field_bits(self, name):
        return 3


@pytest.fixture(scope="module")
def stacked():
    return Thin.random(0, 3, 4, 5)


def test_third_party_kind_works_everywhere(tmp_path):
    leaf = Rounded(jnp.arange(6, dtype=jnp.int8).reshape(2, 3))
    params = {"layer": {"w": leaf, "b": jnp.zeros(3)}}
    fn = lambda p, x: jnp.tanh(x @ p["layer"]["w"] + p["layer"]["b"][None])  # noqa: E731
    x = jnp.ones((4, 2))
    np.testing.assert_allclose(jc.lift(fn)(params, x), fn(jc.materialize(params), x), rtol=1e-6)
    assert jc.stored_bytes(params) == 3 + 12  # 6 numbers of 3 bits fill 3 bytes
    assert "test_rounded" in repr(jc.explain(fn, params, x))
    assert kind_class("test_rounded") is Rounded
    assert leaf.ndim == 2
    assert leaf.size == 6
    exported = jax.export.export(jax.jit(jc.lift(fn)))(params, x)
    again = jax.export.deserialize(exported.serialize())
    np.testing.assert_array_equal(again.call(params, x), jc.lift(fn)(params, x))


def test_shape_dtype_and_bits_follow_from_the_fields(stacked):
    assert (stacked.shape, stacked.dtype, stacked.ndim, stacked.size) == ((3, 4, 5), jnp.float32, 3, 60)
    assert stacked.stored_bits == 32 * (3 * 4 * 2 + 3 * 2 * 5)
    assert stacked.materialize().shape == stacked.shape
    nested = Thin(Grouped.of(stacked.u, 2), stacked.v)
    assert nested.stored_bits == 8 * 24 + 32 * (3 * 2 * 2) + 32 * 30
    assert kind_name(nested) == "test_thin(test_grouped)"
    assert nested.component_paths() == ("u/codes", "u/scale", "v")
    assert dense(nested.u).shape == (3, 4, 2)


def test_fields_by_kind():
    assert data_fields(Probe) == ("value",)
    assert static_fields(Probe) == ("flavour",)
    assert Thin.trainable == ("u", "v")
    assert Probe.priority > Thin.priority


def test_is_a_pytree_with_keys(stacked):
    paths = [jax.tree_util.keystr(keys) for keys, _ in jax.tree_util.tree_leaves_with_path({"w": stacked})]
    assert paths == ["['w'].u", "['w'].v"]
    doubled = jax.tree.map(lambda a: 2 * a, stacked)
    assert isinstance(doubled, Thin)
    np.testing.assert_allclose(doubled.materialize(), 4 * stacked.materialize(), rtol=1e-5)


def test_constructors_take_placeholders(stacked):
    """Tree transformations build leaves of None, strings, and shapes."""
    for placeholder in (None, "spec", 0, object()):
        made = jax.tree.map(lambda _, p=placeholder: p, stacked)
        assert isinstance(made, Thin)
        assert "Thin(u=" in repr(made)


def test_unstack_and_slices(stacked):
    parts = stacked.unstack()
    assert [part.shape for part in parts] == [(4, 5)] * 3
    np.testing.assert_allclose(jnp.stack([p.materialize() for p in parts]), stacked.materialize(), rtol=1e-6)
    with pytest.raises(ValueError, match=r"axis 0 of a test_thin leaf of shape \(4, 5\) is not a stack axis"):
        parts[0].unstack()


def test_map_axis(stacked):
    first_rows = stacked.map_axis(1, lambda f, axis: jax.lax.slice_in_dim(f, 0, 2, axis=axis))
    np.testing.assert_allclose(first_rows.materialize(), stacked.materialize()[:, :2], rtol=1e-6)
    grouped = Grouped.of(jnp.ones((8, 3)), 4)
    assert grouped.map_axis(0, lambda f, axis: f) is None  # rows are held in groups of two
    columns = grouped.map_axis(1, lambda f, axis: jnp.flip(f, axis))
    np.testing.assert_array_equal(columns.materialize(), jnp.flip(grouped.materialize(), 1))


def test_move_to_front(stacked):
    assert stacked.move_to_front(1) is None
    turned = Probe(jnp.arange(24.0).reshape(2, 3, 4)).move_to_front(2)
    assert turned.shape == (4, 2, 3)


def test_partition_specs(stacked):
    specs = stacked.partition_specs(P("layers", "rows", ("a", "b")))
    assert specs.u == P("layers", "rows", None)
    assert specs.v == P("layers", None, ("a", "b"))
    assert stacked.partition_specs(None).u == P(None, None, None)
    nested = Thin(Grouped.of(stacked.u, 2), stacked.v).partition_specs(P(None, "rows"))
    assert nested.u.codes == P(None, "rows", None)
    assert nested.u.scale == P(None, None, None)  # held in groups: not split


def test_a_name_belongs_to_one_class():
    with pytest.raises(ValueError, match=r"the name 'test_probe' is taken by tests.core.kinds"):

        @jc.leaf_kind("test_probe")
        @dataclasses.dataclass(frozen=True)
        class Other(jc.CompressedArray):
            value: Any

    with pytest.raises(KeyError, match="unknown leaf kind 'nonsense'"):
        kind_class("nonsense")


def test_base_class_says_what_is_missing():
    class Bare(jc.CompressedArray):
        pass

    with pytest.raises(NotImplementedError, match="Bare must define materialize"):
        Bare().materialize()
    with pytest.raises(NotImplementedError, match="Bare must define alignment"):
        Bare().alignment()


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [("bool", 1), ("int4", 4), ("uint4", 4), ("int2", 2), ("int8", 8), ("bfloat16", 16), ("float8_e4m3fn", 8)],
)
def test_bit_width(dtype, bits):
    assert bit_width(jnp.dtype(dtype)) == bits


def test_statics_travel_as_json():
    value = (None, True, 3, 0.25, "text", np.dtype("float32"), jnp.dtype("bfloat16"), ((1, 2), ()))
    again = decode_static(encode_static(value))
    assert again == value
    assert type(again[1]) is bool
    with pytest.raises(TypeError, match="a static field must be"):
        encode_static([1, 2])


def test_is_compressed_and_pickle(stacked):
    assert is_compressed(stacked)
    assert not is_compressed(jnp.ones(2))
    again = pickle.loads(pickle.dumps(stacked))
    np.testing.assert_array_equal(again.materialize(), stacked.materialize())
