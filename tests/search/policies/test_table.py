"""The variant table: its variants are what the methods make, its sizes what is stored, its program picks them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.core.paths import flatten_with_paths
from jaxcompress.search.policies import Channels, Evaluation, Setting, compressed, settings, sweep, variant_table
from jaxcompress.search.policies.sizes import file_bytes, stored_bits
from tests.search.policies import small

KINDS = (*settings(bits=(2, 8), sparsity=(0.0, 0.5)), Setting(rank=0.5), Setting(levels=4, sparsity=0.5))
X, Y = small.data()


@pytest.fixture(scope="module")
def params():
    return small.params()


@pytest.fixture(scope="module")
def table(params):
    return variant_table(small.fn, params, {"**/kernel": KINDS}, inputs=(X,))


def test_variants_are_what_the_methods_make(table, params):
    sites = jc.sites(small.fn, params, X)
    sparse = jc.prune.magnitude(params, sparsity=0.5, where="b/kernel", sites=sites)
    wanted = {
        "8 bits": jc.quantize.rtn(params, bits=8, ranges="mse", where="b/kernel", sites=sites),
        "50 % sparse, 2 bits": jc.quantize.rtn(sparse, bits=2, ranges="mse", where="b/kernel", sites=sites),
        "rank 0.5": jc.factorize.svd(params, rank=4, where="b/kernel", sites=sites),  # 7 of 16 x 16 still save
        "50 % sparse, 4 levels": jc.cluster.kmeans(sparse, levels=4, where="b/kernel", sites=sites),
    }
    own = table.variants[1]
    assert table.leaves[1].path == "b/kernel"
    assert table.leaves[1].ranks == (0, 0, 0, 0, 0, 4, 0)
    for name, tree in wanted.items():
        variant = own[[str(one) for one in table.leaves[1].settings].index(name)]
        assert jax.tree.structure(variant) == jax.tree.structure(tree["b"]["kernel"])
        np.testing.assert_array_equal(jc.materialize(variant), jc.materialize(tree["b"]["kernel"]))


def test_pruned_entries_stay_zero_and_codes_on_their_grid(table):
    leaf = table.variants[0][[str(one) for one in table.leaves[0].settings].index("50 % sparse, 2 bits")]
    dense = np.asarray(leaf.materialize())
    assert (dense[~np.asarray(leaf.mask)] == 0).all()
    assert np.count_nonzero(leaf.mask) == dense.size // 2
    assert set(np.unique(np.round(dense / np.asarray(leaf.values.scale)))) <= {-1.0, 0.0, 1.0}


def test_sizes_are_those_of_the_compressed_tree(table):
    rows = np.array([[1, 2, 3], [4, 5, 6], [0, 6, 2], [2, 2, 2]])
    costs = table.costs.of(rows)
    for i, row in enumerate(rows):
        tree = table.tree(row)
        assert costs["stored_bits"][i] == sum(map(stored_bits, flatten_with_paths(tree)[1]))
        assert costs["bytes"][i] == pytest.approx(file_bytes(tree, "zstd"), rel=0.1)  # streams are shared in a file
    assert costs["flops"][0] == 2 * len(X) * (12 * 16 + 16 * 16 + 16 * 12)
    assert costs["flops"][1] == 2 * len(X) * (12 * 16 + 4 * (16 + 16) + 16 * 12)


@pytest.mark.parametrize("storage", ["dense", "compressed"])
def test_the_program_picks_what_the_tree_holds(params, storage):
    own = variant_table(small.fn, params, {"**/kernel": KINDS}, inputs=(X,), storage=storage)
    rows = np.array([[1, 2, 3], [4, 5, 6], [0, 0, 0]])
    found = Evaluation(own, small.evaluate, data=(X, Y))(rows)
    for i, row in enumerate(rows):
        loss = small.evaluate(jc.lift(small.fn), jc.materialize(own.tree(row)), (X, Y))["loss"]
        np.testing.assert_allclose(found["loss"][i], loss, rtol=1e-4, atol=1e-12)
    assert found["loss"][2] == 0


def test_uniform_rows_have_one_setting_everywhere(table):
    rows = table.uniform_rows()
    assert rows.tolist() == [[i] * 3 for i in range(1, 7)]


def test_a_setting_that_comes_to_nothing_is_the_leaf_as_it_is(params):
    tiny = {**params, "d": {"kernel": jnp.ones((1, 12))}}  # one row has no rank that saves anything
    table = variant_table(
        small.fn, tiny, {"d/*": [Setting(rank=0.5)], "**/kernel": [Setting(rank=0.5), Setting(rank=4)]}
    )
    assert [d.settings for d in table.leaves if d.path == "d/kernel"] == [(Setting(),)]
    assert [d.allowed for d in table.leaves if d.path == "b/kernel"] == [(1,)]  # two names of one rank
    assert table.settings(np.zeros(4, int)) == {}


def test_fitted_variants_lose_less_on_the_data(params):
    scaled = X * jnp.linspace(0.05, 3.0, 12)[None]
    stats = jc.observe(small.fn, params, [scaled])
    lost = []
    for own in (None, stats):
        table = variant_table(small.fn, params, {"a/kernel": [Setting(bits=2)]}, inputs=(X,), stats=own)
        error = jc.factorize.output_error(small.fn, params, [scaled])
        lost.append(sweep(Evaluation(table, error)).values[0][1])
    assert lost[1] < lost[0]


def test_what_does_not_fit_is_named(params):
    with pytest.raises(ValueError, match="fits none of the chosen leaves"):
        variant_table(small.fn, params, {"nowhere/*": [Setting(bits=4)]})
    with pytest.raises(ValueError, match="takes the groups of the function: pass inputs="):
        variant_table(small.fn, params, {"**": [Channels(0.5)]})
    with pytest.raises(TypeError, match="mixes settings of weights and of channels"):
        variant_table(small.fn, params, {"**": [Channels(0.5), Setting(bits=4)]}, inputs=(X,))
    with pytest.raises(ValueError, match="choices= is empty"):
        variant_table(small.fn, params, {})
    broken = {**params, "a": {**params["a"], "kernel": params["a"]["kernel"].at[0, 0].set(jnp.nan)}}
    with pytest.raises(ValueError, match="'a/kernel' holds NaN"):
        variant_table(small.fn, broken, {"**/kernel": [Setting(bits=4)]})


def test_inputs_are_not_changed(params):
    before = jax.tree.map(np.array, params)
    compressed(params, {"a/kernel": Setting(bits=2, sparsity=0.5)})
    jax.tree.map(np.testing.assert_array_equal, before, params)
