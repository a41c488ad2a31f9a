import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.cluster import kmeans
from jaxcompress.core.lift import lift
from jaxcompress.core.observe import observe
from jaxcompress.core.sequential import sequential
from jaxcompress.core.sites import sites
from jaxcompress.core.tree import stored_bytes
from jaxcompress.factorize import lora, svd
from jaxcompress.prune import magnitude
from jaxcompress.quantize import (
    QAT,
    Diagonal,
    activations,
    adaround,
    awq,
    bias_correction,
    binary,
    convert,
    coverage,
    equalize,
    fisher,
    gptq,
    hessian_trace,
    integer_only,
    prepare,
    rtn,
    sensitivity,
    smooth,
    ternary,
    with_form,
)
from jaxcompress.quantize.rescaled import Rescaled
from jaxcompress.quantize.smoothquant import smoothquant
from tests.zoo import ZOO
from tests.zoo.model import arrays, data

KEY = jax.random.key(0)


def fn(params, x):
    x = jnp.tanh(x @ params["a"] + params["bias"][None]) * params["gain"][None]
    return x @ params["b"]


def network():
    return arrays(a=(16, 12), b=(12, 8), bias=(12,), gain=(12,), idle=(3, 3)) | {"steps": jnp.asarray(7, jnp.int32)}


def found_sites():
    return sites(fn, network(), data(4, 16))


def weight():
    return arrays(a=(16, 12))


def stacked():
    """Three layers, with the sites of a scan."""
    params = arrays(w=(3, 12, 12))
    run = lambda p, x: jax.lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, p["w"])[0]  # noqa: E731
    return params, sites(run, params, data(4, 12))


def in_a_stack(**options):
    params, found = stacked()
    return coverage(rtn(params, sites=found, **options), sites=found)[0]


# What is done to a kernel of 16 x 12 -> (state, format, bits, granularity, activations, notes).
LEAVES = {
    "int8": (lambda: rtn(weight(), bits=8), ("quantized", "int", 8, "channel", "float", ())),
    "int3 groups": (
        lambda: rtn(weight(), bits=3, group_size=4),
        ("quantized", "int", 3, "group of 4", "float", ()),
    ),
    "int4 tensor": (
        lambda: rtn(weight(), bits=4, granularity="tensor"),
        ("quantized", "int", 4, "tensor", "float", ()),
    ),
    "zero points": (
        lambda: rtn(weight(), bits=8, symmetric=False),
        ("quantized", "int, zero points", 8, "channel", "float", ()),
    ),
    "nf4": (lambda: rtn(weight(), format="nf4"), ("quantized", "nf4", 4, "channel", "float", ())),
    "fp8": (lambda: rtn(weight(), format="fp8_e5m2"), ("quantized", "fp8_e5m2", 8, "channel", "float", ())),
    "mxfp4": (
        lambda: rtn(weight(), format="mxfp4", group_size=8),
        ("quantized", "mxfp4", 4, "group of 8", "float", ()),
    ),
    "binary": (lambda: binary(weight()), ("quantized", "int", 1, "channel", "float", ())),
    "ternary": (lambda: ternary(weight()), ("quantized", "int", 2, "channel", "float", ())),
    "codebook": (lambda: kmeans(weight(), bits=3), ("quantized", "codebook", 3, "tensor", "float", ())),
    "masked": (
        lambda: rtn(magnitude(weight(), sparsity=0.25), bits=8),
        ("quantized", "int", 8, "channel", "float", ("masked, 75% kept",)),
    ),
    "dynamic": (
        lambda: activations(rtn(weight(), bits=4), bits=8),
        ("quantized", "int", 4, "channel", "dynamic int8", ()),
    ),
    "static": (
        lambda: activations(
            rtn(weight(), bits=8), observe(lambda p, x: x @ p["a"], weight(), [data(4, 16)], what="absmax"), bits=6
        ),
        ("quantized", "int", 8, "channel", "static int6", ()),
    ),
    "rescaled": (
        lambda: {"a": Rescaled.create(rtn(weight(), bits=8)["a"], jnp.ones((16, 1)))},
        ("quantized", "int", 8, "channel", "float", ("rescaled",)),
    ),
    "factors": (
        lambda: rtn(svd(weight(), rank=2), bits=8),
        ("quantized", "int", 8, "channel", "float", ("lowrank",)),
    ),
    "one factor": (
        lambda: {"a": (leaf := svd(weight(), rank=2)["a"]).replace(u=rtn({"u": leaf.u}, bits=8)["u"])},
        ("partly", "int", 8, "channel", "float", ("lowrank",)),
    ),
    "float factors": (lambda: svd(weight(), rank=2), ("compressed", "-", 0, "-", "float", ("lowrank",))),
    "pruned only": (
        lambda: magnitude(weight(), sparsity=0.5),
        ("compressed", "-", 0, "-", "float", ("masked, 50% kept",)),
    ),
    "qlora": (
        lambda: lora(rtn(weight(), format="nf4"), rank=1, key=KEY),
        ("quantized", "nf4", 4, "channel", "float", ("a low-rank delta in floats on top",)),
    ),
    "qlora over int8 data": (
        lambda: activations(lora(rtn(weight(), bits=8), rank=1, key=KEY)),
        ("quantized", "int", 8, "channel", "dynamic int8", ("a low-rank delta in floats on top",)),
    ),
    "in training": (
        lambda: prepare(weight(), QAT(bits=4, method="lsq")),
        ("in training", "int", 4, "channel", "float", ()),
    ),
    "converted": (
        lambda: convert(prepare(weight(), QAT(bits=4, method="lsq"))),
        ("quantized", "int", 4, "channel", "float", ()),
    ),
}


@pytest.mark.parametrize("case", LEAVES)
def test_what_was_done_is_what_is_said(case):
    make, expected = LEAVES[case]
    params = make()
    found = coverage(params)
    leaf = found.at("a")
    assert (leaf.state, leaf.format, leaf.bits, leaf.granularity, leaf.activations, leaf.notes) == expected
    assert leaf.shape == (16, 12)
    assert found.stored_bytes == stored_bytes(params)
    assert (leaf.why == "") == (leaf.state == "quantized")
    assert (found.fraction == 1) == (leaf.state == "quantized")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"bits": 8}, "channel"),
        ({"bits": 8, "granularity": "tensor"}, "tensor"),
        ({"bits": 4, "group_size": 6}, "group of 6"),
    ],
    ids=["channel", "tensor", "group"],
)
def test_layers_of_a_stack_do_not_count_as_channels(options, expected):
    assert in_a_stack(**options).granularity == expected


def test_every_float_leaf_is_there_and_what_is_skipped_says_why():
    params, found = network(), found_sites()
    table = coverage(rtn(params, bits=8, where="a", sites=found), sites=found)
    assert [leaf.path for leaf in table] == ["a", "b", "bias", "gain", "idle"]
    why = {leaf.path: leaf.why for leaf in table}
    assert why["a"] == ""
    assert why["b"] == "a weight that no method chose"
    assert "met by" in why["bias"]
    assert "add" in why["bias"]
    assert "mul" in why["gain"]
    assert why["idle"] == "never used"
    assert [leaf.path for leaf in table.uncovered] == ["b"]
    assert table.fraction == 192 / (192 + 96)
    # 8 bits a code and a scale in float32 for each of the 12 channels; the other weight in float32.
    assert table.average_bits == pytest.approx((8 * 192 + 12 * 32 + 32 * 96) / 288)
    with pytest.raises(ValueError, match="1 weights are not quantized:\n  b: a weight that no method chose"):
        table.require()
    coverage(rtn(params, bits=8, sites=found), sites=found).require()
    assert {leaf.path: leaf.why for leaf in coverage(params)}["bias"] == "less than two axes"


def test_it_prints_and_is_read_by_machines():
    found = found_sites()
    table = coverage(rtn(network(), bits=8, where="a", sites=found), sites=found)
    text = repr(table)
    assert "1 of 2 weights quantized (66.7% of their entries)" in text
    assert "a weight that no method chose" in text
    assert "<td>channel</td>" in table._repr_html_()
    records = json.loads(json.dumps([dataclasses.asdict(leaf) for leaf in table]))
    assert records[0]["format"] == "int"
    with pytest.raises(KeyError, match="steps"):
        table.at("steps")
    with pytest.raises(ValueError, match="another tree"):
        coverage({"w": jnp.ones((2, 2))}, sites=found)


@pytest.mark.parametrize("name", ["attention_self", "conv_depthwise", "transform_nn_scan", "linen_embed_attend"])
def test_models_are_covered_whole(name):
    """Every weight that the sites show is quantized, and nothing else."""
    model = ZOO[name].model
    found = sites(model.fn, model.params, *model.inputs, **model.kwargs)
    table = coverage(rtn(model.params, bits=8, sites=found), sites=found)
    table.require()
    assert {leaf.path for leaf in table if leaf.state == "quantized"} == set(model.weights)


def statistics():
    return observe(lambda p, x: x @ p["a"], weight(), [data(32, 16)], what=("second_moment", "mean_abs", "absmax"))


def product(params, x):
    return x @ params["a"]


def mean_loss(params, x):
    return jnp.mean(x @ params["a"])


# Every method, with a rule that fits nothing.
METHODS = {
    "rtn": lambda p, **rule: rtn(p, bits=8, **rule),
    "binary": binary,
    "ternary": ternary,
    "gptq": lambda p, **rule: gptq(p, statistics(), bits=4, **rule),
    "awq": lambda p, **rule: awq(p, statistics(), bits=4, **rule),
    "smoothquant": lambda p, **rule: smoothquant(p, statistics(), **rule),
    "smooth": lambda p, **rule: smooth(p, statistics(), **rule),
    "adaround": lambda p, **rule: adaround(p, statistics(), bits=4, **rule),
    "bias_correction": lambda p, **rule: bias_correction(p, rtn(p, bits=4), statistics(), **rule),
    "equalize": lambda p, **rule: equalize(product, p, data(4, 16), **rule),
    "with_form": lambda p, **rule: with_form(rtn(p, bits=8), "materialize", **rule),
    "convert": lambda p, **rule: convert(prepare(p, QAT(bits=4, method="lsq")), **rule),
    "prepare": lambda p, **rule: prepare(p, QAT(bits=4, method="lsq"), **rule),
    "activations": lambda p, **rule: activations(rtn(p, bits=8), **rule),
    "fisher": lambda p, **rule: fisher(mean_loss, p, [data(4, 16)], **rule),
    "hessian_trace": lambda p, **rule: hessian_trace(mean_loss, p, [data(4, 16)], key=KEY, **rule),
    "sensitivity": lambda p, **rule: sensitivity(p, Diagonal({"a": jnp.ones((16, 12))}), **rule),
    "kmeans": lambda p, **rule: kmeans(p, bits=2, **rule),
    "lora": lambda p, **rule: lora(p, rank=1, key=KEY, **rule),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_rule_that_fits_nothing_is_an_error(name):
    with pytest.raises(ValueError, match="Dence_0"):
        METHODS[name](weight(), where="**/Dence_0/kernel")


@pytest.mark.parametrize("name", ["rtn", "gptq", "awq", "smoothquant"])
def test_a_width_for_nothing_is_an_error(name):
    method = {"rtn": rtn, **{n: functools.partial(m, stats=statistics()) for n, m in STATISTICAL.items()}}[name]
    with pytest.raises(ValueError, match="Dence_0"):
        method(weight(), bits={"a": 8, "**/Dence_0/kernel": 4})


STATISTICAL = {"gptq": gptq, "awq": awq, "smoothquant": smoothquant}


@pytest.mark.parametrize("name", STATISTICAL)
def test_calibration_that_never_ran_is_an_error(name):
    """No batches; batches that did not reach the weight; statistics of another model."""
    with pytest.raises(ValueError, match="no batch"):
        observe(mean_loss, weight(), [])
    elsewhere = observe(lambda p, x: x @ p["other"], {"other": jnp.ones((16, 4))}, [data(8, 16)])
    with pytest.raises(ValueError, match=r"'?a'?"):
        STATISTICAL[name](weight(), elsewhere, bits=4)
    with pytest.raises(ValueError, match="observ"):
        STATISTICAL[name](weight(), elsewhere, bits=4, where="a")


def test_a_site_that_was_not_calibrated_is_an_error():
    """Static ranges of one use do not serve another; without any there is no static quantization."""
    packed = rtn(weight(), bits=8)
    with pytest.raises(ValueError, match="needs calibrated ranges"):
        activations(packed, mode="static")
    stats = observe(lambda p, x: x @ p["a"], weight(), [data(4, 16)], what="absmax")
    static = activations(packed, stats)
    with pytest.raises(ValueError, match=r"site 1.*never calibrated"):
        lift(lambda p, x: x @ p["a"] + (2 * x) @ p["a"])(static, data(4, 16))


def test_data_that_are_no_numbers_are_named_with_their_site():
    """At calibration, for whatever method it is; with the path and the user's line."""
    bad = data(4, 16).at[2, 3].set(jnp.nan)

    def model(params, x):
        return jax.nn.relu(x @ params["a"]) @ params["b"]

    params = arrays(a=(16, 12), b=(12, 4))
    for what in ("second_moment", "absmax", "histogram", ("min", "max")):
        with pytest.raises(ValueError, match=r"not finite met 'a'.*test_coverage\.py:\d+.* in batch 1"):
            observe(model, params, [data(4, 16), bad], what=what)
    with pytest.raises(ValueError, match=r"not finite met 'a'.* in batch 1"):
        sequential(model, params, [data(4, 16), bad], lambda p, stats: gptq(p, stats, bits=4))
    with pytest.raises(ValueError, match=r"not finite at the site .* in batch 1"):
        integer_only(model, params, [data(4, 16), bad])
    overflowing = params | {"a": params["a"].at[0, 0].set(jnp.inf)}
    with pytest.raises(ValueError, match="not finite met 'b'"):
        observe(model, overflowing, [jnp.zeros((4, 16))])


def test_coverage_of_nothing():
    assert coverage({"steps": jnp.asarray(3)}).fraction == 1.0
    leaf = coverage({"z": jnp.ones((2, 2), jnp.complex64), "w": np.ones((2, 2), np.float32)}).at("z")
    assert "complex" in leaf.why
