"""Every model of the zoo: what its groups are, and that the shrunk network is the masked one."""

import jax
import numpy as np
import pytest

import jaxcompress as jc
from tests.core.groups.law import check, masked, sizes, some
from tests.zoo import ENTRIES, ZOO

# Sizes of the groups (of more than one unit), found by hand. What is not here holds the law and may have any groups.
SIZES = {
    "vision_lenet5": (6, 10, 12, 16),
    "vision_vgg": (6, 8, 10, 12),
    "vision_resnet_a": (4, 4, 4, 8, 8),  # 4 channels run through all stages, 4 more begin at the padding
    "vision_resnet_b": (4, 4, 8, 8, 8),
    "vision_densenet": (4, 4, 6, 6, 8, 8),
    "vision_inception": (4, 4, 4, 4, 6, 6, 8),
    "vision_mobilenet": (6, 8, 10),
    "vision_mobilenet_v2": (4, 4, 6, 8, 12, 12, 12),
    "vision_group_norm": (4, 4),  # whole groups of channels: 4 of 2, and 4 of 3
    "vision_video": (4, 6, 8),
    "vision_shufflenet_v2": (2, 2, 4, 6, 6),
    "vision_up_sampler": (3, 6, 8, 10),
    "vision_vit": (
        3,
        3,
        4,
        4,
        4,
        4,
        12,
        16,
        16,
    ),  # per block: heads, width of q and k, width of v; the MLPs, the stream
    "attention_unrolled": (3, 3, 4, 4, 4, 4, 12, 16, 16),
    "attention_transformer": (2, 8, 8, 16, 24),
    "attention_self": (4, 4, 4),
    "attention_cross": (2, 4, 4),
    "attention_fused_gqa": (2, 12, 16),  # key heads with their query heads
    "nnx_transformer": (3, 4, 4, 12, 16),
    "nnx_cnn": (8,),
    "conv_text": (4, 6, 8, 8),
    "recurrent_classifier": (8, 12),
    "recurrent_stack": (6, 7, 8),
    "llama_plain": (2, 16, 24),
    "llama_trained_plain": (4, 64, 172),
    "linen_batch_norm": (8,),
    "linen_group_norm": (2,),
    "linen_embed_attend": (16,),
    "linen_dropout": (32,),
    "linen_einsum_three": (8,),
    "equinox_mlp": (24, 24),
    "equinox_conv": (8,),
    "plain_einsum_three": (6,),
    "plain_product_of_two": (6,),
    "plain_twice_transposed": (16,),
    "plain_mixed_tree": (2, 12),  # two entries of a table that are never read
    "plain_x64": (12,),
    "moe_dense_dispatch": (12,),
    "moe_gathered": (4, 12),  # the router is summed
    "moe_one_expert": (12,),
    "moe_scanned": (12,),
}
# One parameter and no unit between input and output: nothing may be found.
WHOLE = ("linen_dense", "conv_same", "conv_depthwise", "plain_dot", "plain_heads", "transform_scan_layers", "nnx_scan")
# The slow run checks the gradients of all.
GRADIENTS = ("vision_lenet5", "vision_resnet_a", "vision_mobilenet_v2", "attention_fused_gqa", "recurrent_classifier")


def groups_of(entry):
    model = entry.model
    return jc.groups(model.fn, model.params, *model.inputs, **model.kwargs)


def other_batch(entry):
    """The inputs with one more example; None if the dense model is for one batch size."""
    if "no_batch" in entry.tags or entry.name == "plain_elementwise":
        return None
    return tuple(np.concatenate([x, x[:1]]) for x in entry.model.inputs)


def law(entry, seeds, *, gradient):
    model = entry.model
    with entry.context():
        groups = groups_of(entry)
        assert all(pin.reason for pin in groups.pins)
        check(
            model.fn,
            model.params,
            model.inputs,
            [some(groups, seed) for seed in seeds],
            kwargs=model.kwargs,
            others=other_batch(entry),
            gradient=gradient and "no_grad" not in entry.tags,
        )
    return groups


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_masked_is_shrunk(entry, request):
    if "data" in entry.tags:
        request.getfixturevalue("data_folder")
    groups = law(entry, (0,), gradient=entry.name in GRADIENTS)
    assert sizes(groups) == SIZES.get(entry.name, sizes(groups)), groups
    if entry.name in WHOLE:
        assert not sizes(groups), groups
        assert groups.pins


@pytest.mark.slow
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_masked_is_shrunk_with_more_seeds(entry, request):
    if "data" in entry.tags:
        request.getfixturevalue("data_folder")
    law(entry, range(1, 6), gradient=True)


@pytest.mark.parametrize("name", ["vision_resnet_a", "attention_fused_gqa"])
def test_groups_are_removed_one_at_a_time(name):
    entry = ZOO[name]
    model = entry.model
    with entry.context():
        groups = groups_of(entry)
        keeps = [some(groups, 1 + 2 * group.index, only=group.index) for group in groups]
        check(model.fn, model.params, model.inputs, keeps)


@pytest.mark.parametrize("name", ["vision_lenet5", "attention_fused_gqa"])
def test_units_matter(name):
    """The law would hold for units that nothing depends on: masking half of any group changes the output."""
    entry = ZOO[name]
    model = entry.model
    with entry.context():
        groups = groups_of(entry)
        run = jax.jit(model.fn)
        dense = run(model.params, *model.inputs)
        for group in groups:
            zeroed = run(masked(model.params, some(groups, 0, only=group.index)), *model.inputs)
            assert np.max(np.abs(zeroed - dense)) > 1e-3 * np.max(np.abs(dense)), group


def test_other_half_of_the_choice():
    """The inner factor of an ambiguous reshape: channels out of every group, dimensions out of every head."""
    found = {}
    for name in ("vision_group_norm", "attention_fused_gqa"):
        entry = ZOO[name]
        model = entry.model
        with entry.context():
            groups = jc.groups(model.fn, model.params, *model.inputs, reshape="inner", **model.kwargs)
            check(model.fn, model.params, model.inputs, [some(groups, 0), some(groups, 1)])
        assert groups.choices
        found[name] = sizes(groups)
    assert found["vision_group_norm"] == (2, 3)
    assert {12, 16} < set(found["attention_fused_gqa"])


def test_returned_statistics_shrink_with_the_rest():
    """Batch norm in training: its new statistics pin the channels, unless they are said to be state."""
    entry = ZOO["linen_batch_norm_train"]
    model = entry.model
    assert not sizes(groups_of(entry))
    groups = jc.groups(model.fn, model.params, *model.inputs, state="1/**", **model.kwargs)
    assert sizes(groups) == (8,)
    keep = some(groups, 0)
    small = jc.shrink(model.fn, model.params, keep)
    ours = jax.jit(lambda p, x: small.fn(p, x, **model.kwargs))(small.params, *model.inputs)
    theirs = jax.jit(lambda p, x: model.fn(p, x, **model.kwargs))(masked(model.params, keep), *model.inputs)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5, atol=1e-5)
    kept = keep["params/Conv_0/kernel", 3]
    for name in ("mean", "var"):
        new, dense = (out[1]["batch_stats"]["BatchNorm_0"][name] for out in (ours, theirs))
        assert new.shape == (4,)
        np.testing.assert_allclose(new, dense[kept], rtol=1e-5, atol=1e-6)
