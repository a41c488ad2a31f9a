from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxcompress.solvers.topk import kept_count, ordered_keys, topk_mask, topk_masks


def numpy_masks(arrays, keep):
    """The oracle: a stable descending sort, so that among equals the earlier entry stays."""
    flat = np.concatenate([np.asarray(a, np.float64).reshape(-1) for a in arrays])
    mask = np.zeros(flat.size, bool)
    mask[np.argsort(-flat, kind="stable")[:keep]] = True
    ends = np.cumsum([np.size(a) for a in arrays])[:-1]
    return [part.reshape(np.shape(a)) for part, a in zip(np.split(mask, ends), arrays, strict=True)]


values = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1.5, -2.0, 1e-40, -1e-40, 3e38, float("inf"), -float("inf")])


@given(st.lists(values, min_size=12, max_size=12), st.integers(0, 12))
def test_mask_is_that_of_a_stable_sort_with_ties_and_signs(scores, keep):
    scores = np.array(scores, np.float32)
    mask = jax.jit(topk_mask)(jnp.asarray(scores), keep)
    np.testing.assert_array_equal(mask, numpy_masks([scores], keep)[0])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16, jnp.float8_e4m3fn])
@pytest.mark.parametrize("shape", [(), (1,), (7, 5), (3, 3, 64, 70)])
def test_every_float_dtype_and_many_ties(dtype, shape):
    scores = jnp.asarray(np.random.default_rng(0).normal(size=shape), dtype)  # 8-bit floats: thousands of ties
    mask_of = jax.jit(topk_mask)
    for keep in (0, scores.size // 3, scores.size):
        mask = mask_of(scores, keep)
        np.testing.assert_array_equal(mask, numpy_masks([np.asarray(scores, np.float32)], keep)[0])


def test_several_arrays_share_one_threshold_and_ties_go_in_order():
    rng = np.random.default_rng(1)
    shapes = [(1, 5), (0, 3), (3,), (40, 5), (2000, 3)]
    arrays = [rng.integers(-3, 3, size=shape).astype(np.float32) for shape in shapes]
    for keep in (0, 1, 5, 30, 57, 203, 4000, 6208):
        masks = jax.jit(topk_masks)([jnp.asarray(a) for a in arrays], keep)
        for mask, expected in zip(masks, numpy_masks(arrays, keep), strict=True):
            np.testing.assert_array_equal(mask, expected)


def test_vmap_is_the_loop_with_a_keep_count_per_row():
    scores = jnp.asarray(np.random.default_rng(2).integers(0, 9, size=(4, 300)), jnp.float32)
    keep = jnp.array([0, 10, 150, 300])
    batched = jax.vmap(topk_mask)(scores, keep)
    for row, count, mask in zip(scores, keep.tolist(), batched, strict=True):
        np.testing.assert_array_equal(mask, numpy_masks([np.asarray(row)], count)[0])


def test_counts_stay_exact_above_2_to_24():
    size = 2**24 + 2**20 + 3  # all equal: only the index decides, and a float32 count would stick at 2^24
    keep = 2**24 + 17
    mask = jax.jit(topk_mask)(jnp.zeros(size, jnp.bfloat16), keep)
    assert np.count_nonzero(mask) == keep
    assert np.asarray(mask)[:keep].all()


@given(st.floats(0, 1, width=32) | st.sampled_from([0.0, 0.5, 0.25, 1.0, 2.0**-25, 1e-42, 0.9]))
def test_traced_count_rounds_the_exact_product(fraction):
    fraction = float(np.float32(fraction))
    for size in (5, 2**24 + 1, 2**31 - 1):
        exact = round(Fraction(fraction) * size)  # Fraction rounds halves to even
        assert int(traced_count(size, jnp.float32(fraction))) == size - exact


traced_count = jax.jit(kept_count, static_argnums=0)


def test_concrete_count_is_pythons():
    assert kept_count(25_500_000, 0.9) == 25_500_000 - round(0.9 * 25_500_000)
    assert kept_count(7, jnp.float32(0.5)) == 3  # 3.5 rounds to 4 dropped


@pytest.mark.parametrize("sparsity", [-0.1, 1.01, float("nan")])
def test_sparsity_outside_its_range_is_named(sparsity):
    with pytest.raises(ValueError, match=r"sparsity .* must lie in"):
        kept_count(10, sparsity)


def test_what_cannot_be_ordered_is_refused():
    with pytest.raises(TypeError, match="scores must be floats, got int32"):
        ordered_keys(jnp.arange(3))
    with pytest.raises(ValueError, match="share one dtype"):
        topk_masks([jnp.zeros(2), jnp.zeros(2, jnp.bfloat16)], 1)
    with pytest.raises(ValueError, match="below 2\\^31"):
        kept_count(2**31, 0.5)


def test_another_keep_count_does_not_compile_again():
    traces = []
    mask = jax.jit(lambda scores, keep: traces.append(keep) or topk_mask(scores, keep))
    assert [int(mask(jnp.ones(10), keep).sum()) for keep in (3, 4)] == [3, 4]
    assert len(traces) == 1
