"""What `groups` returns: units, costs, kept indices, reasons, choices; and its errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.core.sites import sites
from tests.zoo import ZOO
from tests.zoo.model import arrays, data

MLP = arrays(a=(6, 8), c=(8,), b=(8, 3))
X = data(5, 6)


def mlp(params, x):
    return jax.nn.relu(x @ params["a"] + params["c"][None]) @ params["b"]


def members(group):
    return {(member.path, member.axis): member.positions.tolist() for member in group.members}


def test_members_of_a_hidden_layer():
    (group,) = jc.groups(mlp, MLP, X)
    each = [[i] for i in range(8)]
    assert members(group) == {("a", 1): each, ("b", 0): each, ("c", 0): each}


def test_costs_are_counted_by_hand():
    found = jc.groups(mlp, MLP, X)
    assert found.flops() == 2 * 5 * (6 * 8 + 8 * 3)
    assert found.flops({0: 2}) == 2 * 5 * (6 * 2 + 2 * 3)
    assert found.parameters({0: 2}) == 6 * 2 + 2 + 2 * 3
    assert found.bytes({0: 2}) == 4 * found.parameters({0: 2})
    assert found.flops({0: 0}) == 0
    assert found.shapes == {"a": (6, 8), "b": (8, 3), "c": (8,)}


@pytest.mark.parametrize("name", ["vision_vgg", "vision_mobilenet", "recurrent_stack", "transform_nn_scan"])
def test_flops_are_those_of_the_sites(name):
    """Where every contraction holds a weight, both count the same; convolutions, feature groups and scans too."""
    model = ZOO[name].model
    found = jc.groups(model.fn, model.params, *model.inputs, **model.kwargs)
    assert found.flops() == 2 * sum(s.macs for s in sites(model.fn, model.params, *model.inputs, **model.kwargs))


@pytest.mark.parametrize("name", ["vision_resnet_b", "vision_mobilenet_v2", "attention_fused_gqa"])
def test_costs_are_those_of_the_shrunk_network(name):
    """Groups of what is left cost what was foretold."""
    model = ZOO[name].model
    found = jc.groups(model.fn, model.params, *model.inputs)
    kept = {group.index: (group.size + 1) // 2 for group in found}
    keep = found.keep({index: np.arange(count) for index, count in kept.items()})
    small = jc.shrink(model.fn, model.params, keep)
    left = jc.groups(small.fn, small.params, *model.inputs)
    assert (left.parameters(), left.flops()) == (found.parameters(kept), found.flops(kept))
    assert left.bytes() == found.bytes(kept)


def test_keep_is_what_stays_of_every_axis():
    found = jc.groups(mlp, MLP, X)
    keep = found.keep({0: [7, 0, 3]})
    assert {at: kept.tolist() for at, kept in keep.items()} == {(p, a): [0, 3, 7] for p, a in members(found[0])}
    assert found.keep({0: np.arange(8)}) == {}
    assert found.keep({}) == {}


@pytest.mark.parametrize(
    ("kept", "message"), [({1: [0]}, "no group 1"), ({0: [8]}, "units 0 to 7"), ({0: [1, 1]}, "named twice")]
)
def test_keep_refuses(kept, message):
    with pytest.raises(ValueError, match=message):
        jc.groups(mlp, MLP, X).keep(kept)


def test_select_by_path_and_by_predicate():
    found = jc.groups(mlp, MLP, X)
    assert found.select("c") == found.select(lambda group: group.size == 8) == tuple(found)
    with pytest.raises(ValueError, match=r"fits no group(.|\n)*0: a, b, c"):
        found.select("d*")


def test_prints_members_costs_and_pins():
    text = repr(jc.groups(mlp, MLP, X))
    assert "0      8      a       6x8    1     1" in text
    assert "1 groups, 8 units; 720 FLOPs, 80 parameters" in text
    assert "pinned: b axis 1 (3): an axis of the result" in text


@pytest.mark.parametrize(
    ("reason", "fn"),
    [
        ("reduce_max", lambda p, x: jax.nn.softmax(x @ p["a"]) @ p["b"]),
        ("a sum takes in values", lambda p, x: jax.nn.sigmoid(x @ p["a"]).sum(-1) + p["b"].sum()),
        ("cumsum along it", lambda p, x: jnp.cumsum(x @ p["a"], 1) @ p["b"]),
        ("fft: no rule", lambda p, x: jnp.abs(jnp.fft.fft(x @ p["a"])) @ p["b"]),
        ("sort along it", lambda p, x: jnp.sort(x @ p["a"]) @ p["b"]),
        ("div of values that masking makes zero", lambda p, x: x @ (p["a"] / (p["a"] ** 2).sum(0)[None]) @ p["b"]),
        ("argmax gives positions", lambda p, x: jnp.argmax(x @ p["a"], 1)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pins_say_why_and_where(reason, fn):
    found = jc.groups(fn, MLP, X)
    assert not any(("a", 1) in members(group) for group in found)
    (pin,) = [pin for pin in found.pins if (pin.path, pin.axis) == ("a", 1)]
    assert reason in pin.reason
    assert "test_result.py" in pin.reason
    (unused,) = [pin for pin in found.pins if pin.path == "c"]
    assert "nothing in this call uses it" in unused.reason


def test_reductions_are_allowed_on_request():
    fn = lambda p, x: jax.nn.softmax(x @ p["a"]) @ p["b"]  # noqa: E731  # mapped below
    found = jc.groups(fn, MLP, X, reductions="allow")
    assert [group.size for group in found] == [8]
    assert any("differs from the masked one" in text for text in found.allowed)
    small = jc.shrink(fn, MLP, found.keep({0: [0, 1, 2]}))
    expected = jax.nn.softmax(X @ MLP["a"][:, :3]) @ MLP["b"][:3]
    np.testing.assert_allclose(small.fn(small.params, X), expected, rtol=1e-5, atol=1e-6)


def heads(params, x):
    """The axis of 12 = 4 heads of 3 is split, mixed and merged."""
    split = (x @ params["q"]).reshape(5, 4, 3)
    return (split * jnp.arange(1.0, 3.5)).reshape(5, 12) @ params["o"]


@pytest.mark.parametrize(("policy", "size", "each"), [("outer", 4, 3), ("inner", 3, 4), (lambda sizes, line: 1, 3, 4)])
def test_policy_chooses_the_factor_that_moves(policy, size, each):
    with jax.numpy_rank_promotion("allow"):
        found = jc.groups(heads, arrays(q=(6, 12), o=(12, 2)), X, reshape=policy)
    (group,) = found
    assert group.size == size
    assert all(member.positions.shape == (size, each) for member in group.members)
    assert any("4x3" in choice and "test_result.py" in choice for choice in found.choices)


def test_a_choice_that_leaves_nothing_gives_way():
    """A shuffle between 2 groups of 4 that are mixed: the groups cannot go, the channels in them can."""

    def shuffled(params, x):
        split = (x @ params["q"]).reshape(5, 2, 4)
        return (split + split[:, ::-1]).reshape(5, 8) @ params["o"]

    (group,) = jc.groups(shuffled, arrays(q=(6, 8), o=(8, 2)), X)
    assert group.size == 4


def test_state_outputs_do_not_pin():
    model = ZOO["linen_batch_norm_train"].model
    pinned = jc.groups(model.fn, model.params, *model.inputs, **model.kwargs)
    assert not len(pinned)
    assert any("state=" in pin.reason for pin in pinned.pins)
    (group,) = jc.groups(model.fn, model.params, *model.inputs, state="1/**", **model.kwargs)
    assert {"batch_stats/BatchNorm_0/mean", "params/Conv_0/kernel"} <= set(group.paths)
    with pytest.raises(ValueError, match=r"state='2/\*\*' fits no result(.|\n)*1/batch_stats"):
        jc.groups(model.fn, model.params, *model.inputs, state="2/**", **model.kwargs)


def test_compressed_and_abstract_parameters_have_the_groups_of_dense_ones():
    packed = jc.quantize.rtn(MLP, bits=8, where=["a", "b"])
    shapes = jax.eval_shape(lambda: MLP)
    for params in (packed, shapes):
        (group,) = jc.groups(mlp, params, jax.ShapeDtypeStruct(X.shape, X.dtype))
        assert set(members(group)) == {("a", 1), ("b", 0), ("c", 0)}


def test_scalars_have_no_groups():
    found = jc.groups(lambda p, x: x * p["scale"], {"scale": jnp.float32(2)}, X)
    assert (len(found), found.parameters(), found.flops()) == (0, 1, 0)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="reductions must be"):
        jc.groups(mlp, MLP, X, reductions="maybe")
    with pytest.raises(ValueError, match="reshape must be"):
        jc.groups(mlp, MLP, X, reshape="middle")
    with pytest.raises(ValueError, match="holds no array"):
        jc.groups(mlp, {}, X)
    with pytest.raises(ValueError, match=r"chose factor 7 of \(4, 3\)"), jax.numpy_rank_promotion("allow"):
        jc.groups(heads, arrays(q=(6, 12), o=(12, 2)), X, reshape=lambda sizes, line: 7)
