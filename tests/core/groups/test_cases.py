"""The table of small functions: groups that must be found, and the law for all."""

from collections import Counter

import pytest

import jaxcompress as jc
from tests.core.groups.cases import CASES, LEAST
from tests.core.groups.law import check, sizes, some


@pytest.mark.parametrize("name", CASES)
def test_exact_or_pinned(name):
    case = CASES[name]
    groups = jc.groups(case.fn, case.params, case.x)
    assert all(pin.reason for pin in groups.pins)
    if name in LEAST:
        missing = Counter(case.least) - Counter(sizes(groups))
        assert not missing, f"{dict(missing)} of {sizes(groups)}\n{groups}"
    check(case.fn, case.params, (case.x,), [some(groups, seed) for seed in (0, 1)], gradient=name in LEAST)
