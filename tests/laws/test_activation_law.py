"""The law of kinds that round their data: codes times codes is the product of the rounded floats, in every model.

The reference is the fake form of the same leaf, which `tests/quantize/test_quantized_input.py` holds against NumPy.
"""

import jax
import numpy as np
import pytest

from jaxcompress.core.explain import explain
from jaxcompress.core.leaf import is_compressed
from jaxcompress.core.lift import lift
from jaxcompress.core.paths import flatten_with_paths, replace_at
from jaxcompress.quantize.quantized_input import DynamicActivations
from tests.laws.compressors import int8
from tests.laws.pairs import call, stacked_axes
from tests.zoo import ENTRIES, ZOO

CANDIDATES = [entry for entry in ENTRIES if "data" not in entry.tags]
FIRST = {entry.family: entry.name for entry in reversed(CANDIDATES)}.values()


def quantized(model, form):
    paths, leaves, _ = flatten_with_paths(model.params)
    dense = dict(zip(paths, leaves, strict=True))
    made = {path: int8(dense[path], stacked_axes(model, path)) for path in model.weights if dense[path].ndim >= 2}
    return replace_at(model.params, {path: DynamicActivations(leaf, 8, form) for path, leaf in made.items()})


def can_take_integers(model):
    """False where a scale of `int8` runs along a sum: there is no form of integers then, and asking for one raises."""
    try:
        explain(model.fn, quantized(model, "integer"), *model.inputs, **model.kwargs)
    except ValueError as error:
        reason = str(error)
    else:
        return True
    assert "constant along the sum" in reason
    return False


def check(name):
    entry = ZOO[name]
    model = entry.model
    with entry.context():
        form = "integer" if can_take_integers(model) else "auto"
        run = call(model, lift)
        ours, theirs = (run(quantized(model, which), model.inputs) for which in (form, "fake"))
        tree = quantized(model, "auto")
        lines = explain(model.fn, tree, *model.inputs, **model.kwargs)
    for a, b in zip(ours, theirs, strict=True):
        if jax.dtypes.issubdtype(a.dtype, np.floating):
            a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
            # A value that lies on a boundary may be rounded to either side: then one code differs by one step.
            assert np.linalg.norm(a - b) <= 0.02 * np.linalg.norm(b) + 1e-6, name
    wrapped = {path for path, leaf in zip(*flatten_with_paths(tree)[:2], strict=True) if is_compressed(leaf)}
    assert {line.path for line in lines if line.kind != "dense"} == wrapped


@pytest.mark.parametrize("name", sorted(FIRST))
def test_one_model_of_each_family(name):
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({entry.name for entry in CANDIDATES} - set(FIRST)))
def test_the_other_models(name):
    check(name)
