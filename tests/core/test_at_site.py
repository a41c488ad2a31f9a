"""A leaf is told at which of its sites it is, in the order in which `sites` and `observe` list them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress.core.leaf import CompressedArray
from jaxcompress.core.lift import lift
from jaxcompress.core.observe import observe
from jaxcompress.core.sites import sites
from jaxcompress.core.tag import Dense


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PerSite(CompressedArray):
    """A weight whose product is multiplied by a gain of its own at each site."""

    values: jax.Array
    gain: jax.Array  # [stack..., sites]

    @property
    def dtype(self):
        return self.values.dtype

    def alignment(self):
        return {"values": tuple(range(len(self.values.shape))), "gain": (*range(len(self.gain.shape) - 1), None)}

    def materialize(self):
        return self.values

    def at_site(self, index):
        return self.replace(gain=self.gain[..., index : index + 1])

    def matmul(self, x, *, contract, batch, precision=None, preferred_element_type=None):
        assert self.gain.shape == (1,)
        return lax.dot_general(x, self.values, (contract, batch)) * self.gain[0]

    def conv(self, x, **params):
        return lax.conv_general_dilated_p.bind(x, self.values, **params) * self.gain[0]


jax.tree_util.register_dataclass(PerSite, ["values", "gain"], [])


def test_each_use_has_its_own_number_through_control_flow() -> None:
    def fn(p, x):
        x = x @ p["w"]
        x = lax.cond(x[0, 0] > 100, lambda x: x, lambda x: x @ p["w"], x)
        return lax.scan(lambda x, w: (x @ w @ p["w"], None), x, p["stack"])[0]

    key = jax.random.key(0)
    w, stack = jax.random.normal(key, (3, 3)), jax.random.normal(jax.random.key(1), (2, 3, 3))
    params = {"w": w, "stack": stack}
    x = jnp.ones((1, 3))
    gains = jnp.array([2.0, 3.0, 5.0])
    leaves = {"w": PerSite(w, gains), "stack": PerSite(stack, jnp.array([[7.0], [11.0]]))}
    out = lift(fn)(leaves, x)
    np.testing.assert_allclose(out, fn(params, x) * 2 * 3 * 5 * 5 * 7 * 11, rtol=1e-5)
    assert [site.primitive for site in sites(fn, params, x).at("w")] == ["dot_general"] * 3
    assert [entry.ordinal for entry in observe(fn, params, [x])["w"]] == [0, 1, 2]


def test_convolutions_and_elementwise_uses_count_too() -> None:
    def fn(p, x):
        penalty = jnp.sum(p["k"] ** 2)
        return lax.conv(lax.conv(x, p["k"], (1, 1), "SAME"), p["k"], (1, 1), "SAME") + penalty

    k, x = jax.random.normal(jax.random.key(0), (2, 2, 3, 3)), jnp.ones((1, 2, 5, 5))
    leaf = PerSite(k, jnp.array([1.0, 2.0, 3.0]))  # the penalty is the first use
    expected = (fn({"k": k}, x) - jnp.sum(k**2)) * 6 + jnp.sum(k**2)
    np.testing.assert_allclose(lift(fn)({"k": leaf}, x), expected, rtol=1e-4)
    assert [entry.ordinal for entry in observe(fn, {"k": k}, [x])["k"]] == [1, 2]


def test_a_leaf_hands_the_number_to_what_it_holds() -> None:
    @dataclasses.dataclass(frozen=True, eq=False, repr=False)
    class Holder(CompressedArray):
        inner: CompressedArray

    leaf = Holder(PerSite(jnp.eye(2), jnp.array([1.0, 4.0])))
    assert leaf.at_site(1).inner.gain.tolist() == [4.0]
    plain = Dense(jnp.eye(2))
    assert plain.at_site(1) is plain
