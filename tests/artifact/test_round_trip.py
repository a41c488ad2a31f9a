"""Whatever goes into a file comes out of it, bit for bit."""

import collections
import dataclasses
import os
from typing import NamedTuple

import equinox as eqx
import flax.core
import flax.struct
import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxcompress.artifact import ArtifactError, inspect, load, save
from jaxcompress.artifact.bits import DTYPES, element_bits
from jaxcompress.cluster.codebook import Codebook
from jaxcompress.core.leaf import CompressedArray, leaf_kind
from jaxcompress.core.paths import flatten_with_paths
from jaxcompress.factorize.lowrank import LowRank
from jaxcompress.prune.masked import Masked
from jaxcompress.quantize.affine import Quantized

CODERS = ["zstd", "constriction"]
EXACT = sorted(set(DTYPES) - {"int64", "uint64", "float64", "complex128"})  # what JAX holds without x64


def bits_of(leaf):
    array = np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)
    return array.dtype, array.shape, array.tobytes()


def assert_same(loaded, saved):
    """The same structure and the same bits (NaN payloads and signed zeros count)."""
    assert jax.tree.structure(loaded) == jax.tree.structure(saved)
    for got, wanted in zip(jax.tree.leaves(loaded), jax.tree.leaves(saved), strict=True):
        if hasattr(wanted, "dtype"):
            assert bits_of(got) == bits_of(wanted)
        else:
            assert type(got) is type(wanted)
            assert repr(got) == repr(wanted)


def round_trip(tree, path, **options):
    size = save(path, tree, **options)
    artifact = load(path)
    assert size == os.path.getsize(path) == artifact.file_bytes == sum(artifact.stored.values())
    assert min(artifact.sizes.values()) >= 0
    return artifact


def random_bits(dtype, shape, rng):
    """An array of a dtype with every bit pattern equally likely."""
    count = int(np.prod(shape))
    if dtype == np.bool_:
        return rng.random(shape) < 0.3
    raw = rng.integers(0, 256, count * dtype.itemsize, np.uint8)
    if element_bits(dtype) < 8:
        raw = raw & np.uint8(2 ** element_bits(dtype) - 1)
        if jnp.issubdtype(dtype, jnp.signedinteger):
            half = 2 ** (element_bits(dtype) - 1)
            return ((raw.astype(np.int8) ^ half) - half).astype(dtype).reshape(shape)
    return raw.view(dtype).reshape(shape)


def masked_codebook(shape, density, levels, rng):
    mask = rng.random(shape) < density
    codes = np.where(mask, rng.integers(0, levels, shape), 0).astype(np.uint8)
    values = Codebook.create(jnp.asarray(codes), jnp.asarray(rng.standard_normal(levels), jnp.float32))
    return Masked(values, jnp.asarray(mask))


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("name", EXACT)
def test_every_dtype_with_every_bit_pattern(name, coder, tmp_path):
    rng = np.random.default_rng(0)
    shapes = [(300,), (7, 5, 3), (), (0, 4)]
    tree = [jnp.asarray(random_bits(DTYPES[name], shape, rng)) for shape in shapes]
    assert_same(round_trip(tree, tmp_path / "a", coder=coder).params, tree)


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("name", ["int64", "uint64", "float64", "complex128"])
def test_wide_dtypes_are_not_cut(name, coder, tmp_path):
    array = random_bits(DTYPES[name], (65,), np.random.default_rng(1))
    loaded = round_trip({"a": array}, tmp_path / "a", coder=coder).params["a"]
    assert isinstance(loaded, np.ndarray)  # JAX would hold 32 bits of it
    assert loaded.tobytes() == array.tobytes()
    with jax.enable_x64(True):
        assert isinstance(load(tmp_path / "a").params["a"], jax.Array)


@pytest.mark.parametrize("coder", CODERS)
@hypothesis.settings(max_examples=30)
@hypothesis.given(data=st.data())
def test_any_numpy_array(coder, data, tmp_path_factory):
    dtypes = hnp.boolean_dtypes() | hnp.integer_dtypes(endianness="=") | hnp.floating_dtypes(endianness="=")
    shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6)
    trees = st.lists(hnp.arrays(dtypes, shapes).filter(lambda a: a.dtype.name in DTYPES), max_size=4)
    arrays = data.draw(trees)
    loaded = round_trip(arrays, tmp_path_factory.getbasetemp() / "any", coder=coder).params
    assert [np.asarray(a).tobytes() for a in loaded] == [a.tobytes() for a in arrays]
    assert [a.shape for a in loaded] == [a.shape for a in arrays]


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize(
    "array",
    [
        np.arange(100_000, dtype=np.int32) - 50_000,
        np.full(70_000, 255, np.uint8),
        np.repeat(np.float32([1.5, -2.5, np.nan]), 30_000),
        np.arange(66_000).astype(np.uint16),
        np.zeros((1000, 300), bool),
        np.ones((300, 40), bool),
        np.eye(400, dtype=bool),
        np.add.outer(np.arange(700), np.arange(800)) % 97 == 0,
        np.arange(600_000).reshape(1000, 600) % 11 == 0,
        np.arange(40_000) == 39_999,
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_special_patterns(array, coder, tmp_path):
    loaded = round_trip(array, tmp_path / "a", coder=coder).params
    assert np.array_equal(np.asarray(loaded).reshape(-1).view(np.uint8), array.reshape(-1).view(np.uint8))


@pytest.mark.parametrize("coder", CODERS)
def test_leaf_kinds_nest(coder, tmp_path):
    rng = np.random.default_rng(2)
    weights = jnp.asarray(rng.standard_normal((6, 8)), jnp.float32)
    mask = jnp.asarray(rng.random((6, 8)) < 0.3)
    qvalue = jnp.asarray(rng.integers(-7, 8, (6, 8)) * np.asarray(mask), jnp.int4)
    packed = Quantized(qvalue, jnp.ones((1, 8), jnp.bfloat16), jnp.dtype("float32"))
    factor = Masked.create(weights[:, :2], mask[:, :2])
    tree = {
        "masked": Masked.create(weights, mask),
        "shared": masked_codebook((3, 3, 4, 8), 0.2, 5, rng),
        "quantized": packed,
        "factors": LowRank(factor, jnp.ones((2, 8), jnp.float32), row_ndim=1, col_ndim=1),
        "masked quantized": Masked.create(packed, mask),
        "masked factors": Masked(LowRank(factor, jnp.ones((2, 8), jnp.float32)), mask),
        "nothing kept": Masked.create(weights, jnp.zeros_like(mask)),
        "bias": jnp.zeros(8),
    }
    artifact = round_trip(tree, tmp_path / "a", coder=coder)
    assert_same(artifact.params, tree)
    assert set(artifact.stored) == {"(header)", *tree}
    assert "masked factors/values/u/mask" in artifact.sizes


def test_only_what_is_kept_is_stored(tmp_path):
    """1000 kept float32 of 100,000 need 4000 bytes and a mask of at most 12,500, not 400,000."""
    rng = np.random.default_rng(3)
    mask = jnp.asarray(rng.permutation(100_000) < 1000).reshape(200, 500)
    leaf = Masked.create(jnp.asarray(rng.standard_normal((200, 500)), jnp.float32), mask)
    assert save(tmp_path / "a", leaf) < 4000 + 12_500
    dirty = Masked(leaf.values + 1.0, mask)  # values outside of the mask have no effect and are not kept
    loaded = round_trip(dirty, tmp_path / "a").params
    assert np.array_equal(loaded.values, np.where(mask, dirty.values, 0))
    assert np.array_equal(loaded.materialize(), dirty.materialize())


@leaf_kind("test_artifact_ternary", trainable=("scale",))
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Ternary(CompressedArray):
    """A third party's kind: the support follows from the signs, a second array goes along with them."""

    signs: jax.Array
    errors: jax.Array
    scale: jax.Array
    label: tuple = dataclasses.field(default=(), metadata={"static": True})

    def alignment(self):
        axes = tuple(range(self.signs.ndim))
        return {"signs": axes, "errors": axes, "scale": ()}

    def support(self):
        return self.signs != 0

    @property
    def dtype(self):
        return self.scale.dtype

    def materialize(self):
        return (self.signs.astype(self.dtype) + self.errors) * self.scale


@pytest.mark.parametrize("coder", CODERS)
def test_a_third_party_kind_needs_nothing_here(coder, tmp_path):
    rng = np.random.default_rng(4)
    signs = jnp.asarray(rng.integers(-1, 2, (40, 50)) * (rng.random((40, 50)) < 0.1), jnp.int8)
    errors = jnp.where(signs != 0, jnp.asarray(rng.standard_normal((40, 50)), jnp.float32), 0)
    leaf = Ternary(signs, errors, jnp.float32(0.5), (1, None, "a", jnp.dtype("bfloat16"), (True, 2.5)))
    loaded = round_trip({"w": leaf}, tmp_path / "a", coder=coder).params
    assert_same(loaded, {"w": leaf})
    assert loaded["w"].label == leaf.label
    described = inspect(tmp_path / "a")["arrays"]
    assert [(a["path"], a["kind"], a["dtype"], a["shape"]) for a in described] == [
        ("w/signs", "test_artifact_ternary", "int8", (40, 50)),
        ("w/errors", "test_artifact_ternary", "float32", (40, 50)),
        ("w/scale", "test_artifact_ternary", "float32", ()),
    ]
    # The signs say where the errors are; those alone are cut down: about 130 floats of 2000.
    assert load(tmp_path / "a").sizes["w/errors"] < 4 * int((signs != 0).sum()) + 20


class Pair(NamedTuple):
    first: object
    second: object


@pytest.mark.parametrize("coder", CODERS)
def test_structure_is_kept(coder, tmp_path):
    tree = {
        "b": [jnp.ones(2), (jnp.zeros((0, 3)), None, []), {}],
        "a": {"x": 3, "y": True, "z": -0.0, "nan": float("nan"), "c": 1 - 2j, "text": "väl", "big": 10**30, "": ()},
        3: {7: jnp.int32(4)},
        "key": jax.random.key(5),
        "keys": jax.random.split(jax.random.key(6, impl="rbg"), 3),
    }
    tree = {"outer": tree.pop(3), **tree}
    loaded = round_trip(tree, tmp_path / "a", coder=coder).params
    assert_same(loaded, tree)
    assert list(loaded) == list(tree)
    assert list(loaded["outer"]) == [7]
    assert jax.random.key_impl(loaded["keys"]) == jax.random.key_impl(tree["keys"])
    assert loaded["b"][1][1:] == (None, [])


@pytest.mark.parametrize("tree", [None, {}, [], (), 3, jnp.arange(3), {"a": None}])
def test_trees_of_one_node_or_none(tree, tmp_path):
    for coder in CODERS:
        assert_same(round_trip(tree, tmp_path / "a", coder=coder).params, tree)


class Net(eqx.Module):
    layers: list
    name: str = eqx.field(static=True)


@flax.struct.dataclass
class Both:
    linear: jax.Array
    static: str = flax.struct.field(pytree_node=False)


@pytest.mark.parametrize(
    ("tree", "plain"),
    [
        (Pair(jnp.ones(2), [jnp.zeros(3)]), {"first": jnp.ones(2), "second": [jnp.zeros(3)]}),
        (Net([jnp.ones(2)], "n"), {"layers": [jnp.ones(2)]}),
        (Both(jnp.ones(2), "s"), {"linear": jnp.ones(2)}),
        (flax.core.freeze({"a": {"b": jnp.ones(2)}}), {"a": {"b": jnp.ones(2)}}),
        (collections.OrderedDict(b=jnp.ones(2), a=jnp.zeros(1)), {"b": jnp.ones(2), "a": jnp.zeros(1)}),
        (nnx.state({"fc": nnx.Param(jnp.ones(2))}), {"fc": jnp.ones(2)}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_nodes_come_back_as_dicts_or_in_full(tree, plain, tmp_path):
    assert_same(round_trip(tree, tmp_path / "a").params, plain)
    assert set(load(tmp_path / "a").stored) == {"(header)", *flatten_with_paths(tree)[0]}
    restored = load(tmp_path / "a", like=jax.tree.map(jnp.zeros_like, tree)).params
    assert_same(restored, tree)


def test_a_trained_module_comes_back_through_like(tmp_path):
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    graph, state = nnx.split(model)
    save(tmp_path / "a", state)
    other = nnx.split(nnx.Linear(2, 3, rngs=nnx.Rngs(1)))[1]
    x = jnp.ones((1, 2))
    assert np.array_equal(nnx.merge(graph, load(tmp_path / "a", like=other).params)(x), model(x))


def test_like_must_fit(tmp_path):
    save(tmp_path / "a", {"w": jnp.ones((2, 3)), "b": jnp.ones(3)})
    with pytest.raises(ArtifactError, match=r"only in like: \['c'\], only in the file: \['b'\]"):
        load(tmp_path / "a", like={"w": jnp.ones((2, 3)), "c": jnp.ones(3)})
    with pytest.raises(ArtifactError, match=r"'w' has shape \(2, 3\)"):
        load(tmp_path / "a", like={"w": jnp.ones((3, 3)), "b": jnp.ones(3)})


def test_sharded_arrays_are_gathered(tmp_path):
    mesh = jax.make_mesh((8,), ("x",))
    spread = jax.device_put(jnp.arange(16.0), jax.NamedSharding(mesh, jax.P("x")))
    assert len(spread.sharding.device_set) == 8
    assert_same(round_trip({"w": spread}, tmp_path / "a").params, {"w": jnp.arange(16.0)})
