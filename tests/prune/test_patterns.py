"""N:M and block patterns of whole trees, on every shape of kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.prune import allocation, magnitude
from jaxcompress.prune.blocked import block_mask, blocked
from jaxcompress.prune.nm_pattern import nm

RNG = np.random.default_rng(0)


def draw(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


PARAMS = {"conv": draw(8, 4, 3, 3), "layers": draw(2, 8, 8), "heads": draw(8, 2, 4), "out": draw(2, 4, 6)}


def fn(params, x):
    dimensions = ("NHWC", "OIHW", "NHWC")
    h = jax.lax.conv_general_dilated(x, params["conv"], (1, 1), "SAME", dimension_numbers=dimensions).mean((1, 2))
    h = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), h, params["layers"])[0]
    return jnp.einsum("bhd,hdo->bo", jnp.einsum("bi,ihd->bhd", h, params["heads"]), params["out"])


SITES = jc.sites(fn, PARAMS, jnp.ones((2, 5, 5, 4)))
FEATURES = {"conv": 1, "layers": 1, "heads": 0, "out": 1}


def groups(mask, axis, m):
    return np.moveaxis(np.asarray(mask), axis, -1).reshape(-1, m)


def test_nm_runs_along_the_input_features_of_every_kernel():
    for packed in (False, True):
        pruned = nm(PARAMS, n=1, m=4, sites=SITES, packed=packed)
        for path, axis in FEATURES.items():
            mask = np.asarray(pruned[path].support())
            assert (groups(mask, axis, 4).sum(1) == 1).all(), path
            best = groups(np.abs(PARAMS[path]), axis, 4).argmax(1)
            np.testing.assert_array_equal(groups(mask, axis, 4).argmax(1), best)
            np.testing.assert_array_equal(pruned[path].materialize(), np.where(mask, PARAMS[path], 0))
    x = draw(2, 5, 5, 4)
    np.testing.assert_allclose(jc.lift(fn)(pruned, x), fn(jc.materialize(pruned), x), rtol=1e-5, atol=1e-6)


def test_nm_takes_scores_and_what_is_pruned_stays():
    w = {"w": jnp.arange(1.0, 9.0).reshape(8, 1)}
    turned = nm(w, n=2, m=4, scores={"w": -w["w"]})
    assert turned["w"].mask[:, 0].tolist() == [True, True, False, False] * 2
    again = nm(magnitude(w, sparsity=0.75), n=1, m=2)
    assert again["w"].mask[:, 0].tolist() == [False] * 7 + [True]
    counts = jax.jit(lambda n: nm(w, n=n, m=4)["w"].mask.sum())
    assert [int(counts(n)) for n in (0, 1, 4)] == [0, 2, 8]


def test_blocks_are_counted_and_lie_along_the_features():
    sparsity, block = 0.6, {"conv": (2, 4), "layers": (4, 2), "heads": (4, 2), "out": (2, 3)}
    axes = {"conv": (1, 0), "layers": (1, 2), "heads": (0, 2), "out": (1, 2)}
    for path, (rows, columns) in block.items():
        mask = blocked(PARAMS, sparsity=sparsity, block=(rows, columns), where=path, sites=SITES)[path].mask
        moved = np.moveaxis(np.asarray(mask), axes[path], (-2, -1))
        tiles = moved.reshape(-1, moved.shape[-2] // rows, rows, moved.shape[-1] // columns, columns)
        assert (tiles.all((2, 4)) == tiles.any((2, 4))).all(), path
        layers = tiles.all((2, 4)).reshape(2 if path == "layers" else 1, -1)
        assert (layers.sum(1) == layers.shape[1] - round(sparsity * layers.shape[1])).all()


@pytest.mark.parametrize("reduce", ["sum", "max"])
def test_block_mask_is_that_of_numpy(reduce):
    scores = RNG.integers(0, 4, size=(6, 8)).astype(np.float32)  # many ties
    tiles = scores.reshape(3, 2, 2, 4)
    coarse = (tiles.sum((1, 3)) if reduce == "sum" else tiles.max((1, 3))).reshape(-1)
    keep = np.zeros(6, bool)
    keep[np.argsort(-coarse, kind="stable")[: 6 - round(0.7 * 6)]] = True
    expected = np.repeat(np.repeat(keep.reshape(3, 2), 2, 0), 4, 1)
    np.testing.assert_array_equal(block_mask(jnp.asarray(scores), block=(2, 4), sparsity=0.7, reduce=reduce), expected)
    traced = jax.jit(lambda s: block_mask(jnp.asarray(scores), block=(2, 4), sparsity=s, reduce=reduce))
    np.testing.assert_array_equal(traced(jnp.float32(0.7)), expected)


def test_what_is_pruned_counts_for_nothing_in_its_block():
    once = {"w": jc.prune.Masked.create(jnp.array([[9.0, 1.0], [2.0, 2.0]]), jnp.array([[False, True], [True, True]]))}
    again = blocked(once, sparsity=0.5, block=(1, 2))
    assert again["w"].mask.tolist() == [[False, False], [True, True]]


def test_an_allocation_says_how_many_blocks():
    params = {"a": draw(8, 8), "b": draw(8, 8) * 9}
    found = allocation.global_magnitude(params, sparsity=0.5)
    pruned = blocked(params, sparsity=found, block=(2, 2))
    for name in params:
        assert int(pruned[name].mask.sum()) == 64 - 4 * round(found[name] * 16)


def test_block_scores_keep_more_than_blocks_at_random():
    """Direction: the magnitude that survives is larger than under arbitrary blocks."""
    w = {"w": draw(32, 32)}
    kept = float(jnp.abs(blocked(w, sparsity=0.75, block=(4, 4))["w"].materialize()).sum())
    chance = blocked(w, sparsity=0.75, block=(4, 4), scores={"w": draw(32, 32) ** 2})
    assert kept > float(jnp.abs(chance["w"].materialize()).sum())


def test_errors_name_the_path_and_the_way_out():
    with pytest.raises(ValueError, match=r"nm: m=3 does not divide the 4 input features \(axis 1\) of 'conv'"):
        nm(PARAMS, n=1, m=3, sites=SITES)
    with pytest.raises(ValueError, match=r"axes of 'conv' .* pass sites="):
        nm(PARAMS, n=1, m=4)
    with pytest.raises(ValueError, match=r"block=\(3, 2\) does not divide the shape \(8, 8\) of 'w'"):
        blocked({"w": jnp.ones((8, 8))}, sparsity=0.5, block=(3, 2))
    with pytest.raises(ValueError, match=r"block must be \(input features, output features\), got"):
        blocked({"w": jnp.ones((8, 8))}, sparsity=0.5, block=(2, 2, 2))
    with pytest.raises(ValueError, match="scores hold NaN"):
        block_mask(jnp.full((2, 2), jnp.nan), block=(1, 2), sparsity=0.5)
    coded = jc.quantize.rtn({"w": draw(8, 8)}, bits=8)
    with pytest.raises(ValueError, match="'w' apart, which is a quantized leaf: prune and pack first"):
        nm(coded, n=2, m=4, packed=True)
    assert nm(coded, n=2, m=4)["w"].values.kind == "quantized"
