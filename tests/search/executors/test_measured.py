"""`auto`: measures time and memory on the first generation, and tells."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.search.executors import measured
from jaxcompress.search.executors.measured import choose, executor_named
from tests.search import climbing

ITEMS = np.arange(12, dtype=np.float32)


def one(item, shared):
    return jnp.tanh(item) * shared


def chosen(items=ITEMS, left=1e9):
    return choose(one, items, len(items), jnp.float32(2.0), left=lambda seconds: left)


def test_everything_that_fits_is_measured_and_told():
    program, results, choice = chosen()
    assert [trial.name for trial in choice.trials] == ["map", "sharded", "chunked(8)", "vmap"]
    assert all(trial.seconds > 0 and trial.memory_bytes > 0 for trial in choice.trials)
    seconds = {trial.name: trial.seconds for trial in choice.trials}
    assert seconds[choice.name] <= min(seconds["map"], seconds["sharded"])
    assert program.name == choice.name
    np.testing.assert_allclose(results, 2 * np.tanh(ITEMS), rtol=1e-6)
    assert "generation, ms" in str(choice)
    assert choice._repr_html_().count("<tr>") == 5


def test_what_does_not_fit_into_memory_is_not_run(monkeypatch):
    monkeypatch.setattr(measured, "_free_bytes", lambda: 1.0)
    _, _, choice = chosen()
    assert choice.name == "map"
    assert [trial.seconds is None for trial in choice.trials] == [False, True, True, True]
    assert "are free" in str(choice)


def test_other_bits_must_be_clearly_faster(monkeypatch):
    seconds = {"map": 1.0, "sharded": 1.1, "chunked(8)": 0.9, "vmap": 0.8}
    monkeypatch.setattr(measured, "_timed", lambda program, items, count: (seconds[program.name], None))
    assert chosen()[2].name == "vmap"  # 1.25 times faster; a ninth is not enough for the chunks
    seconds["vmap"] = 0.95
    assert chosen()[2].name == "map"
    seconds["sharded"] = 0.99  # the same bits
    assert chosen()[2].name == "sharded"


def test_a_short_search_tries_nothing_else():
    _, _, choice = chosen(left=0.0)
    assert [trial.name for trial in choice.trials] == ["map"]
    assert "too short to try others" in str(choice)
    assert [trial.name for trial in chosen(ITEMS[:1])[2].trials] == ["map"]  # one candidate has no neighbours


def test_a_choice_is_remembered(tmp_path):
    first = climbing.search(budget=12, executor="auto", checkpoint=tmp_path)
    resumed = climbing.search(budget=24, executor="auto", checkpoint=tmp_path)
    assert resumed.executor.name == first.executor.name == "map"  # 12 evaluations pay no trials
    assert resumed.executor.reason == "as before the interruption"
    assert executor_named("mine") is None
    whole = climbing.search(budget=24)
    for a, b in zip(jax.tree.leaves(whole.archive.columns), jax.tree.leaves(resumed.archive.columns), strict=True):
        np.testing.assert_array_equal(a, b)
