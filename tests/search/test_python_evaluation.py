"""Evaluations in Python by several threads."""

import threading

import jax
import pytest

from jaxcompress import search
from tests.search.climbing import Climb

LINE = search.Space({"x": search.IntRange(0, 99)})


def test_candidates_are_evaluated_side_by_side():
    """Two have to meet before either answers; the search is that of one worker."""
    both = threading.Barrier(2)

    def distance(config, key):
        return {"error": abs(config["x"] - 70.0)}

    def meeting(config, key):
        both.wait(timeout=20)
        return distance(config, key)

    options = {"key": jax.random.key(3), "budget": 12, "cache": False, "progress": False}
    found = search.run(LINE, search.python(meeting, workers=2), Climb(), **options)
    alone = search.run(LINE, search.python(distance), Climb(), **options)
    assert found.archive.values("error").tolist() == alone.archive.values("error").tolist()


def test_workers_are_counted():
    with pytest.raises(ValueError, match="workers must be an integer of at least 1, got 0"):
        search.python(lambda config, key: 0.0, workers=0)
