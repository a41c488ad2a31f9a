import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.core.leaf import CompressedArray, leaf_kind
from jaxcompress.prune import Magnitude, Masked, magnitude, topk_mask


@leaf_kind("test_two_factors", trainable=("u", "v"))
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TwoFactors(CompressedArray):
    """A low-rank leaf, as far as pruning can tell: no field has one element per weight."""

    u: jax.Array
    v: jax.Array

    def alignment(self):
        return {"u": (0, None), "v": (None, 1)}

    @property
    def dtype(self):
        return self.u.dtype

    def materialize(self):
        return self.u @ self.v


def params(seed=0):
    rng = np.random.default_rng(seed)

    def draw(*shape, scale=1.0):
        return jnp.asarray(scale * rng.normal(size=shape), jnp.float32)

    return {
        "a": {"kernel": draw(6, 5), "bias": draw(5)},
        "b": {"kernel": draw(6, 5)},
        "c": {"kernel": draw(4, 4, scale=9)},
    }


def smallest_dropped(flat, drop):
    mask = np.ones(flat.size, bool)
    mask[np.argsort(-np.abs(np.float64(flat)), kind="stable")[flat.size - drop :]] = False
    return mask


def test_per_layer_drops_exactly_the_smallest_of_each_kernel():
    tree = params()
    pruned = magnitude(tree, sparsity=0.7)
    for name, drop in (("a", 21), ("b", 21), ("c", 11)):
        kernel = np.asarray(tree[name]["kernel"])
        expected = smallest_dropped(kernel.reshape(-1), drop).reshape(kernel.shape)
        np.testing.assert_array_equal(pruned[name]["kernel"].mask, expected)
        np.testing.assert_array_equal(pruned[name]["kernel"].materialize(), kernel * expected)
    assert pruned["a"]["bias"] is tree["a"]["bias"]


def test_global_compares_all_leaves_on_one_scale():
    tree = params()
    pruned = magnitude(tree, sparsity=0.5, scope="global")
    flat = np.concatenate([np.asarray(tree[name]["kernel"]).reshape(-1) for name in "abc"])
    got = np.concatenate([np.asarray(pruned[name]["kernel"].mask).reshape(-1) for name in "abc"])
    np.testing.assert_array_equal(got, smallest_dropped(flat, 38))
    assert got[-16:].mean() > got[:60].mean()  # the layer of larger weights keeps more


def test_global_over_mixed_dtypes_counts_every_entry():
    tree = {"x": jnp.ones((3, 3), jnp.bfloat16), "y": jnp.full((3, 3), 1 + 2.0**-20, jnp.float32)}
    pruned = magnitude(tree, sparsity=0.5, scope="global")
    assert int(pruned["x"].mask.sum()) == 0  # y's 1 + 2^-20 must not round down to x's 1
    assert int(pruned["y"].mask.sum()) == 9
    assert pruned["x"].dtype == jnp.bfloat16


def test_sparsity_may_be_traced_and_per_glob():
    tree = params()
    traced = jax.jit(lambda p, s: magnitude(p, sparsity=s))(tree, jnp.float32(0.7))
    jax.tree.map(np.testing.assert_array_equal, traced, magnitude(tree, sparsity=np.float32(0.7)))
    mixed = magnitude(tree, sparsity={"a/*": 0.9, "**/kernel": 0.5})
    assert [int(mixed[name]["kernel"].mask.sum()) for name in "abc"] == [3, 15, 8]
    some = magnitude(tree, sparsity={"c/kernel": 0.25})
    assert isinstance(some["c"]["kernel"], Masked)
    assert some["a"]["kernel"] is tree["a"]["kernel"]


def test_stacked_layers_are_pruned_one_by_one_when_sites_show_the_stack():
    rng = np.random.default_rng(3)
    stacked = jnp.asarray(rng.normal(size=(3, 4, 4)) * np.array([1.0, 10.0, 100.0])[:, None, None], jnp.float32)

    def fn(p, x):
        return jax.lax.scan(lambda h, w: (h @ w, None), x, p["layers"])[0]

    sites = jc.sites(fn, {"layers": stacked}, jnp.ones((2, 4)))
    by_layer = magnitude({"layers": stacked}, sparsity=0.5, sites=sites)["layers"].mask
    assert by_layer.sum((1, 2)).tolist() == [8, 8, 8]
    whole = magnitude({"layers": stacked}, sparsity=0.5)["layers"].mask
    assert int(whole.sum()) == 24
    assert int(whole[0].sum()) < 8


def test_what_is_pruned_stays_pruned():
    tree = {"w": jnp.arange(-5.0, 5.0).reshape(2, 5)}
    once = magnitude(tree, sparsity=0.4)
    tighter = magnitude(once, sparsity=0.7)
    looser = magnitude(once, sparsity=0.1)
    assert isinstance(tighter["w"].values, jax.Array)
    np.testing.assert_array_equal(tighter["w"].mask, magnitude(tree, sparsity=0.7)["w"].mask)
    np.testing.assert_array_equal(looser["w"].mask, once["w"].mask)


def test_factors_are_pruned_one_by_one():
    rng = np.random.default_rng(4)
    leaf = TwoFactors(jnp.asarray(rng.normal(size=(8, 2))), jnp.asarray(rng.normal(size=(2, 10))))
    pruned = magnitude({"w": leaf}, sparsity=0.5)["w"]
    assert (int(pruned.u.mask.sum()), int(pruned.v.mask.sum())) == (8, 10)


def test_errors_name_the_path_and_the_way_out():
    with pytest.raises(ValueError, match=r"'a/kernel' holds NaN or infinity"):
        magnitude({"a": {"kernel": jnp.array([[jnp.nan, 1.0]])}}, sparsity=0.5)
    with pytest.raises(ValueError, match="NaN"):
        topk_mask(jnp.array([jnp.nan, 1.0]), sparsity=0.5)
    with pytest.raises(ValueError, match=r"fits none of the chosen leaves: \['w'\]"):
        magnitude({"w": jnp.ones((2, 2))}, sparsity={"v": 0.5})
    with pytest.raises(ValueError, match=r"matches no leaf"):
        magnitude({"w": jnp.ones((2, 2))}, sparsity=0.5, where="v")
    with pytest.raises(ValueError, match="scope='layer'"):
        magnitude({"w": jnp.ones((2, 2))}, sparsity={"w": 0.5}, scope="global")
    with pytest.raises(ValueError, match="scope must be"):
        magnitude({"w": jnp.ones((2, 2))}, sparsity=0.5, scope="model")
    with pytest.raises(TypeError, match="'w' is int32"):
        magnitude({"w": jnp.ones((2, 2), jnp.int32)}, sparsity=0.5, where="w")


def test_zero_and_one_are_the_ends():
    tree = params()
    kept = magnitude(tree, sparsity=0.0)["a"]["kernel"]
    np.testing.assert_array_equal(kept.materialize(), tree["a"]["kernel"])
    assert int(magnitude(tree, sparsity=1.0)["a"]["kernel"].mask.sum()) == 0


def test_stage_is_the_function_and_survives_json():
    stage = Magnitude(sparsity=0.5, where=["**/kernel"])
    again = Magnitude(**json.loads(json.dumps(dataclasses.asdict(stage))))
    jax.tree.map(np.testing.assert_array_equal, again(params()), magnitude(params(), sparsity=0.5))
    assert stage.version == 1
