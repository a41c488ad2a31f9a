"""What `prepare` makes, `convert` keeps: values bit for bit, layer by layer, under masks and under activations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.quantize import QAT, Activations, AffineQuantized, Quantized, Tabled, convert, prepare
from jaxcompress.quantize.quantized_input import DynamicActivations, StaticActivations
from jaxcompress.quantize.training.fake_input import LearnedInput

RNG = np.random.RandomState(0)
X = jnp.asarray(RNG.standard_normal((5, 8)), jnp.float32)
MASK = jnp.asarray(RNG.rand(8, 8) < 0.5)


def draw(*shape, dtype=jnp.float32):
    return jnp.asarray(RNG.standard_normal(shape), dtype)


def model(params, x):
    """A dense layer, three in a scan, and a pruned one."""
    x = jax.nn.relu(x @ params["dense"])
    x = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params["stack"])[0]
    return x @ params["pruned"]


PARAMS = {"dense": draw(8, 8), "stack": 0.5 * draw(3, 8, 8), "pruned": jc.prune.Masked.create(draw(8, 8), MASK)}
SITES = jc.sites(model, PARAMS, X)
STATS = jc.observe(model, PARAMS, [X], what="histogram")

SPECS = {
    "ste": QAT(3, "ste"),
    "ste asymmetric": QAT(4, "ste", symmetric=False),
    "ste groups": QAT(5, "ste", group_size=4),
    "ste nf4": QAT(method="ste", format="nf4"),
    "lsq": QAT(2, "lsq"),
    "lsq+ offset": QAT(4, "lsq+", symmetric=False),
    "dorefa": QAT(2, "dorefa"),
    **{name: QAT(method=name) for name in ("xnor", "twn")},
    "annealed": QAT(4, "annealed"),
    "on grid": QAT(3, "on_grid"),
}
MORE = {
    **{f"{method} {bits}": QAT(bits, method) for method in ("ste", "lsq", "dorefa", "on_grid") for bits in range(2, 9)},
    **{f"lsq+ {bits}": QAT(bits, "lsq+", symmetric=False) for bits in range(2, 9)},
    **{f"ste {name}": QAT(method="ste", format=name) for name in ("fp8_e4m3", "fp8_e5m2", "fp4")},
    **{f"ste {ranges}": QAT(4, "ste", ranges=ranges) for ranges in ("mse", "minmax", "entropy")},
    "ste 1": QAT(1, "ste"),
    "ste clipped": QAT(3, "ste", ranges="percentile"),
    "lsq tensor": QAT(7, "lsq", granularity="tensor"),
    "dorefa rescaled": QAT(4, "dorefa", rescaled=True),
    **{name: QAT(method=name) for name in ("binary_connect", "bitnet")},
}
CASES = [*SPECS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)]


def assert_same_values(prepared, packed):
    for ours, theirs in zip(*(jax.tree.leaves(jc.materialize(tree)) for tree in (prepared, packed)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", CASES)
def test_values_are_kept_bit_for_bit(name):
    spec = (SPECS | MORE)[name]
    prepared = prepare(PARAMS, spec, sites=SITES)
    assert all(jnp.issubdtype(leaf.dtype, jnp.floating) or leaf is MASK for leaf in jax.tree.leaves(prepared))
    packed = convert(prepared)
    assert_same_values(prepared, packed)
    compiled = jax.jit(jc.materialize)(prepared)  # another program, the same roundings
    assert_same_values(compiled, packed)
    assert (packed["pruned"].materialize()[~MASK] == 0).all()
    levels = [len(np.unique(packed["stack"].materialize()[layer])) for layer in range(3)]
    assert min(levels) > 1
    if spec.method != "dorefa":  # whose table of up to 256 levels is more than 64 weights
        assert jc.stored_bytes(packed) < 0.6 * jc.stored_bytes(PARAMS)


def test_leaves_are_those_of_post_training_quantization():
    kinds = {
        "lsq": (Quantized, 2),
        "lsq+ offset": (AffineQuantized, 4),
        "dorefa": (Tabled, 2),
        "xnor": (Quantized, 1),
        "twn": (Quantized, 2),
    }
    for name, (kind, bits) in kinds.items():
        leaf = convert(prepare(PARAMS, SPECS[name], sites=SITES))["dense"]
        assert type(leaf) is kind
        codes = leaf.codes if kind is Tabled else leaf.qvalue
        assert (codes.stored_bits if jc.is_compressed(codes) else bits * 64) == bits * 64


def test_low_rank_factors_are_prepared_both():
    params = jc.factorize.svd({"w": draw(8, 8)}, rank=2)
    prepared = prepare(params, QAT(4))
    assert {type(field).__name__ for field in prepared["w"].components().values()} == {"LearnedStep"}
    assert_same_values(prepared, convert(prepared))


@pytest.mark.parametrize("method", ["lsq+", "pact", "dynamic"])
def test_outputs_are_kept(method):
    """Exactly where weights are dense and data is rounded; up to rounding where integers are multiplied."""
    spec = QAT(4, "lsq", activations=Activations(8, method))
    prepared = prepare(PARAMS, spec, sites=SITES, stats=STATS)
    packed = convert(prepared)
    kind = DynamicActivations if method == "dynamic" else StaticActivations
    assert all(type(leaf) is kind for leaf in jax.tree.leaves(packed, is_leaf=jc.is_compressed))
    run = jax.jit(jc.lift(model))
    reference = run(prepared, X)
    fake = {name: leaf.replace(weight=leaf.weight.materialize(), form="fake") for name, leaf in packed.items()}
    np.testing.assert_array_equal(run(fake, X), reference)
    np.testing.assert_allclose(run(packed, X), reference, atol=0.02 * float(jnp.abs(reference).max()))
    assert float(jnp.abs(reference - model(jc.materialize(prepared), X)).max()) > 0  # the data was rounded
    assert_same_values(prepared, packed)


def test_scanned_layers_have_ranges_of_their_own():
    prepared = prepare(PARAMS, QAT(4, activations=Activations(4, "lsq")), sites=SITES, stats=STATS)["stack"]
    assert prepared.scale.shape == (3, 1)
    assert len(set(np.asarray(prepared.scale).ravel().tolist())) == 3
    assert prepared.signed  # behind a tanh
    assert prepared.weight.scale.shape == (3, 1, 8)
    packed = convert({"stack": prepared})["stack"]
    assert packed.scale.shape == packed.zero_point.shape == (3, 1)
    for layer, whole in zip(prepared.unstack(), prepared.materialize(), strict=True):
        np.testing.assert_array_equal(layer.materialize(), whole)


def test_tied_weights_have_a_range_for_every_use():
    params = {"w": draw(8, 6), "table": draw(5, 8)}

    def tied(params, x):
        hidden = 10 * jax.nn.relu(x @ params["w"])
        row = params["table"][jnp.array([0, 1])] @ params["w"]
        return (hidden @ params["w"].T) @ params["table"].T + row.sum()

    spec = QAT(8, "ste", activations=Activations(8, "fixed"))
    stats = jc.observe(tied, params, [X], what="histogram")
    prepared = prepare(params, spec, sites=jc.sites(tied, params, X), stats=stats)
    assert prepared["w"].scale.shape == (3,)
    assert prepared["table"].sites == (1,)  # the lookup meets no data
    assert len(set(np.asarray(prepared["w"].scale).tolist())) == 3
    out = jc.lift(tied)(prepared, X)
    np.testing.assert_allclose(out, tied(params, X), atol=0.05 * float(jnp.abs(out).max()))
    np.testing.assert_allclose(jc.lift(tied)(convert(prepared), X), out, atol=0.02 * float(jnp.abs(out).max()))
    with pytest.raises(ValueError, match="meets data at its site 0, where it holds no range"):
        prepared["table"].at_site(0)


def test_what_cannot_be_converted():
    prepared = prepare({"w": draw(8, 8)}, QAT(4))
    with pytest.raises(ValueError, match="convert: the values of 'w' hold NaN"):
        convert({"w": prepared["w"].replace(values=prepared["w"].values.at[0, 0].set(jnp.nan))})
    with pytest.raises(ValueError, match="a scale of 'w' is zero: it was never set"):
        convert({"w": LearnedInput(draw(8, 8), jnp.zeros(1), jnp.zeros(1), 4, False, "step", (0,))})
    with pytest.raises(ValueError, match="matches no leaf"):
        convert({"w": draw(8, 8)})
    with pytest.raises(ValueError, match="'b' is not prepared"):
        convert(prepared | {"b": draw(8, 8)}, where=["w", "b"])
    wide = prepare({"w": draw(8, 8)}, QAT(12, "annealed"))
    with pytest.raises(ValueError, match="the annealing has come to 12 bits"):
        convert(wide)
    assert convert({"w": wide["w"].replace(bits=jnp.full((1, 1), 2.5))})["w"].qvalue.bits == 3


def test_a_range_that_was_never_set_does_not_pass_for_one():
    leaf = LearnedInput(draw(8, 8), jnp.zeros(1), jnp.zeros(1), 4, False, "step", (0,))
    assert jnp.isnan(jc.lift(lambda w, x: x @ w)(leaf, X)).all()


def test_convert_under_jit():
    prepared = prepare({"w": draw(8, 8)}, QAT(4))
    packed = jax.jit(convert)(prepared)
    np.testing.assert_array_equal(packed["w"].materialize(), prepared["w"].materialize())
