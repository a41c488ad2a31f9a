"""Scores per unit, held against loops over what each unit owns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.prune.scores import (
    FPGM,
    Activation,
    Aggregate,
    BatchNormScale,
    Random,
    Taylor,
    fpgm,
    gradients,
    group_scores,
)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def conv(x, w):
    return jax.lax.conv_general_dilated(x, w, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))


def fn(p, x):
    """A stream with a residual convolution that reads and writes it, flattened into a dense layer."""
    h = jax.nn.relu(conv(x, p["stem"]) * p["bn"]["scale"][None, None] + p["bn"]["bias"][None, None])
    h = h + conv(h, p["res"])
    h = jax.nn.relu(h.reshape(h.shape[0], -1) @ p["dense"])
    return h @ p["out"]


X = normal(9, 8, 2, 3)
PARAMS = {
    "stem": normal(0, 3, 3, 4),
    "bn": {"scale": jnp.array([0.5, -2.0, 1.0, 0.1]), "bias": normal(1, 4)},
    "res": normal(2, 3, 4, 4) / 3,
    "dense": normal(3, 8, 5),
    "out": normal(4, 5, 2),
}


@functools.cache
def setup():
    """The groups, the index of the stream's and that of the hidden layer's."""
    groups = jc.groups(fn, PARAMS, X)
    stream = next(group.index for group in groups if "stem" in group.paths)
    hidden = next(group.index for group in groups if "out" in group.paths)
    assert (len(groups), groups[stream].size, groups[hidden].size) == (2, 4, 5)
    return groups, stream, hidden


def owned(unit, *, kernels=("stem", "res_in", "res_out", "dense")):
    """All weights of a unit of the stream: its filters, and what reads it: two rows of the dense kernel."""
    w = {name: np.float64(a) for name, a in PARAMS.items() if name != "bn"}
    slices = {
        "stem": w["stem"][:, :, unit],
        "res_in": w["res"][:, unit, :],
        "res_out": w["res"][:, :, unit],
        "dense": w["dense"][[unit, unit + 4]],
    }
    return np.concatenate([slices[name].ravel() for name in kernels])


@pytest.mark.parametrize(
    ("reduce", "by_hand"),
    [
        ("sum", lambda s: np.sum(s)),
        ("mean", lambda s: np.mean(s)),
        ("max", lambda s: np.max(s)),
        ("l2", lambda s: np.sqrt(np.sum(s * s))),
    ],
)
def test_a_unit_is_scored_by_everything_it_owns(reduce, by_hand):
    groups, stream, _ = setup()
    found = group_scores(groups, PARAMS, Aggregate("l1", reduce=reduce, normalize=None))[stream]
    np.testing.assert_allclose(found, [by_hand(np.abs(owned(unit))) for unit in range(4)], rtol=1e-5)


@pytest.mark.parametrize(
    ("members", "kernels"),
    [
        ("producers", ("stem", "res_out")),
        ("consumers", ("res_in", "dense")),
        ("stem", ("stem",)),
    ],
)
def test_which_members_count(members, kernels):
    groups, stream, _ = setup()
    found = group_scores(groups, PARAMS, Aggregate("l2", members=members, normalize=None))[stream]
    np.testing.assert_allclose(found, [np.sum(owned(u, kernels=kernels) ** 2) for u in range(4)], rtol=1e-5)


def test_all_members_are_biases_and_scales_too():
    groups, stream, _ = setup()
    found = group_scores(groups, PARAMS, Aggregate("l1", members="all", normalize=None))[stream]
    norm = np.abs(np.float64(PARAMS["bn"]["scale"])) + np.abs(np.float64(PARAMS["bn"]["bias"]))
    np.testing.assert_allclose(found, [np.abs(owned(u)).sum() + norm[u] for u in range(4)], rtol=1e-5)


def test_normalization_puts_groups_on_one_scale():
    groups, _, _ = setup()
    plain = group_scores(groups, PARAMS, Aggregate("l1", normalize=None))
    for how, scale in (("mean", np.mean), ("max", np.max), ("l2", np.linalg.norm)):
        found = group_scores(groups, PARAMS, Aggregate("l1", normalize=how))
        for index, scores in plain.items():
            np.testing.assert_allclose(found[index], scores / scale(scores), rtol=1e-6)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    assert group_scores(groups, zeros, "l2")[0].tolist() == [0.0] * groups[0].size


def test_names_numbers_and_trees():
    groups, stream, hidden = setup()
    by_name = group_scores(groups, PARAMS, "l2")
    np.testing.assert_array_equal(by_name[stream], group_scores(groups, PARAMS, Aggregate("l2"))[stream])
    squares = jax.tree.map(jnp.square, PARAMS)
    np.testing.assert_allclose(group_scores(groups, PARAMS, squares)[stream], by_name[stream], rtol=1e-6)
    given = group_scores(groups, PARAMS, {hidden: jnp.arange(5.0)})
    assert {index: scores.tolist() for index, scores in given.items()} == {hidden: [0.0, 1.0, 2.0, 3.0, 4.0]}
    assert list(group_scores(groups, PARAMS, "lamp", where="out")) == [hidden]
    random = group_scores(groups, PARAMS, Random(0))
    assert len(np.unique(np.concatenate(list(random.values())))) == 9


def test_scores_that_do_not_fit_are_named():
    groups, stream, hidden = setup()
    with pytest.raises(ValueError, match="no name of scores"):
        group_scores(groups, PARAMS, "l7")
    with pytest.raises(ValueError, match=rf"group {hidden} \(.*out.*\) have shape \(3,\), it has 5 units"):
        group_scores(groups, PARAMS, {hidden: np.ones(3)})
    with pytest.raises(ValueError, match=rf"group {stream} .*NaN or infinity"):
        group_scores(groups, PARAMS | {"stem": PARAMS["stem"].at[0, 0, 1].set(jnp.nan)}, "l1")
    with pytest.raises(KeyError, match="no leaf at 'stem'"):
        group_scores(
            groups, {name: a for name, a in PARAMS.items() if name != "stem"}, "l1", sites=jc.sites(fn, PARAMS, X)
        )
    with pytest.raises(ValueError, match="reduce must be"):
        Aggregate(reduce="median")
    with pytest.raises(ValueError, match="normalize must be"):
        Aggregate(normalize="std")


def test_geometric_median_is_its_loop():
    groups, stream, _ = setup()
    expected = np.zeros(4)
    for kernel, axis in (("stem", 2), ("res", 2)):
        filters = np.moveaxis(np.float64(PARAMS[kernel]), axis, 0).reshape(4, -1)
        expected += [sum(np.linalg.norm(a - b) for b in filters) for a in filters]
    found = group_scores(groups, PARAMS, FPGM(normalize=None))[stream]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    twice = jnp.array([[1.0, 2.0], [1.0, 2.0], [1e4, -1e4]])
    assert fpgm(twice[:2]).tolist() == [0.0, 0.0]  # equal filters are exactly replaceable
    assert int(fpgm(twice).argmax()) == 2


def test_scales_score_the_groups_that_have_them():
    groups, stream, _ = setup()
    found = group_scores(groups, PARAMS, "batchnorm_scale")
    assert list(found) == [stream]
    np.testing.assert_allclose(found[stream], [0.5, 2.0, 1.0, 0.1], rtol=1e-6)
    with pytest.raises(ValueError, match=r"where='\*\*/gamma' fits no member of a group; there are"):
        group_scores(groups, PARAMS, BatchNormScale("**/gamma"))


# Scores from data -----------------------------------------------------------------------------------------------


def loss(params, x):
    return jnp.mean(fn(params, x) ** 2)


def test_taylor_of_a_unit_is_the_first_order_effect_of_removing_it():
    """``sum over what reads it of g * w`` is the derivative of the loss along the removal, whatever lies before."""
    groups, _, hidden = setup()
    found = group_scores(groups, PARAMS, Taylor(gradients(loss, PARAMS, [X])))
    gate = jnp.ones(5)

    def gated(gate):
        return loss(PARAMS | {"out": PARAMS["out"] * gate[:, None]}, X)

    np.testing.assert_allclose(found[hidden], np.abs(np.float64(jax.grad(gated)(gate))), rtol=1e-4)


def test_taylor_keeps_signs_within_a_unit():
    groups, stream, _ = setup()
    g = jax.grad(loss)(PARAMS, X)
    products = {name: np.float64(g[name]) * np.float64(PARAMS[name]) for name in ("res", "dense")}
    expected = [abs(products["res"][:, u, :].sum() + products["dense"][[u, u + 4]].sum()) for u in range(4)]
    found = group_scores(groups, PARAMS, Taylor(gradients(loss, PARAMS, [X])))
    np.testing.assert_allclose(found[stream], expected, rtol=1e-3, atol=1e-4)


def test_activation_is_the_strength_of_what_is_read():
    groups, _, hidden = setup()
    stats = jc.observe(fn, PARAMS, [X])
    found = group_scores(groups, PARAMS, Activation(stats, normalize=None))
    h = jax.nn.relu(conv(X, PARAMS["stem"]) * PARAMS["bn"]["scale"][None, None] + PARAMS["bn"]["bias"][None, None])
    h = (h + conv(h, PARAMS["res"])).reshape(8, -1) @ PARAMS["dense"]
    expected = np.sqrt(np.mean(np.maximum(np.float64(h), 0) ** 2, 0))
    np.testing.assert_allclose(found[hidden], expected, rtol=1e-4)
    some = jc.observe(fn, PARAMS, [X], where="out")
    assert list(group_scores(groups, PARAMS, Activation(some))) == [hidden]
    with pytest.raises(ValueError, match="no kernel that reads a group was observed"):
        group_scores(groups, PARAMS, Activation(jc.observe(fn, PARAMS, [X], where="stem")))


def test_data_knows_what_magnitude_does_not():
    """A unit that is never active has the largest weights: magnitude keeps it, the others drop it."""
    params = {"a": jnp.array([[5.0, 1.0, 1.0]]), "b": jnp.array([[9.0], [1.0], [1.0]])}
    params |= {"bias": jnp.array([-100.0, 0.0, 0.5])}

    def net(p, x):
        return jax.nn.relu(x @ p["a"] + p["bias"][None]) @ p["b"]

    x = jnp.array([[0.5], [1.0], [2.0]])
    groups = jc.groups(net, params, x)
    held = gradients(lambda p, x: jnp.mean(net(p, x) ** 2), params, [x])
    assert int(group_scores(groups, params, "l2")[0].argmin()) != 0
    assert int(group_scores(groups, params, Taylor(held))[0].argmin()) == 0
    assert int(group_scores(groups, params, Activation(jc.observe(net, params, [x])))[0].argmin()) == 0


def test_a_head_is_scored_by_all_of_its_dims():
    params = {name: normal(seed, 4, 6) for seed, name in enumerate("qkv")} | {"o": normal(3, 6, 4)}

    def attention(p, x):
        q, k, v = ((x @ p[name]).reshape(2, 3, 3, 2) for name in "qkv")
        weights = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", q, k), -1)
        return jnp.einsum("bhts,bshd->bthd", weights, v).reshape(2, 3, 6) @ p["o"]

    groups = jc.groups(attention, params, normal(4, 2, 3, 4))
    (heads,) = [group for group in groups if group.size == 3]
    found = group_scores(groups, params, Aggregate("l1", normalize=None))[heads.index]
    w = {name: np.abs(np.float64(a)) for name, a in params.items()}
    for head in range(3):
        dims = [2 * head, 2 * head + 1]
        expected = sum(w[name][:, dims].sum() for name in "qkv") + w["o"][dims].sum()
        assert found[head] == pytest.approx(expected, rel=1e-5)
