"""Verbs over whole trees."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxcompress.artifact import load, save
from jaxcompress.core.lift import lift
from jaxcompress.core.tree import in_axes, materialize, merge, shardings, split_trainable, stored_bytes
from tests.core.kinds import Digits, Grouped, Probe, Thin


@pytest.fixture(scope="module")
def tree():
    return {
        "thin": Thin.random(0, 6, 8),
        "grouped": Grouped.of(jnp.arange(24.0).reshape(8, 3), 2),
        "bias": jnp.ones(3),
        "steps": jnp.asarray(3),
        "none": None,
    }


def test_materialize(tree):
    out = materialize(tree)
    assert out["bias"] is tree["bias"]
    assert out["none"] is None
    np.testing.assert_array_equal(out["thin"], tree["thin"].materialize())
    nested = Thin(Grouped.of(tree["thin"].u, 2), Probe.of(tree["thin"].v))
    assert isinstance(materialize(nested), jax.Array)


def test_stored_bytes(tree):
    thin, grouped = 4 * 2 * (6 + 8), 24 + 4 * 2 * 3
    assert stored_bytes(tree) == thin + grouped + 12 + 4
    assert stored_bytes({"int4": jnp.ones(3, jnp.int4), "bool": jnp.ones(9, bool)}) == 2 + 2
    assert stored_bytes({"key": jax.random.key(0), "scalar": 1.0, "complex": jnp.ones(2, jnp.complex64)}) == 8 + 4 + 16


def test_split_and_merge(tree):
    trainable, frozen = split_trainable(tree)
    assert [leaf.shape for leaf in jax.tree.leaves(trainable)] == [(3,), (2, 3), (6, 2), (2, 8)]
    assert trainable["grouped"].codes is None
    assert frozen["grouped"].scale is None
    again = merge(trainable, frozen)
    assert jax.tree.structure(again) == jax.tree.structure(tree)
    assert all(a is b for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(tree), strict=True))


def test_split_respects_where_and_nesting(tree):
    trainable, frozen = split_trainable(tree, where="thin")
    assert len(jax.tree.leaves(trainable)) == 2
    assert len(jax.tree.leaves(frozen)) == 4
    nested = {"w": Thin(Grouped.of(tree["thin"].u, 2), tree["thin"].v)}
    assert [a.shape for a in jax.tree.leaves(split_trainable(nested)[0])] == [(2, 2), (2, 8)]
    with pytest.raises(ValueError, match="matches no leaf"):
        split_trainable(tree, where="nothing")


def test_merge_refuses_what_is_no_pair(tree):
    trainable, frozen = split_trainable(tree)
    with pytest.raises(ValueError):
        merge(trainable, {"other": frozen})
    with pytest.raises(ValueError, match="both"):
        merge(tree, tree)


def test_training_step_over_the_trainable_half(tree):
    trainable, frozen = split_trainable({"thin": tree["thin"], "grouped": tree["grouped"]})
    tx = optax.sgd(0.1)

    def loss(trainable):
        out = lift(lambda p, x: (x @ p["thin"])[:, :8] @ p["grouped"])(merge(trainable, frozen), jnp.ones((2, 6)))
        return jnp.sum(out**2)

    @jax.jit
    def step(trainable, state):
        updates, state = tx.update(jax.grad(loss)(trainable), state)
        return optax.apply_updates(trainable, updates), state

    after, _ = step(trainable, tx.init(trainable))
    assert jax.tree.structure(after) == jax.tree.structure(trainable)
    assert float(jnp.abs(after["thin"].u - trainable["thin"].u).max()) > 0
    assert float(jnp.abs(after["grouped"].scale - trainable["grouped"].scale).max()) > 0
    assert merge(after, frozen)["grouped"].codes is tree["grouped"].codes


def test_in_axes_moves_or_refuses():
    stacked = {"w": Thin.random(0, 3, 4, 5), "b": jnp.ones((3, 5))}
    axes = in_axes(stacked)
    assert axes["w"].u == 0
    assert axes["b"] == 0
    x = jnp.ones((2, 4))
    fn = lambda p, x: x @ p["w"] + p["b"][None]  # noqa: E731
    out = jax.vmap(lift(fn), in_axes=(axes, None))(stacked, x)
    dense = materialize(stacked)
    np.testing.assert_allclose(
        out, jnp.stack([fn(jax.tree.map(lambda a, i=i: a[i], dense), x) for i in range(3)]), rtol=1e-5
    )
    for axis in (1, 2, -1, 3, -4):
        with pytest.raises(ValueError, match=f"in_axes: axis {axis} of the test_thin leaf 'w'"):
            in_axes(stacked, axis)
    assert in_axes(stacked["w"], -3).u == 0
    assert in_axes({"p": Probe(jnp.ones((2, 3)))}, 1)["p"].value == 1


def test_shardings_follow_the_dense_tree():
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    rows, columns = NamedSharding(mesh, P("a", "b")), NamedSharding(mesh, P(None, "b"))
    like = {"thin": rows, "grouped": columns, "bias": NamedSharding(mesh, P("a"))}
    tree = {"thin": Thin.random(0, 6, 8), "grouped": Grouped.of(jnp.ones((8, 4)), 2), "bias": jnp.ones(4)}
    placed = shardings(tree, like=like)
    assert placed["thin"].u.spec == P("a", None)
    assert placed["thin"].v.spec == P(None, "b")
    assert placed["grouped"].scale.spec == P(None, "b")
    assert placed["bias"].spec == P("a")
    moved = jax.device_put(tree, placed)
    np.testing.assert_array_equal(moved["thin"].materialize(), tree["thin"].materialize())
    again = shardings(tree, like=jax.device_put(materialize(tree), like))
    assert jax.tree.leaves(again) == jax.tree.leaves(placed)


def test_shardings_refuse_what_they_cannot_follow():
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    tree = {"w": Thin.random(0, 6, 8)}
    uneven = shardings(tree, like={"w": NamedSharding(mesh, P("d", None))})
    assert uneven["w"].u.spec == P(None, None)  # 6 rows do not divide by 8 devices
    single = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    assert shardings(tree, like={"w": single})["w"].v == single
    with pytest.raises(ValueError, match="has 1 leaves and like= has 2"):
        shardings(tree, like={"w": single, "b": single})
    with pytest.raises(ValueError, match="no sharding at 'w', but str"):
        shardings(tree, like={"w": "sharded"})


def test_trees_travel_through_jit_and_scan(tree):
    out = jax.jit(lambda t: jax.tree.map(lambda a: a, t))(tree)
    assert jax.tree.structure(out) == jax.tree.structure(tree)
    carried, _ = jax.lax.scan(lambda t, _: (t, None), tree["thin"], None, length=2)
    np.testing.assert_array_equal(carried.materialize(), tree["thin"].materialize())


def test_absent_fields_stay_absent(tmp_path):
    leaf = Digits(jnp.ones((2, 3)), jnp.ones((4, 3)))
    assert list(leaf.components()) == ["high", "low"]
    assert leaf.stored_bits == 32 * (6 + 12)
    trainable, frozen = split_trainable({"w": leaf})
    assert len(jax.tree.leaves(trainable)) == 2
    merged = merge(trainable, frozen)
    assert jax.tree.structure(merged) == jax.tree.structure({"w": leaf})
    save(tmp_path / "x.jxc", merged)
    assert load(tmp_path / "x.jxc").params["w"].gain is None
    np.testing.assert_array_equal(load(tmp_path / "x.jxc").params["w"].materialize(), leaf.materialize())
