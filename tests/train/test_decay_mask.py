import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcompress as jc
from jaxcompress.core.leaf import ArrayOrLeaf, CompressedArray, leaf_kind
from jaxcompress.prune import Masked
from jaxcompress.train import decay_mask

pytestmark = pytest.mark.standard_promotion


@leaf_kind("test_coded", trainable=("codebook",))
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Coded(CompressedArray):
    codes: jax.Array
    codebook: jax.Array

    def alignment(self):
        return {"codes": tuple(range(self.codes.ndim)), "codebook": (None,)}

    @property
    def dtype(self):
        return self.codebook.dtype

    def materialize(self):
        return self.codebook[self.codes]


@leaf_kind("test_factors", trainable=("u", "v"))
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Factors(CompressedArray):
    u: ArrayOrLeaf
    v: ArrayOrLeaf

    def alignment(self):
        return {"u": (0, None), "v": (None, 1)}

    @property
    def dtype(self):
        return self.u.dtype

    def materialize(self):
        return self.u @ self.v


def tree():
    ones = jnp.ones((4, 6))
    return {
        "kernel": ones,
        "bias": jnp.ones(6),
        "pruned": Masked.create(ones, ones > 0),
        "coded": Coded(jnp.zeros((4, 6), jnp.uint8), jnp.ones(16)),
        "both": Masked.create(Coded(jnp.zeros((4, 6), jnp.uint8), jnp.ones(16)), ones > 0),
        "factors": Factors(jnp.ones((4, 2)), Masked.create(jnp.ones((2, 6)), jnp.ones((2, 6), bool))),
        "steps": jnp.int32(3),
    }


def test_weights_and_what_holds_them_decay_and_nothing_else():
    mask = decay_mask(tree())
    paths = {
        "/".join(str(getattr(key, "key", getattr(key, "name", ""))) for key in keys)
        for keys, flag in jax.tree_util.tree_leaves_with_path(mask)
        if flag
    }
    assert paths == {"kernel", "pruned/values", "factors/u", "factors/v/values"}
    assert jax.tree.structure(mask) == jax.tree.structure(tree())


def test_sites_tell_stacked_norm_scales_from_weights():
    params = {"w": jnp.ones((3, 4, 4)), "scale": jnp.ones((3, 4))}

    def fn(p, x):
        return jax.lax.scan(lambda h, layer: (h @ layer["w"] * layer["scale"][None], None), x, p)[0]

    assert decay_mask(params) == {"w": True, "scale": True}
    assert decay_mask(params, sites=jc.sites(fn, params, jnp.ones((2, 4)))) == {"w": True, "scale": False}


def test_the_mask_drives_weight_decay_on_the_trainable_half():
    params = tree()
    trainable, frozen = jc.split_trainable(params)
    tx = optax.add_decayed_weights(0.5, mask=decay_mask(params))
    zero = jax.tree.map(jnp.zeros_like, trainable)
    updates, _ = tx.update(zero, tx.init(trainable), trainable)
    decayed = jc.merge(optax.apply_updates(trainable, updates), frozen)
    np.testing.assert_array_equal(decayed["kernel"], 1.5 * np.ones((4, 6)))
    np.testing.assert_array_equal(decayed["pruned"].values, 1.5 * np.ones((4, 6)))
    np.testing.assert_array_equal(decayed["coded"].codebook, np.ones(16))
    np.testing.assert_array_equal(decayed["bias"], np.ones(6))
