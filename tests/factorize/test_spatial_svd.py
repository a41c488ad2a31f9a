import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxcompress as jc
from jaxcompress.factorize import Separable, SpatialSVD, separable_filters, spatial_svd
from jaxcompress.prune import Masked
from tests.laws.pairs import assert_close, call, tolerance
from tests.zoo import ENTRIES, ZOO

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def best(w, rank):
    """Of a matrix, from NumPy in float64."""
    u, s, vt = np.linalg.svd(np.asarray(w, np.float64), full_matrices=False)
    return (u[..., :rank] * s[..., None, :rank]) @ vt[..., :rank, :]


def model(params, x):
    x = lax.conv_general_dilated(x, params["nchw"], (1, 1), "SAME", dimension_numbers=("NHWC", "OIHW", "NHWC"))
    numbers = ("NHWC", "HWIO", "NHWC")
    step = lambda x, w: (jnp.tanh(lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers)), None)  # noqa: E731
    x = lax.scan(step, x, params["stack"])[0]
    x = lax.conv_general_dilated(
        x[:, None], params["3d"], (1, 1, 1), "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )
    return x.mean((1, 2, 3)) @ params["head"]


def params_of_model():
    return {
        "nchw": normal(8, 6, 3, 5),
        "stack": normal(2, 3, 3, 8, 8),
        "3d": normal(2, 3, 3, 8, 4),
        "head": normal(4, 4),
    }


def test_kernels_of_all_layouts_are_split_at_their_best():
    params, x = params_of_model(), normal(2, 7, 6, 6)
    sites = jc.sites(model, params, x)
    small = spatial_svd(params, rank=3, sites=sites)
    assert small["head"] is params["head"]
    shapes = {name: (leaf.first.shape, leaf.second.shape) for name, leaf in small.items() if name != "head"}
    assert shapes == {
        "nchw": ((3, 6, 3, 1), (8, 3, 1, 5)),
        "stack": ((2, 3, 1, 8, 3), (2, 1, 3, 3, 8)),
        "3d": ((2, 1, 1, 8, 3), (1, 3, 3, 3, 4)),
    }
    w = np.asarray(params["nchw"]).transpose(2, 1, 3, 0)  # h, i, w, o
    expected = best(w.reshape(18, 40), 3).reshape(w.shape).transpose(3, 1, 0, 2)
    np.testing.assert_allclose(small["nchw"].materialize(), expected, atol=1e-4)
    w = np.asarray(params["stack"]).transpose(0, 1, 3, 2, 4)
    expected = best(w.reshape(2, 24, 24), 3).reshape(w.shape).transpose(0, 1, 3, 2, 4)
    np.testing.assert_allclose(small["stack"].materialize(), expected, atol=1e-4)
    w = np.asarray(params["3d"]).transpose(0, 3, 1, 2, 4)
    expected = best(w.reshape(16, 36), 3).reshape(w.shape).transpose(0, 2, 3, 1, 4)
    np.testing.assert_allclose(small["3d"].materialize(), expected, atol=1e-4)
    assert all(line.served for line in jc.explain(model, small, x) if line.kind == "separable")
    dense = model(jc.materialize(small), x)
    np.testing.assert_allclose(jc.lift(model)(small, x), dense, atol=1e-4 * float(jnp.abs(dense).max()))
    other = spatial_svd(params, rank=3, axis=(0, 2), where="3d", sites=sites)["3d"]
    assert (other.first_axes, other.second_axes, other.first.shape) == ((0, 2), (1,), (2, 1, 3, 8, 3))
    turned = spatial_svd(params, rank=3, axis=1, where="nchw", sites=sites)["nchw"]
    assert (turned.first.shape, turned.second.shape) == ((3, 6, 1, 5), (8, 3, 3, 1))


def test_filters_of_one_array_under_vmap():
    w = normal(2, 3, 5, 4, 6)
    first, second = jax.vmap(lambda w: separable_filters(w, rank=3))(w)
    assert (first.shape, second.shape) == ((2, 3, 1, 4, 3), (2, 1, 5, 3, 6))
    alone = separable_filters(w[1], rank=3)
    product = lambda first, second: jnp.einsum("hir,wro->hwio", first[:, 0], second[0])  # noqa: E731
    np.testing.assert_allclose(product(first[1], second[1]), product(*alone), atol=1e-4)


def fn(params, x):
    return lax.conv_general_dilated(x, params["w"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def test_energy_masks_and_the_stage(compilations):
    params, x = {"w": normal(3, 3, 6, 8)}, normal(2, 5, 5, 6)
    sites = jc.sites(fn, params, x)
    small = spatial_svd(params, rank=0.5, sites=sites)["w"]
    s = np.linalg.svd(np.asarray(params["w"], np.float64).transpose(0, 2, 1, 3).reshape(18, 24), compute_uv=False)
    assert small.rank == int(np.sum(np.cumsum(s**2) < 0.5 * np.sum(s**2))) + 1
    before = compilations()
    staged = SpatialSVD(rank=0.5)(params, sites=sites)["w"]
    assert compilations() == before
    np.testing.assert_array_equal(staged.first, small.first)
    mask = jnp.asarray(RNG.random(params["w"].shape) < 0.5)
    masked = spatial_svd({"w": Masked.create(params["w"], mask)}, rank=2, sites=sites)["w"]
    assert isinstance(masked.values, Separable)
    np.testing.assert_array_equal(np.asarray(masked.materialize())[~np.asarray(mask)], 0)
    traced = jax.jit(lambda p: spatial_svd(p, rank=2, sites=sites)["w"].materialize())(params)
    np.testing.assert_allclose(traced, spatial_svd(params, rank=2, sites=sites)["w"].materialize(), atol=1e-4)


def test_what_saves_nothing_or_is_no_such_kernel_is_named():
    params, x = {"w": normal(3, 3, 6, 8), "flat": normal(8, 8)}, normal(2, 5, 5, 6)
    both = lambda p, x: fn(p, x) @ p["flat"]  # noqa: E731
    sites = jc.sites(both, params, x)
    with pytest.raises(
        ValueError, match=r"rank 11 saves nothing in 'w': two factors of 18 x 24 break even at rank 10\.29"
    ):
        spatial_svd(params, rank=11, sites=sites)
    with pytest.raises(ValueError, match=r"'flat' \(shape \(8, 8\)\) is no kernel of a convolution along two axes"):
        spatial_svd(params, rank=1, where="flat", sites=sites)
    with pytest.raises(ValueError, match=r"axis must name some of the spatial axes of 'w', 0 to 1, .*got \(0, 1\)"):
        spatial_svd(params, rank=1, axis=(0, 1), sites=sites)
    with pytest.raises(ValueError, match="pass sites="):
        spatial_svd({"w": params["w"]}, rank=1)
    with pytest.raises(ValueError, match="there is nothing to split"):
        spatial_svd({"flat": params["flat"]}, rank=1, sites=sites)
    with pytest.raises(ValueError, match="'w' is compressed already"):
        spatial_svd(spatial_svd(params, rank=1, sites=sites), rank=1, sites=sites)
    with pytest.raises(ValueError, match="rank must be a positive integer"):
        spatial_svd(params, rank=0, sites=sites)


@pytest.mark.slow
@pytest.mark.parametrize("name", [entry.name for entry in ENTRIES if entry.name.startswith(("vision", "equinox_conv"))])
def test_networks_of_the_zoo(name):
    """Separable kernels inside whole networks: the law of lift, for models that the tables of laws do not give them."""
    entry = ZOO[name]
    model = entry.model
    with entry.context():
        sites = jc.sites(model.fn, model.params, *model.inputs, **model.kwargs)
        small = spatial_svd(model.params, rank=1, sites=sites)
        ours, theirs = call(model, jc.lift)(small, model.inputs), call(model)(jc.materialize(small), model.inputs)
        lines = jc.explain(model.fn, small, *model.inputs, **model.kwargs)
    assert_close(ours, theirs, tol=tolerance(jax.tree.leaves(model.params)), what=name)
    assert any(line.served and line.kind == "separable" for line in lines)
