"""Genes to arrays, to plain values, and back."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxcompress.search.genes import Genes
from jaxcompress.search.space import Choice, Conditional, Float, IntRange, LogFloat, Repeated, Space
from tests.search.space.examples import MIXED, NESTED, SPACES, configs, entries


@given(entries(), st.integers(0, 10**6))
def test_encode_undoes_config(variables, number):
    """Of random discrete spaces, from any genes: the config survives, and so do canonical genes."""
    space = Space(variables)
    codes = np.array([number // 7**i % n for i, n in enumerate(space.cardinalities)], np.int32)
    config = space.config(Genes(jnp.asarray(codes), jnp.zeros(0, jnp.float32)))
    genes = space.encode(config)
    assert genes.codes.dtype == jnp.int32
    assert (np.asarray(genes.codes) == codes)[np.asarray(genes.codes) > 0].all()  # 0 where a gene does not exist
    assert space.config(genes) == config
    assert space.encode(space.config(genes)).codes.tolist() == genes.codes.tolist()


@given(entries(depth=1))
def test_config_undoes_encode(variables):
    space = Space(variables)
    for config in itertools.islice(configs(variables), 20):
        assert space.config(space.encode(config)) == {k: v for k, v in config.items() if v != {}}


@pytest.mark.parametrize("name", SPACES)
def test_round_trip_of_samples(name):
    space = SPACES[name]
    genes, genome = jax.jit(lambda key: (genes := space.sample(key, 8), space.decode(genes)))(jax.random.key(3))
    again = space.encode(space.config(genes))
    np.testing.assert_array_equal(again.codes, genes.codes)
    np.testing.assert_allclose(again.values, genes.values, atol=1e-7)  # float64 to float32: half of 2^-24
    one = jax.eval_shape(space.decode, jax.tree.map(lambda row: row[0], genes))
    assert jax.tree.map(jnp.shape, genome) == jax.tree.map(lambda array: (8, *array.shape), one)


def test_decoded_by_hand():
    config = {
        "stages": [
            {"width": 32, "blocks": [{"op": "pool"}, {"op": "conv", "kernel": 7}]},
            {"width": 16, "blocks": []},
        ],
        "head": [4],
    }
    genome = jax.jit(NESTED.decode)(NESTED.encode(config))
    expected = {
        "stages": {
            "width": [32, 16],
            "blocks": {"count": [2, 0], "op": [[1, 0], [0, 0]], "kernel": [[3, 7], [3, 3]]},
        },
        "head": {"count": 1, "values": [4, 1, 1]},
    }
    assert jax.tree.map(lambda a: a.tolist(), genome) == expected
    assert {a.dtype for a in jax.tree.leaves(genome)} == {jnp.dtype("int32")}


def test_what_values_decode_to():
    space = Space(
        {
            "ints": Choice((3, 5)),
            "floats": Choice((1, 0.5)),
            "switch": Choice((True, False)),
            "names": Choice(("a", None, (1, 2))),
            "range": IntRange(8, 16, step=4),
            "float": Float(-1, 3),
            "log": LogFloat(1e-3, 1e3),
        }
    )
    config = {"ints": 5, "floats": 0.5, "switch": False, "names": (1, 2), "range": 12, "float": 0.0, "log": 1.0}
    genes = space.encode(config)
    assert space.config(genes) == config
    genome = space.decode(genes)
    assert {k: v.dtype.name for k, v in genome.items()} == {
        "ints": "int32", "floats": "float32", "switch": "bool", "names": "int32", "range": "int32",
        "float": "float32", "log": "float32",
    }  # fmt: skip
    assert [round(float(v), 5) for v in genome.values()] == [5, 0.5, 0, 2, 12, 0, 1]
    assert genes.codes.tolist() == [1, 1, 1, 2, 1]
    np.testing.assert_allclose(genes.values, [0.25, 0.5])


def test_bounds_are_reached_and_never_left():
    variables = [Float(-0.1, 0.3), LogFloat(1e-5, 0.7), LogFloat(3e-30, 2e30)]
    for variable in variables:
        ends = np.asarray(variable.from_unit(jnp.array([0.0, 1.0])))
        if isinstance(variable, LogFloat):  # an error of the exponent is a relative one of the value
            log = np.log([variable.low, variable.high, variable.high / variable.low])
            tolerance = 2.0**-23 * np.abs(log).sum()
        else:
            tolerance = 2.0**-22
        np.testing.assert_allclose(ends, [variable.low, variable.high], rtol=tolerance)
        assert ends[0] >= np.float32(variable.low)
        assert ends[1] <= np.float32(variable.high)
        assert (variable.to_unit(variable.low), variable.to_unit(variable.high)) == (0, 1)


def test_what_does_not_exist_is_left_out_and_refused():
    genes = MIXED.encode({"optimizer": "sgd", "momentum": 0.9, "rate": 0.1, "constant": 7})
    assert MIXED.config(genes) == pytest.approx({"optimizer": "sgd", "momentum": 0.9, "rate": 0.1, "constant": 7})
    with pytest.raises(ValueError, match=r"'momentum' does not exist in this config .* leave it out"):
        MIXED.encode(
            {"optimizer": "adam", "adam": {"b1": 0.9, "amsgrad": True}, "momentum": 0.9, "rate": 0.1, "constant": 7}
        )
    with pytest.raises(ValueError, match=r"'momentum' is missing; give one of \[0, 0.99\]"):
        MIXED.encode({"optimizer": "sgd", "rate": 0.1, "constant": 7})


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"head": [5]}, ValueError, r"'head/0': 5 is not one of 1 .. 4"),
        ({"head": [1, 1]}, ValueError, r"'head' has 2 entries; it is repeated 1 \| 3 times"),
        ({"head": 3}, TypeError, r"'head' must be a list"),
        ({"tail": 3}, ValueError, r"there is no 'tail'; there are \['stages', 'head'\]"),
        (
            {"stages": [{"width": 16, "blocks": []}, {"width": 17, "blocks": []}]},
            ValueError,
            r"'stages/1/width': 17 is not",
        ),
        ({"stages": [{"width": 16, "blocks": []}, 3]}, TypeError, r"'stages/1' must be a dict, got 3"),
    ],
)
def test_bad_configs(change, error, match):
    with pytest.raises(error, match=match):
        NESTED.encode({"stages": [{"width": 16, "blocks": []}] * 2, "head": [1], **change})


def test_numbers_out_of_range():
    for value in (1.01, -0.01, float("nan"), "a", True):
        with pytest.raises(ValueError, match="encode: 'x'"):
            Space({"x": Float(0, 1)}).encode({"x": value})


def test_values_that_went_through_numpy_and_float32():
    space = Space(
        {"x": Choice((0.1, 0.2)), "k": Choice((3, 5)), "on": Choice((False, True)), "n": Repeated(IntRange(1, 9), 2)}
    )
    config = {"x": np.float32(0.2), "k": jnp.int32(5), "on": np.True_, "n": np.array([2, 3])}
    assert space.config(space.encode(config)) == {"x": 0.2, "k": 5, "on": True, "n": [2, 3]}
    with pytest.raises(ValueError, match="1 is not one of"):
        space.encode({**config, "on": 1})


def test_several_configs():
    space = Space({"a": Choice(("x", "y", "z")), "b": Conditional(Float(0, 1), on="a", equals="y")})
    genes = space.encode([{"a": "z"}, {"a": "y", "b": 0.5}])
    assert genes.codes.tolist() == [[2], [1]]
    assert space.config(genes) == [{"a": "z"}, {"a": "y", "b": 0.5}]
    with pytest.raises(ValueError, match="empty list"):
        space.encode([])


def test_decode_makes_canonical_first():
    raw = Genes(jnp.array([[1, 1, 0]], jnp.int32), jnp.array([[0.7, 0.5, 0.5]], jnp.float32))
    assert float(jax.jit(MIXED.decode)(raw)["momentum"][0]) == 0.0
