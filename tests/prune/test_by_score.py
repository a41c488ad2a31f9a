import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.prune import by_score


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


PARAMS = {"a": {"kernel": normal(0, 6, 5), "bias": normal(1, 5)}, "b": {"kernel": normal(2, 5, 4)}}


def dropped(scores, count):
    """Mask without the ``count`` lowest; among equals the higher index goes."""
    order = np.argsort(-np.float64(scores).reshape(-1), kind="stable")
    mask = np.zeros(np.size(scores), bool)
    mask[order[: np.size(scores) - count]] = True
    return mask.reshape(np.shape(scores))


def test_each_scope_drops_the_lowest_of_what_it_compares():
    scores = {"a/kernel": normal(3, 6, 5), "b/kernel": jnp.round(normal(4, 5, 4))}  # with ties
    layer = by_score(PARAMS, scores, sparsity=0.4)
    for name in "ab":
        mask = dropped(scores[f"{name}/kernel"], round(0.4 * scores[f"{name}/kernel"].size))
        np.testing.assert_array_equal(layer[name]["kernel"].mask, mask)
        np.testing.assert_array_equal(layer[name]["kernel"].materialize(), np.where(mask, PARAMS[name]["kernel"], 0))
    output = by_score(PARAMS, scores, sparsity=0.4, scope="output")
    for name in "ab":
        columns = np.float64(scores[f"{name}/kernel"]).T
        expected = np.stack([dropped(column, round(0.4 * column.size)) for column in columns], 1)
        np.testing.assert_array_equal(output[name]["kernel"].mask, expected)
    together = by_score(PARAMS, scores, sparsity=0.4, scope="global")
    flat = np.concatenate([np.float64(scores["a/kernel"]).ravel(), np.float64(scores["b/kernel"]).ravel()])
    got = np.concatenate([np.asarray(together[name]["kernel"].mask).ravel() for name in "ab"])
    np.testing.assert_array_equal(got, dropped(flat, 20))
    assert layer["a"]["bias"] is PARAMS["a"]["bias"]


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_magnitude_is_by_score_with_l1(scope):
    ours = by_score(PARAMS, "l1", sparsity=0.7, scope=scope)
    jax.tree.map(np.testing.assert_array_equal, ours, jc.prune.magnitude(PARAMS, sparsity=0.7, scope=scope))


def test_scores_may_be_of_any_sign_and_what_is_pruned_goes_first():
    once = by_score({"w": normal(5, 4, 4)}, {"w": -jnp.arange(16.0).reshape(4, 4)}, sparsity=0.25)
    assert not np.asarray(once["w"].mask)[3].any()  # the most negative
    again = by_score(once, {"w": jnp.arange(16.0).reshape(4, 4)}, sparsity=0.5)["w"].mask
    assert np.asarray(again)[1:3].all()
    assert int(again.sum()) == 8


def test_traced_sparsity_and_a_sparsity_per_glob():
    traced = jax.jit(lambda p, s: by_score(p, "lamp", sparsity=s, scope="global"))(PARAMS, jnp.float32(0.6))
    jax.tree.map(np.testing.assert_array_equal, traced, by_score(PARAMS, "lamp", sparsity=0.6, scope="global"))
    mixed = by_score(PARAMS, "l1", sparsity={"a/*": 0.9, "**": 0.5}, where="**/kernel")
    assert [int(mixed[name]["kernel"].mask.sum()) for name in "ab"] == [3, 10]


def test_outputs_of_a_convolution_are_its_channels():
    params = {"w": normal(6, 3, 3, 2, 4)}
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}

    def fn(p, x):
        return jax.lax.conv_general_dilated(x, p["w"], (1, 1), "SAME", **options)

    sites = jc.sites(fn, params, jnp.ones((1, 4, 4, 2)))
    mask = by_score(params, "l1", sparsity=0.5, scope="output", sites=sites)["w"].mask
    assert mask.sum((0, 1, 2)).tolist() == [9] * 4
    with pytest.raises(ValueError, match="what the axes of 'w'"):
        by_score(params, "l1", sparsity=0.5, scope="output")


def test_errors_name_the_way_out():
    with pytest.raises(ValueError, match="scope must be"):
        by_score(PARAMS, "l1", sparsity=0.5, scope="filter")
    with pytest.raises(ValueError, match="'global' takes one number"):
        by_score(PARAMS, "l1", sparsity={"**": 0.5}, scope="global")
    with pytest.raises(ValueError, match="'b/kernel' holds NaN or infinity, or its scores do"):
        by_score(PARAMS, {"a/kernel": normal(0, 6, 5), "b/kernel": jnp.full((5, 4), jnp.nan)}, sparsity=0.5)
