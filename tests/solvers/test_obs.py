"""The OBS sweep against exact inverses in float64: one inverse per feature, no factorization, no blocks."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.solvers.obs import (
    factor_with_retries,
    inverse_factor,
    kept_per_block,
    n_of_group,
    obs_sweep,
    top_of_blocks,
)

F, R, BLOCK, DAMPING = 10, 6, 4, 0.01  # blocks of 4, 4 and 2 features


def problem(seed=0, features=F, outputs=R):
    """A weight and the second moment of correlated data."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(40, features)) @ (np.eye(features) + 0.4 * random.normal(size=(features, features)))
    return random.normal(size=(features, outputs)), x.T @ x / len(x)


def exact_sweep(w, s, settle, *, block):
    """``settle(scores, first, stop)`` gives the mask of a block, from the weights as they are by then."""
    v = w.astype(np.float64).copy()
    h = s + DAMPING * np.mean(np.diag(s)) * np.eye(len(s))
    mask = np.ones(w.shape, bool)
    corner = [np.linalg.inv(h[i:, i:])[0, 0] for i in range(len(h))]
    for i in range(len(h)):
        if i % block == 0:
            stop = min(i + block, len(h))
            mask[i:stop] = settle(v[i:stop] ** 2 / np.array(corner[i:stop])[:, None], i, stop)
        inverse = np.linalg.inv(h[i:, i:])
        error = (v[i] - v[i] * mask[i]) / inverse[0, 0]
        v[i:] -= inverse[:, :1] * error[None]
        v[i] *= mask[i]
    return v, mask


def largest(scores, keep):
    """The ``keep`` largest of all scores."""
    order = np.argsort(-scores, axis=None, kind="stable")[:keep]
    mask = np.zeros(scores.size, bool)
    mask[order] = True
    return mask.reshape(scores.shape)


def error(w, v, s):
    """Squared output error."""
    return np.trace((w - v).T @ s @ (w - v))


@functools.cache
def sweep(kind):
    """One compiled program per kind of pattern, with its knob traced."""

    @jax.jit
    def run(w, s, knob):
        if kind == "blocks":
            return obs_sweep(w, s, top_of_blocks(kept_per_block(F, R, knob, block_size=BLOCK)[0]), block_size=BLOCK)
        if kind == "n:m":
            return obs_sweep(w, s, n_of_group(knob), group=2, block_size=BLOCK)
        given = lambda scores, index: jax.lax.dynamic_slice_in_dim(knob, index * BLOCK, BLOCK)  # noqa: E731
        return obs_sweep(w, s, given, block_size=BLOCK)

    return lambda w, s, knob: run(jnp.float32(w), jnp.float32(s), knob)


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 1.0])
def test_blocks_are_the_exact_sweep(sparsity):
    w, s = problem()
    kept = np.diff([0] + [e * R - round(sparsity * e * R) for e in (4, 8, 10)])
    want, mask = exact_sweep(w, s, lambda scores, i, _: largest(scores, kept[i // BLOCK]), block=BLOCK)
    got = sweep("blocks")(w, s, jnp.float32(sparsity))
    np.testing.assert_array_equal(got.mask, mask)
    np.testing.assert_allclose(got.values, want, rtol=2e-4, atol=2e-5)  # condition number about 1e3
    assert int((~got.mask).sum()) == round(sparsity * F * R)
    assert not got.values[~got.mask].any()


def test_n_of_m_is_the_exact_sweep():
    w, s = problem(1)
    choose = lambda scores, *_: np.argsort(np.argsort(-scores, axis=0), axis=0) < 1  # noqa: E731
    want, mask = exact_sweep(w, s, choose, block=2)
    got = sweep("n:m")(w, s, jnp.int32(1))
    np.testing.assert_array_equal(got.mask, mask)
    np.testing.assert_allclose(got.values, want, rtol=2e-4, atol=2e-5)
    assert (np.asarray(got.mask).reshape(5, 2, R).sum(1) == 1).all()


def test_a_given_mask_lies_between_least_squares_and_no_correction():
    """For one mask: the best values of all, those of the sweep (which may not go back), those of the dense weight."""
    w, s = problem(2)
    mask = np.random.default_rng(3).random((F, R)) < 0.5
    got = sweep("given")(w, s, jnp.pad(jnp.asarray(mask), ((0, 2), (0, 0))))
    np.testing.assert_array_equal(got.mask, mask)
    best = np.zeros_like(w)
    for column in range(R):
        on = np.flatnonzero(mask[:, column])
        best[on, column] = np.linalg.solve(s[np.ix_(on, on)], s[on] @ w[:, column])
    least, swept, plain = (error(w, v, s) for v in (best, np.float64(got.values), w * mask))
    assert least < swept < 0.9 * plain


def test_rounding_in_the_sweep_beats_rounding_after_it():
    """GPTQ is this sweep with everything kept; what is left behind is on the grid."""
    w, s = problem(4, features=16)
    grid = lambda values, index: jnp.round(values * 2) / 2  # noqa: E731
    got = jax.jit(lambda w, s: obs_sweep(w, s, rounding=grid, block_size=8))(jnp.float32(w), jnp.float32(s))
    np.testing.assert_array_equal(np.asarray(got.values) * 2, np.round(np.asarray(got.values) * 2))
    assert got.mask.all()
    assert error(w, np.float64(got.values), s) < 0.8 * error(w, np.round(w * 2) / 2, s)


def test_vmap_is_a_loop_and_what_is_pruned_goes_first():
    (w, s), (v, t) = problem(5), problem(6)
    support = np.ones((2, F, R), bool)
    support[0, 1] = support[1, :, 2] = False
    run = lambda w, s, support: obs_sweep(  # noqa: E731
        w, s, top_of_blocks(kept_per_block(F, R, 0.5, block_size=BLOCK)[0]), support=support, block_size=BLOCK
    )
    weights, moments = jnp.float32(np.array([w, v]) * support), jnp.float32([s, t])
    got = jax.jit(jax.vmap(run))(weights, moments, jnp.asarray(support))
    single = jax.jit(run)
    for i in range(2):
        alone = single(weights[i], moments[i], jnp.asarray(support[i]))
        np.testing.assert_array_equal(got.mask[i], alone.mask)
        np.testing.assert_allclose(got.values[i], alone.values, rtol=1e-4, atol=1e-5)
        assert not np.asarray(alone.mask)[~support[i]].any()
        assert int((~alone.mask).sum()) == F * R // 2  # what was pruned counts


def test_features_without_data_go_first_and_change_nothing():
    w, s = problem(7)
    s[3], s[:, 3] = 0, 0
    got = sweep("blocks")(w, s, jnp.float32(0.25))  # 6 of the first 4 x 6
    assert not got.mask[3].any()
    kept = sweep("blocks")(w, s, jnp.float32(0.0))
    np.testing.assert_allclose(kept.values, w, rtol=1e-6)


def test_a_singular_moment_gives_no_numbers():
    """Not a wrong result: the tree method turns it into an error."""
    s = jnp.ones((3, 3)) - 2 * jnp.eye(3)
    assert not np.isfinite(np.asarray(inverse_factor(s, 0.0))).all()


@pytest.mark.parametrize(("features", "outputs", "groups"), [(10, 7, 1), (128, 3, 1), (129, 1, 2), (1, 5, 3)])
def test_counts_add_up(features, outputs, groups):
    size = features * outputs * groups
    for sparsity in (0.0, 0.1, 0.37, 0.5, 0.999, 1.0):
        kept = np.asarray(kept_per_block(features, outputs, sparsity, block_size=16, groups=groups))
        assert kept.sum() == size - round(sparsity * size)
        block = min(16, features)
        sizes = [min(block, features - i) * outputs for i in range(0, features, block)]
        assert (kept >= 0).all()
        assert (kept <= np.array(sizes)[None]).all()
        assert np.abs(kept - (1 - sparsity) * np.array(sizes)[None]).max() <= 1 + 1e-6
    traced = jax.jit(lambda s: kept_per_block(features, outputs, s, block_size=16, groups=groups))(jnp.float32(0.5))
    np.testing.assert_array_equal(traced, kept_per_block(features, outputs, 0.5, block_size=16, groups=groups))


def test_lowers_for_every_platform():
    run = jax.jit(lambda w, s: obs_sweep(w, s, n_of_group(2), group=4))
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((8, 3), (8, 8))]
    assert jax.export.export(run, platforms=("cpu", "cuda", "tpu"))(*shapes).platforms == ("cpu", "cuda", "tpu")


def test_any_order_of_features_is_the_sweep_of_the_permuted_problem():
    w, s = problem(8)
    order = np.random.default_rng(0).permutation(F)
    grid = lambda values, index: jnp.round(values * 2 + 0.1 * jnp.float32(index)) / 2  # noqa: E731
    permuted = lambda values, index: grid(values, jnp.asarray(order)[index])  # noqa: E731
    got = obs_sweep(jnp.float32(w), jnp.float32(s), rounding=grid, order=jnp.asarray(order), block_size=4)
    want = obs_sweep(jnp.float32(w[order]), jnp.float32(s[np.ix_(order, order)]), rounding=permuted, block_size=4)
    np.testing.assert_array_equal(np.asarray(got.values)[order], want.values)


def test_groups_share_what_is_fitted_as_the_sweep_enters_them():
    w, s = problem(9)
    seen = lambda values, index: {"largest": jnp.abs(values).max(0), "index": index}  # noqa: E731
    rounding = lambda values, index, found: jnp.round(values / found["largest"]) * found["largest"]  # noqa: E731
    got = obs_sweep(jnp.float32(w), jnp.float32(s), group=2, fit=seen, rounding=rounding, block_size=4)
    np.testing.assert_array_equal(got.fitted["index"], np.arange(F // 2))
    np.testing.assert_allclose(got.fitted["largest"][0], np.abs(w[:2]).max(0), rtol=1e-6)
    assert (np.abs(got.fitted["largest"][1:] - np.abs(w.reshape(-1, 2, R)).max(1)[1:]) > 1e-3).any()
    units = np.asarray(got.values) / np.repeat(got.fitted["largest"], 2, 0)
    np.testing.assert_allclose(units, np.round(units), atol=1e-5)


def test_damping_is_raised_until_the_factor_is_finite():
    s = jnp.ones((3, 3)) - 0.05 * jnp.eye(3)  # eigenvalues -.05, -.05, 2.95 over a mean diagonal of .95
    assert not np.isfinite(np.asarray(factor_with_retries(s, 0.001, 1))).all()
    found = factor_with_retries(s, 0.001, 3)
    np.testing.assert_array_equal(found, inverse_factor(s, 0.1))
    both = jax.vmap(lambda s: factor_with_retries(s, 0.001, 3))(jnp.stack([s, jnp.eye(3)]))
    np.testing.assert_allclose(both[0], found, rtol=1e-5)
    np.testing.assert_allclose(both[1], inverse_factor(jnp.eye(3), 0.001), rtol=1e-6)
