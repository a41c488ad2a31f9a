"""Channels, heads, features, LSTM units and whole branches of real networks: chosen, shrunk, and exact."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.core.shrink import shrink, verify
from jaxcompress.prune import blocks, branches, channels, slimming
from tests.zoo import ZOO


@functools.cache
def analysed(name):
    model = ZOO[name].model
    return model, jc.groups(model.fn, model.params, *model.inputs, **model.kwargs)


def exact(model, keep):
    """Masked and shrunk agree, and what was promised is what there is."""
    assert verify(model.fn, model.params, keep, *model.inputs, **model.kwargs).ok
    small = shrink(model.fn, model.params, keep)
    assert sum(np.size(leaf) for leaf in jax.tree.leaves(small.params)) == keep.costs["params"][1]
    return small


@pytest.mark.parametrize(
    ("name", "where", "units", "scores"),
    [
        pytest.param(  # channels, flattened into four rows of a dense kernel each; its pooling divides by an int
            *("vision_lenet5", None, 1, "l2"), marks=pytest.mark.standard_promotion
        ),
        ("vision_resnet_b", None, 1, "fpgm"),  # channels, also of the stream
        ("vision_vit", "**/out/kernel", 3, "l2"),  # heads, their dims, and the stream
        ("attention_fused_gqa", "**/embedding", 1, "l1"),  # the embedding dimension
        ("recurrent_classifier", "**/hf/bias", 1, "lamp"),  # LSTM units
    ],
)
def test_half_of_the_flops_of_what_can_go(name, where, units, scores):
    model, groups = analysed(name)
    least = groups.flops({group.index: 1 for group in groups.select(where)})
    budget = (groups.flops() + least) // 2
    keep = channels(groups, model.params, scores=scores, flops=budget, round_to=1, where=where)
    assert 0.75 * budget < keep.costs["flops"][1] <= budget
    assert len(keep.units) >= units
    exact(model, keep)


def test_heads_alone_by_a_predicate():
    model, groups = analysed("vision_vit")
    keep = channels(groups, model.params, sparsity=1 / 3, round_to=1, where=lambda group: group.size == 3)
    assert {key[1] for key in keep if key[0].endswith("query/kernel")} == {1}
    assert sum(map(len, keep.units.values())) == 4  # of six heads
    exact(model, keep)


def test_slimming_drops_the_smallest_scales_of_all_layers():
    model, groups = analysed("vision_resnet_b")
    rng = np.random.default_rng(0)
    paths, leaves, treedef = jc.core.paths.flatten_with_paths(model.params)
    drawn = [
        jnp.asarray(rng.uniform(0.1, 1, leaf.size), leaf.dtype) if path.endswith("scale") else leaf
        for path, leaf in zip(paths, leaves, strict=True)
    ]
    by_path = dict(zip(paths, map(np.float64, drawn), strict=True))
    keep = slimming(groups, jax.tree.unflatten(treedef, drawn), sparsity=0.4)
    scales = {
        group.index: np.mean([np.abs(by_path[m.path]) for m in group.members if m.path.endswith("scale")], 0)
        for group in groups
    }
    assert len(scales) == 5
    flat = np.sort(np.concatenate(list(scales.values())))
    threshold = flat[round(0.4 * flat.size)]
    for index, values in scales.items():
        kept = np.flatnonzero(values >= threshold)
        np.testing.assert_array_equal(keep.units.get(index, np.arange(values.size)), kept)
    exact(model, keep)


# Branches -------------------------------------------------------------------------------------------------------


def names(name):
    model, groups = analysed(name)
    return {branch.name for branch in branches(groups, model.params)}


@pytest.mark.standard_promotion
def test_branches_are_what_data_can_bypass():
    assert names("vision_resnet_b") == {f"params/Residual_{i}" for i in range(3)}
    vit = {f"params/MultiHeadDotProductAttention_{i}" for i in range(2)}
    assert names("vision_vit") == vit | {"params/Dense_0+Dense_1", "params/Dense_2+Dense_3"}
    assert names("vision_lenet5") == set()  # a chain: every group is needed
    assert names("recurrent_classifier") == set()


def test_dropped_branches_leave_a_constant():
    model, groups = analysed("vision_resnet_b")
    keep = blocks(groups, model.params, drop="params/Residual_[02]")
    small = exact(model, keep)
    assert {len(kept) for kept in keep.values()} == {0}
    assert small.params["params"]["Residual_0"]["Conv_1"]["kernel"].shape == (3, 3, 0, 4)
    assert small.params["params"]["Residual_0"]["BatchNorm_1"]["bias"].shape == (4,)  # the constant
    assert small.params["params"]["Residual_1"]["Conv_0"]["kernel"].shape == (3, 3, 4, 8)
    assert "dropped: params/Residual_0" in repr(keep)


def test_the_least_important_go_first():
    model, groups = analysed("vision_vit")
    order = [branch.name for branch in branches(groups, model.params)]
    params = jax.tree.map(lambda leaf: leaf, model.params)
    params["params"]["MultiHeadDotProductAttention_1"] = jax.tree.map(
        lambda leaf: leaf * 1e-3, params["params"]["MultiHeadDotProductAttention_1"]
    )
    assert order[0] != "params/MultiHeadDotProductAttention_1"
    keep = blocks(groups, params, drop=1)
    assert {key[0].split("/")[1] for key in keep} == {"MultiHeadDotProductAttention_1"}
    exact(model, blocks(groups, model.params, drop=2))


def test_what_would_cut_the_network_is_refused():
    """Two parallel branches bypass each other; one of them has to stay."""
    params = {name: {"up": jnp.ones((2, 3)), "down": jnp.ones((3, 2))} for name in ("left", "right")}
    params["left"]["up"] = params["left"]["up"] * 2

    def fn(p, x):
        return sum(jax.nn.relu(x @ p[name]["up"]) @ p[name]["down"] for name in ("left", "right"))

    groups = jc.groups(fn, params, jnp.ones((1, 2)))
    assert [branch.name for branch in branches(groups, params)] == ["right", "left"]
    assert {key[0] for key in blocks(groups, params, drop=1)} == {"right/up", "right/down"}
    with pytest.raises(ValueError, match=r"without \['right'\] every further branch is needed"):
        blocks(groups, params, drop=2)
    with pytest.raises(ValueError, match="a result is cut off from an input"):
        blocks(groups, params, drop="*")
    with pytest.raises(ValueError, match="there are 2 branches:\nbranch"):
        blocks(groups, params, drop=3)
    with pytest.raises(ValueError, match="'middle' fits no branch"):
        blocks(groups, params, drop="middle")


def test_what_dies_with_a_branch_belongs_to_it():
    """Both widths of a bottleneck, and the gate inside of it, go together; another branch stays by itself."""
    shapes = {
        "down": (4, 6),
        "mid": (6, 5),
        "up": (5, 4),
        "squeeze": (6, 2),
        "excite": (2, 6),
        "a": (4, 3),
        "b": (3, 4),
    }
    rng = np.random.default_rng(0)
    params = {name: jnp.asarray(rng.standard_normal(shape), jnp.float32) for name, shape in shapes.items()}

    def fn(p, x):
        h = jax.nn.relu(x @ p["down"])
        h = h * jax.nn.sigmoid(jax.nn.relu(h @ p["squeeze"]) @ p["excite"])
        x = x + jax.nn.relu(h @ p["mid"]) @ p["up"]
        return x + jax.nn.relu(x @ p["a"]) @ p["b"]

    groups = jc.groups(fn, params, jnp.ones((1, 4)))
    sizes = {frozenset(groups[index].size for index in branch.groups) for branch in branches(groups, params)}
    assert sizes == {frozenset({6, 5, 2}), frozenset({3})}
    keep = blocks(groups, params, drop="*mid*")
    assert verify(fn, params, keep, jnp.ones((3, 4))).ok
    assert {key[0] for key in keep} == {"down", "mid", "up", "squeeze", "excite"}


@pytest.mark.slow
def test_an_input_of_its_own_counts():
    """The hidden units that alone read the second input are no branch, though the first input passes them by."""
    params = {"up": jnp.ones((2, 3)), "down": jnp.ones((3, 2)), "read": jnp.ones((2, 3)), "write": jnp.ones((3, 2))}

    def fn(p, x, y):
        x = x + jax.nn.relu(x @ p["up"]) @ p["down"]
        return x + jax.nn.relu(y @ p["read"]) @ p["write"]

    groups = jc.groups(fn, params, jnp.ones((1, 2)), jnp.ones((1, 2)))
    assert [groups[branch.groups[0]].paths for branch in branches(groups, params)] == [("down", "up")]
