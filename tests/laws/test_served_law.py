"""Compressed leaves stay so: no model of the zoo makes a weight dense, save where its arithmetic asks for it."""

import pytest

from jaxcompress.core.explain import explain
from jaxcompress.core.paths import flatten_with_paths, replace_at
from tests.laws.compressors import KINDS, RELATED
from tests.laws.pairs import stacked_axes
from tests.zoo import ENTRIES, ZOO

# Model -> the primitives at which a dense copy is needed: they look at every entry of the weight.
DENSE = {
    "linen_weight_norm": {"mul"},
    "plain_mask": {"abs", "mul"},
    "plain_constant_mask": {"mul"},
    "plain_weight_norm": {"mul", "div"},
    "plain_standardised": {"reduce_sum", "sub"},
    "plain_triangular": {"select_n"},
    "plain_dot_and_sum": {"reduce_sum"},
    "plain_dot_and_norm": {"mul"},
    "plain_product_of_two": {"dot_general"},  # one of the two stays compressed
    "plain_sum_of_two": {"add"},
    "transform_scan_outputs_weights": {"add", "reduce_sum"},
    "transform_debug_print": {"debug_print"},
    "elastic_net": {"dot_general", "pad"},  # kernels of all sizes, one transformed into the other, among zeros
    "moe_ragged": {"ragged_dot_general"},  # XLA's own primitive: no leaf has a ragged product yet
}
# Two factors whose columns are not the output features are no pair of convolutions; depthwise, two cost more than one.
DENSE_AS_FACTORS = {
    name: {"conv_general_dilated"}
    for name in (
        *("conv_depthwise", "conv_transpose_kernel", "equinox_conv"),
        *("vision_mobilenet", "vision_mobilenet_v2", "vision_shufflenet", "vision_shufflenet_v2"),
    )
}
CASES = [
    (entry.name, kind)
    for entry in ENTRIES
    if "data" not in entry.tags
    for kind in ("int8_tensor", "lowrank")
    if kind == "int8_tensor" or entry.family not in ("plain", "linen")
]


@pytest.mark.parametrize(("name", "kind"), CASES, ids=lambda value: value)
def test_weights_stay_compressed(name, kind):
    entry = ZOO[name]
    model = entry.model
    with entry.context():
        paths, leaves, _ = flatten_with_paths(model.params)
        dense = dict(zip(paths, leaves, strict=True))
        made = {path: (KINDS | RELATED)[kind](dense[path], stacked_axes(model, path)) for path in model.weights}
        lines = explain(model.fn, replace_at(model.params, made), *model.inputs, **model.kwargs)
    allowed = DENSE.get(name, set()) | (DENSE_AS_FACTORS.get(name, set()) if kind == "lowrank" else set())
    assert {line.primitive for line in lines.materialized} == (allowed if model.weights else set())
    assert {line.path for line in lines if line.kind != "dense" and line.primitive != "-"} == set(model.weights)
