"""Building, comparing, printing, writing; and what is refused."""

import json

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given

from jaxcompress.search.space import Choice, Conditional, Constraint, Float, IntRange, LogFloat, Repeated, Space
from tests.search.space.examples import CELL, MIXED, NESTED, SPACES, entries


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: Choice(()), ValueError, "no values"),
        (lambda: Choice((1, 2, 1)), ValueError, "1 occurs twice"),
        (lambda: Choice("relu"), TypeError, "a tuple of values, in an order, got 'relu'"),
        (lambda: Choice({"relu", "gelu"}), TypeError, "in an order"),
        (lambda: Choice(3), TypeError, r"got 3; a single one: \(x,\)"),
        (lambda: Choice(({},)), TypeError, "cannot be hashed"),
        (lambda: Choice((1.0, float("nan"))), ValueError, "nan is not finite"),
        (lambda: Choice((1, 2**31)), ValueError, "2147483648 is not finite, or more than"),
        (lambda: IntRange(3, 2), ValueError, "high=2 is below low=3"),
        (lambda: IntRange(0, 5, step=2), ValueError, "step=2 does not lead from low=0 to high=5"),
        (lambda: IntRange(0, 5, step=0), ValueError, "step=0"),
        (lambda: IntRange(0.5, 2), TypeError, r"IntRange\(low=\) must be a whole number, got 0.5"),
        (lambda: Float(1, 1), ValueError, "low=1.0 is not below high=1.0"),
        (lambda: Float(0, float("inf")), ValueError, r"Float\(high=\) must be a finite number, got inf"),
        (lambda: LogFloat(0, 1), ValueError, "low=0.0 must be above 0; use Float"),
        (lambda: Repeated(Choice((1,)), times=0), ValueError, "above 0 somewhere, got 0"),
        (lambda: Repeated(Choice((1,)), times=IntRange(-1, 2)), ValueError, "at least 0"),
        (lambda: Repeated(Choice((1,)), times=Choice((1.5, 2))), ValueError, "must be whole numbers"),
        (lambda: Conditional(Choice((1,)), on="", equals=1), TypeError, "path of a variable"),
        (lambda: Space({"a": 3}), TypeError, "'a' is 3; use Choice"),
        (lambda: Space(3), TypeError, "a dict of variables, got 3"),
        (lambda: Space({"a": {}}), ValueError, "'a' is an empty dict"),
        (lambda: Space({}), ValueError, "Space: give it a variable"),
        (lambda: Space({"a/b": Choice((1,))}), ValueError, "'a/b' .* without '/'"),
        (lambda: Space({"r": Repeated({"count": Choice((1,))}, IntRange(1, 2))}), ValueError, "'count' in it is taken"),
        (
            lambda: Space({"a": Choice((1,)), "b": Conditional(Choice((1,)), on="c", equals=1)}),
            ValueError,
            r"'b': there is no variable on='c'; there are \['a', 'b'\]",
        ),
        (
            lambda: Space({"a": Choice((1, 2)), "b": Conditional(Choice((1,)), on="a", equals=3)}),
            ValueError,
            r"'b': equals=3 is not one of \(1, 2\)",
        ),
        (
            lambda: Space({"a": Choice((1, 2)), "b": Conditional(Choice((1,)), on="a", equals=(1, 3))}),
            ValueError,
            r"'b': in equals, 3 is not one of \(1, 2\)",
        ),
        (
            lambda: Space({"a": Float(0, 1), "b": Conditional(Choice((1,)), on="a", equals=0.5)}),
            ValueError,
            r"on='a' is continuous, \[0, 1\]",
        ),
        (
            lambda: Space(
                {"a": Conditional(Choice((1, 2)), "b", 1), "b": Conditional(Choice((1, 2)), "a", 1)}
            ),
            ValueError,
            "depends on itself",
        ),
        (lambda: Space({"a": Choice((1,))}, constraints=(len,)), TypeError, "is no Constraint"),
        (lambda: Space({"a": {3: Choice((1,))}}), ValueError, "the name 3 in 'a' must be"),
        (lambda: Constraint("size", 3, at_most=1), TypeError, "'size': a function of the decoded genome, got 3"),
        (lambda: Constraint("size", len), ValueError, "'size': give a finite at_most= or at_least=, got no bounds"),
        (lambda: Constraint("size", len, at_most=float("nan")), ValueError, "got <= nan"),
        (lambda: Space.from_dict({"variables": 3}), ValueError, "not a space"),
        (lambda: Space.from_dict({**CELL.to_dict(), "version": 2}), ValueError, "version 2 is not 1"),
        (lambda: Space({"f": Choice((jnp.tanh, jnp.sin))}).to_dict(), ValueError, "'f' has the value .* by a string"),
    ],
)  # fmt: skip
def test_refused(make, error, match):
    with pytest.raises(error, match=match):
        make()


@pytest.mark.parametrize("name", SPACES)
def test_json(name):
    """Also with sorted keys: the order of variables, which is that of the genes, is not in the order of keys."""
    space = SPACES[name]
    again = Space.from_dict(json.loads(json.dumps(space.to_dict(), sort_keys=True)))
    assert again == space
    assert hash(again) == hash(space)
    assert again.names == space.names


@given(entries())
def test_json_of_random_spaces(variables):
    space = Space(variables)
    assert Space.from_dict(json.loads(json.dumps(space.to_dict()))) == space


def test_json_keeps_types_of_values():
    space = Space({"a": Choice((1, 1.5, None, False, "x", (1, ("y",))))})
    again = Space.from_dict(json.loads(json.dumps(space.to_dict())))
    assert again == space
    assert again.config(again.encode({"a": (1, ("y",))})) == {"a": (1, ("y",))}


def test_equal_by_value_type_and_order():
    """What decodes to another dtype, or has its genes elsewhere, must not share a compiled program."""
    assert Space({"a": Choice((1, 2))}) == Space({"a": Choice([1, 2])})
    assert Space({"a": Choice((1, 2))}) != Space({"a": Choice((1.0, 2.0))})
    assert Space({"a": Choice((0, 1))}) != Space({"a": Choice((False, True))})
    a, b = Choice((1, 2)), IntRange(1, 2)
    assert Space({"a": a, "b": b}) != Space({"b": b, "a": a})
    limit = Constraint("a", lambda genome: genome["a"], at_most=1)
    assert Space({"a": a}) != Space({"a": a}, constraints=[limit])
    assert Space({"a": a}) != "a"


def test_later_changes_of_the_given_dict_are_not_seen():
    variables = {"a": Choice((1, 2)), "b": {"c": Choice((1, 2))}}
    space = Space(variables)
    variables["b"]["d"] = Choice((1, 2))
    del variables["a"]
    assert space.names == ("a", "b/c")


def test_conditions_look_beside_first_then_outwards():
    space = Space(
        {
            "op": Choice(("a", "b")),
            "cells": Repeated(
                {
                    "op": Choice(("b", "c")),
                    "inner": {"x": Conditional(Choice((1, 2)), on="op", equals="c")},
                },
                times=2,
            ),
            "last": Conditional(Choice((1, 2)), on="cells/1/op", equals="c"),
            "y": {"z": Conditional(Choice((1, 2)), on="op", equals="a")},
        }
    )
    config = {"op": "b", "cells": [{"op": "c", "inner": {"x": 2}}, {"op": "b"}]}
    assert space.config(space.encode(config)) == config
    with pytest.raises(ValueError, match="'last' is missing"):
        space.encode({"op": "b", "cells": [{"op": "b"}, {"op": "c", "inner": {"x": 2}}]})


def test_table():
    space = Space(NESTED.variables, constraints=[Constraint("parameters", lambda genome: 1, at_most=1e6)])
    assert str(space).splitlines() == [
        "variable                  values       genes  exists where",
        "stages/*/width            16 | 32      2",
        "stages/*/blocks/count     0 .. 2       2",
        "stages/*/blocks/*/op      conv | pool  4",
        "stages/*/blocks/*/kernel  3 | 5 | 7    4      op = conv",
        "head/count                1 | 3        1",
        "head/*                    1 .. 4       3",
        "119,952 candidates: 16 discrete and 0 continuous genes",
        "constraint: parameters <= 1,000,000",
    ]
    assert "<td>stages/*/blocks/*/kernel</td>" in space._repr_html_()
    assert str(MIXED).splitlines()[-1] == "infinitely many candidates: 3 discrete and 3 continuous genes"
    assert str(SPACES["large"]).splitlines()[-1] == "2.0e57 candidates: 121 discrete and 0 continuous genes"


def test_violation():
    """Relative to the limits, summed; zero where all hold; infinite where a cost is NaN."""
    space = Space(
        {"width": IntRange(1, 8), "depth": IntRange(1, 4)},
        constraints=[
            Constraint("units", lambda g: g["width"] * g["depth"], at_most=16),
            Constraint("width", lambda g: g["width"], at_least=4),
            Constraint("excess", lambda g: g["depth"] - 3, at_most=0),
        ],
    )
    genes = space.encode([{"width": 8, "depth": 2}, {"width": 8, "depth": 4}, {"width": 3, "depth": 1}])
    violations = jax.jit(jax.vmap(lambda g: space.violation(space.decode(g))))(genes)
    assert violations.tolist() == [0.0, 1.0 + 1.0, 0.25]
    assert float(Constraint("x", lambda g: jnp.nan, at_most=1).violation({})) == float("inf")
    assert float(CELL.violation(CELL.decode(CELL.sample(jax.random.key(0), ())))) == 0.0
