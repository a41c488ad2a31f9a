"""How many candidates there are, against the plainest enumeration and by hand."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from jaxcompress.search.space import Choice, Conditional, Float, IntRange, Repeated, Space
from tests.search.space.examples import CELL, LARGE, MIXED, NESTED, configs, entries


@given(entries())
def test_every_candidate_once(variables):
    space = Space(variables)
    expected = list(itertools.islice(configs(variables), 121))
    assume(len(expected) <= 120)
    assert space.size == len(expected)
    found = space.enumerate()
    rows = np.asarray(found.codes)
    assert len(rows) == len(np.unique(rows, axis=0)) == len(expected)
    assert rows.tolist() == sorted(rows.tolist())
    assert {repr(config) for config in space.config(found)} == {repr(without_empty(config)) for config in expected}


def without_empty(config):
    """What a dict of nothing but variables that do not exist becomes: it is left out of the dict around it."""
    if isinstance(config, list):
        return [without_empty(item) for item in config]
    if not isinstance(config, dict):
        return config
    inner = {name: without_empty(value) for name, value in config.items()}
    return {name: value for name, value in inner.items() if value != {}}


def test_by_hand():
    block = 3 + 1  # a convolution with one of three kernels, or pooling
    stage = 2 * (1 + block + block**2)
    assert NESTED.size == stage**2 * (4 + 4**3)
    assert LARGE.size == sum(9**n for n in range(61))  # beyond float64: exact
    assert MIXED.size == math.inf
    ladder = Space(
        {
            "a": Choice((0, 1)),
            "b": Conditional(Choice((0, 1)), on="a", equals=1),
            "c": Conditional(Choice((0, 1)), on="b", equals=1),
        }
    )
    assert ladder.size == 4  # 0; 10; 110; 111


def test_condition_on_two_variables():
    """A gene under two conditions needs both; the parent is counted once."""
    space = Space(
        {
            "a": Choice((0, 1, 2)),
            "b": Choice((0, 1)),
            "c": Conditional(Conditional(IntRange(0, 9), on="a", equals=(1, 2)), on="b", equals=1),
        }
    )
    assert space.size == 3 + 1 + 2 * 10 == len(space.enumerate().codes)


def test_written_after_what_depends_on_it():
    """A condition may speak of a variable further down; the codes keep the order of the variables."""
    space = Space({"a": Conditional(Choice((0, 1)), on="b", equals=1), "b": Choice((0, 1))})
    assert space.names == ("a", "b")
    assert space.enumerate().codes.tolist() == [[0, 0], [0, 1], [1, 1]]


def test_row_of_a_cell_is_a_number_in_base_five():
    rows = np.asarray(CELL.enumerate().codes)
    assert (rows @ 5 ** np.arange(5, -1, -1) == np.arange(15625)).all()


def test_refuses_what_is_too_many():
    with pytest.raises(ValueError, match=r"15625 candidates, limit=15624; use sample"):
        CELL.enumerate(limit=15624)
    with pytest.raises(ValueError, match=r"there are inf candidates"):
        Space({"x": Float(0, 1)}).enumerate()


def test_shares_of_elements_of_a_repetition():
    """Many independent entries count in time that grows with their number, not with that of their combinations."""
    space = Space({"r": Repeated({"on": Choice((0, 1)), "x": Conditional(IntRange(1, 5), "on", 1)}, times=200)})
    assert space.size == 6**200


@given(st.integers(1, 4), st.integers(0, 3))
def test_times(most, least):
    assume(least <= most)
    space = Space({"r": Repeated(Choice((1, 2, 3)), times=IntRange(least, most))})
    assert space.size == sum(3**n for n in range(least, most + 1))
