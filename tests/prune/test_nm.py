import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.prune import nm_mask


def numpy_nm_mask(scores, n, m, axis):
    """The oracle: a stable descending sort of every group."""
    moved = np.moveaxis(np.asarray(scores, np.float64), axis, -1)
    groups = moved.reshape(*moved.shape[:-1], -1, m)
    order = np.argsort(-groups, axis=-1, kind="stable")
    mask = np.zeros(groups.shape, bool)
    np.put_along_axis(mask, order[..., :n], True, axis=-1)
    return np.moveaxis(mask.reshape(moved.shape), -1, axis)


@pytest.mark.parametrize(("n", "m", "axis"), [(2, 4, 0), (2, 4, -1), (1, 4, 1), (4, 8, 0), (0, 2, 2), (3, 3, 1)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_mask_is_that_of_a_stable_sort(n, m, axis, dtype):
    scores = jnp.asarray(np.random.default_rng(0).integers(-3, 3, size=(8, 12, 4)), dtype)  # many ties, both signs
    np.testing.assert_array_equal(nm_mask(scores, n=n, m=m, axis=axis), numpy_nm_mask(scores, n, m, axis))


def test_n_may_be_traced_and_vmapped():
    scores = jnp.asarray(np.random.default_rng(1).normal(size=(4, 8)), jnp.float32)
    masks = jax.jit(jax.vmap(lambda n: nm_mask(scores, n=n, m=4, axis=1)))(jnp.arange(5))
    for n, mask in enumerate(masks):
        np.testing.assert_array_equal(mask, numpy_nm_mask(scores, n, 4, 1))


def test_errors_name_the_axis():
    with pytest.raises(ValueError, match=r"m=4 does not divide axis 1 of shape \(8, 6\)"):
        nm_mask(jnp.ones((8, 6)), n=2, m=4, axis=-1)
    with pytest.raises(ValueError, match=r"n must lie in \[0, m=4\], got 5"):
        nm_mask(jnp.ones(8), n=5, m=4, axis=0)
    with pytest.raises(ValueError, match="axis must be one of the 1 axes of scores, got 1"):
        nm_mask(jnp.ones(8), n=2, m=4, axis=1)
