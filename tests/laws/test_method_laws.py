"""Every public tree method obeys the laws of methods."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.core.leaf import is_compressed
from jaxcompress.core.paths import flatten_with_paths
from jaxcompress.core.sites import sites
from jaxcompress.core.tree import materialize
from tests.laws.leaf_battery import assert_same_bits
from tests.laws.methods import METHODS
from tests.zoo import ZOO
from tests.zoo.model import arrays

every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def network():
    """Two kernels, of one shape so that they compile once, and a bias."""
    return {"first": arrays(w=(12, 12), b=(12,)), "second": arrays(seed=1, w=(12, 12))}


def changed(before, after):
    """Paths of the leaves that are compressed now."""
    paths, leaves, _ = flatten_with_paths(after)
    assert flatten_with_paths(before)[0] == paths
    return {path for path, leaf in zip(paths, leaves, strict=True) if is_compressed(leaf)}


@every_method
def test_input_is_untouched_and_structure_kept(method):
    params = network()
    before = jax.tree.map(np.array, params)
    out = method.fn(params, **method.settings)
    assert_same_bits(jax.tree.map(np.asarray, params), before)
    assert changed(params, out) == {"first/w", "second/w"}
    assert out["first"]["b"] is params["first"]["b"]
    dense = materialize(out)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), dense) == jax.tree.map(lambda a: (a.shape, a.dtype), params)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(dense))
    # One rounding: the fused program may contract a product and a sum.
    for a, b in zip(jax.tree.leaves(jax.jit(materialize)(out)), jax.tree.leaves(dense), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


@every_method
def test_second_call_gives_the_same_and_compiles_nothing(method, compilations):
    first = method.fn(network(), **method.settings)
    before = compilations()
    second = method.fn(network(), **method.settings)
    assert compilations() == before
    assert_same_bits(second, first)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.traced])
def test_jit_is_eager(name):
    method = METHODS[name]
    params = network()
    eager = method.fn(params, **method.settings)
    jitted = jax.jit(lambda params: method.fn(params, **method.settings))(params)
    for a, b in zip(jax.tree.leaves(materialize(jitted)), jax.tree.leaves(materialize(eager)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.null is not None])
def test_null_setting_is_the_identity(name):
    method = METHODS[name]
    params = network()
    assert_same_bits(materialize(method.fn(params, **method.null)), params)


@every_method
def test_where_chooses(method):
    params = network()
    assert changed(params, method.fn(params, **method.settings, where="second/*")) == {"second/w"}
    assert changed(params, method.fn(params, **method.settings, where=["**/w", "!first/**"])) == {"second/w"}
    with pytest.raises(ValueError, match="first/w") as caught:
        method.fn(params, **method.settings, where="third/**")
    assert "second/w" in str(caught.value)


@every_method
def test_settings_out_of_range_are_named(method):
    for name, settings in method.rejects.items():
        with pytest.raises(ValueError, match=name):
            method.fn(network(), **settings)


@every_method
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_an_error(method, bad):
    params = network()
    params["second"]["w"] = params["second"]["w"].at[3, 2].set(bad)
    with pytest.raises(ValueError, match="second/w"):
        method.fn(params, **method.settings)


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("kmeans", "transform_nn_scan"),
        *itertools.product(
            ["magnitude", "rtn_int4_groups", "svd", "tt"],
            ["transform_nn_scan", "conv_same", "attention_self", "plain_transposed"],
        ),
    ],
)
def test_sites_choose_the_weights(name, of):
    """Kernels of any rank, stacked or not: what `sites` calls a weight is compressed, and nothing else."""
    method, model = METHODS[name], ZOO[of].model
    found = sites(model.fn, model.params, *model.inputs, **model.kwargs)
    out = method.fn(model.params, **method.settings, sites=found)
    assert changed(model.params, out) == set(model.weights)
    dense = materialize(out)
    assert jax.tree.map(jnp.shape, dense) == jax.tree.map(jnp.shape, model.params)


@every_method
def test_stage_is_the_method(method):
    """The recipe stage has the method's fields, survives JSON, and does the same."""
    stage = method.stage(**method.settings)
    fields = {field.name: getattr(stage, field.name) for field in dataclasses.fields(stage)}
    again = method.stage(**json.loads(json.dumps(fields)))
    assert again == stage
    assert isinstance(method.stage.version, int)
    params = network()
    assert_same_bits(again(params), method.fn(params, **method.settings))


def test_the_counter_counts(compilations):
    """Without this, "compiles nothing" might only mean that JAX renamed its event."""
    x = jnp.ones(3)
    before = compilations()
    jax.jit(lambda x: x + 1)(x)
    assert compilations() == before + 1
