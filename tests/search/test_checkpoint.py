"""Checkpoints: killed in the middle and gone on, bit for bit; another search is told from this one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import search
from jaxcompress.search import IntRange, Space, run
from tests.search import climbing
from tests.search.climbing import BATCH, DATA, SPACE, Climb, evaluate

ROOT = Path(__file__).resolve().parents[2]


def steps(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def same(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    for a, b in pairs:
        if isinstance(a, jax.Array) and jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def child(*arguments):
    """The search in a process of its own, which rounds as this one does."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    script = str(ROOT / "tests/search/climbing.py")
    return subprocess.Popen([sys.executable, script, *arguments], env=environment, cwd=ROOT, stdout=subprocess.PIPE)


def killed_after(folder, generations):
    """Starts a search, and kills it when so many generations are written; returns how many there are."""
    process = child(str(folder))
    try:
        deadline = time.monotonic() + 120
        while not (folder.exists() and steps(folder) and steps(folder)[-1] >= generations):
            assert process.poll() is None, "the search ended by itself"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    return steps(folder)[-1]


def test_killed_and_resumed_bit_for_bit(tmp_path):
    folder = tmp_path / "search"
    done = killed_after(folder, 3)
    whole = climbing.search(budget=(done + 5) * BATCH)
    told = []
    resumed = climbing.search(budget=(done + 5) * BATCH, checkpoint=folder, progress=told.append)
    assert told[0].resumed
    assert told[0].generation == done
    same(resumed.state, whole.state)
    same(resumed.archive.columns, whole.archive.columns)
    assert resumed.seconds > 0
    assert steps(folder) == [done + 4, done + 5]
    # What half a generation leaves behind is not taken for one.
    (folder / f"{done + 6}.orbax-checkpoint-tmp").mkdir()
    same(climbing.search(budget=(done + 5) * BATCH, checkpoint=folder).archive.columns, whole.archive.columns)


def test_interrupted_in_python_and_gone_on(tmp_path):
    def stop(moment):
        if moment.generation == 3:
            raise KeyboardInterrupt

    first = climbing.search(checkpoint=tmp_path, checkpoint_every=100, progress=stop)
    assert (first.stopped, len(first.archive)) == ("interrupted", 3 * BATCH)
    assert steps(tmp_path) == [3]
    resumed = climbing.search(checkpoint=tmp_path, checkpoint_every=100)
    same(resumed.archive.columns, climbing.search().archive.columns)
    assert resumed.best().genes.codes.tolist() == climbing.search().best().genes.codes.tolist()


def test_a_finished_search_is_read_not_searched(tmp_path, compilations):
    done = climbing.search(budget=2 * BATCH, checkpoint=tmp_path)
    before = compilations("population")
    again = climbing.search(budget=2 * BATCH, checkpoint=tmp_path)
    assert compilations("population") == before
    same(again.archive.columns, done.archive.columns)
    assert again.archive.columns.metrics["bytes"].dtype == np.int32


def test_another_search_is_refused_and_told_what_differs(tmp_path):
    climbing.search(budget=BATCH, checkpoint=tmp_path)
    options = {"key": jax.random.key(3), "data": DATA, "executor": "map", "progress": False, "budget": BATCH}
    wider = Space({**SPACE.variables, "width": IntRange(1, 9)})

    def other(genome, key, data):
        return {**evaluate(genome, key, data), "bytes": genome["width"]}

    for arguments, changed, what in (
        ((wider, evaluate, Climb()), {}, "space"),
        ((SPACE, other, Climb()), {}, "evaluate"),
        ((SPACE, evaluate, Climb(rate=0.5)), {}, "strategy"),
        ((SPACE, evaluate, Climb()), {"key": jax.random.key(4)}, "key"),
        ((SPACE, evaluate, Climb()), {"objectives": ("error", "bytes")}, "objectives"),
        ((SPACE, evaluate, Climb()), {"limits": {"bytes": 100}, "cache": False}, "limits, cache"),
        ((SPACE, evaluate, Climb()), {"data": {"x": DATA["x"] + 1}}, "data"),
    ):
        with pytest.raises(ValueError, match=f"holds another search, which differs in {what}: take another folder"):
            run(*arguments, **{**options, **changed}, checkpoint=tmp_path)


def test_constants_and_python_functions_are_told_apart(tmp_path):
    line = Space({"x": IntRange(0, 9)})

    def scaled(by):
        return lambda genome, key: {"error": (by * genome["x"]).sum()}

    options = {"key": jax.random.key(0), "budget": BATCH, "executor": "map", "progress": False}
    run(line, scaled(jnp.arange(3)), Climb(), checkpoint=tmp_path / "a", **options)
    run(line, scaled(jnp.arange(3)), Climb(), checkpoint=tmp_path / "a", **options)
    with pytest.raises(ValueError, match="differs in evaluate"):
        run(line, scaled(jnp.arange(3) + 1), Climb(), checkpoint=tmp_path / "a", **options)

    options["executor"] = "auto"
    run(line, search.python(lambda config, key: 1.0 * config["x"]), Climb(), checkpoint=tmp_path / "b", **options)
    with pytest.raises(ValueError, match="differs in evaluate"):
        run(line, search.python(lambda config, key: 1.0 + config["x"]), Climb(), checkpoint=tmp_path / "b", **options)


def test_folders_that_hold_something_else(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="holds files that are no search's"):
        climbing.search(checkpoint=tmp_path)
    (tmp_path / "search.json").write_text("{")
    with pytest.raises(ValueError, match="is no state of a search"):
        climbing.search(checkpoint=tmp_path)
    (tmp_path / "search.json").write_text(json.dumps({"format": "x", "version": 9, "identity": {}, "about": {}}))
    with pytest.raises(ValueError, match="another version"):
        climbing.search(checkpoint=tmp_path)
    with pytest.raises(ValueError, match="checkpoint_every must be an integer of at least 1, got 0"):
        climbing.search(checkpoint_every=0)
