"""`run`: what it asks, what it counts, what it refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import search
from jaxcompress.search import Budget, Constraint, Genes, IntRange, Sharded, Space, run, split
from tests.search import climbing
from tests.search.climbing import DATA, SPACE, Climb

KEY = jax.random.key(3)
LINE = Space({"x": IntRange(0, 99)})


def columns(found):
    return jax.tree.leaves(found.archive.columns)


def on_line(function, **options):
    """A search of LINE for the least of a function of x."""
    settings = {"key": KEY, "budget": 60, "executor": "map", "progress": False, **options}
    return run(LINE, function, settings.pop("strategy", Climb()), **settings)


def distance(genome, key):
    return {"error": jnp.abs(genome["x"] - 70).astype(jnp.float32), "cost": genome["x"]}


def test_it_searches():
    told = []
    found = climbing.search(progress=told.append)
    error = found.archive.values("error")
    assert len(found.archive) == 60
    assert found.best().metrics["error"] == error.min() < 0.7 * np.median(error)
    assert [moment.generation for moment in told] == list(range(1, 11))
    assert told[-1].best["error"] == pytest.approx(error.min())
    assert told[-1].fraction == 1.0
    assert "60 done" in str(told[-1])
    assert found.stopped == "budget"


@pytest.mark.parametrize("executor", ["loop", "sharded"])
def test_fitness_does_not_depend_on_the_executor(executor):
    """The whole search, bit for bit: on one device in a program, in a Python loop, on 8 devices."""
    for one, other in zip(columns(climbing.search()), columns(climbing.search(executor=executor)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_one_compilation_for_all_generations(compilations):
    seen = []
    climbing.search(progress=lambda _: seen.append(compilations()))
    assert len(set(seen)) == 1, seen


def test_the_key_of_a_candidate_is_folded_from_its_number():
    found = on_line(lambda genome, key: {"error": jax.random.uniform(key)}, cache=False, budget=12)
    evaluations = jax.random.split(KEY)[1]
    by_hand = [float(jax.random.uniform(jax.random.fold_in(evaluations, number))) for number in range(12)]
    assert found.archive.values("error").tolist() == by_hand


def test_equal_candidates_are_evaluated_once():
    called = []

    def counted(config, key):
        called.append(config["x"])
        return distance({"x": jnp.int32(config["x"])}, key)

    found = on_line(search.python(counted), executor="auto")
    assert sorted(set(called)) == sorted(called)
    assert len(called) == 60 - found.archive.cached.sum()
    assert found.archive.cached.sum() >= 9  # every batch begins with the best so far
    x, error = found.archive.columns.genes.codes[:, 0], found.archive.values("error")
    np.testing.assert_array_equal(error, np.abs(x - 70))
    for row in np.flatnonzero(found.archive.cached):
        assert x[found.archive.columns.source[row]] == x[row]
    assert found.executor.name == "python"


def test_cached_and_evaluated_candidates_have_the_same_answers():
    """Without randomness in the evaluation the cache cannot be told from the evaluation."""
    one, other = on_line(distance), on_line(distance, cache=False)
    np.testing.assert_array_equal(one.archive.columns.genes.codes, other.archive.columns.genes.codes)
    np.testing.assert_array_equal(one.archive.values("error"), other.archive.values("error"))
    assert one.archive.cached.any()
    assert not other.archive.cached.any()


def test_failed_candidates_are_counted_and_never_win():
    def sometimes(genome, key):
        return {"error": jnp.where(genome["x"] % 2 == 1, jnp.nan, -genome["x"].astype(jnp.float32))}

    found = on_line(sometimes)
    odd = found.archive.columns.genes.codes[:, 0] % 2 == 1
    np.testing.assert_array_equal(found.archive.failed, odd)
    assert 0 < odd.sum() < 60
    assert found.best().config["x"] % 2 == 0
    assert f"{odd.sum()} failed" in str(found)
    assert np.isfinite(found.pareto.values()).all()


def test_limits_and_constraints_come_before_objectives():
    found = on_line(distance, limits={"cost": 40})
    assert found.best().config["x"] == found.archive.values("cost")[found.archive.values("cost") <= 40].max()
    over = found.archive.values("cost") > 40
    by_hand = np.maximum(found.archive.values("cost") - 40, 0) / 40
    np.testing.assert_allclose(found.archive.columns.violation, by_hand, rtol=1e-6)
    np.testing.assert_array_equal(found.archive.eligible, ~over)
    constrained = Space({"x": IntRange(0, 99)}, [Constraint("x", lambda genome: genome["x"], at_most=40)])
    alike = run(constrained, distance, Climb(), key=KEY, budget=60, executor="map", progress=False)
    np.testing.assert_array_equal(alike.archive.columns.genes.codes, found.archive.columns.genes.codes)


def test_seeds_are_asked_for_first():
    for seeds in ({"x": 69}, [{"x": 69}], Genes(jnp.array([[69]], jnp.int32), jnp.zeros((1, 0)))):
        assert on_line(distance, seeds=seeds, budget=6).archive[0].config == {"x": 69}
    with pytest.raises(ValueError, match="seeds= are of another space"):
        on_line(distance, seeds=Genes(jnp.zeros((1, 2), jnp.int32), jnp.zeros((1, 0))))
    with pytest.raises(ValueError, match="seeds= hold codes outside"):
        on_line(distance, seeds=Genes(jnp.array([[100]], jnp.int32), jnp.zeros((1, 0))))


def test_fidelity_is_handed_on_and_only_full_effort_wins():
    def half(genome, key, *, fidelity):
        return {"error": fidelity * genome["x"].astype(jnp.float32)}

    found = on_line(half, strategy=Climb(multi_fidelity=True), budget=6)
    assert found.archive.columns.fidelity.tolist() == [0.5] * 6
    np.testing.assert_array_equal(found.archive.values("error"), 0.5 * found.archive.columns.genes.codes[:, 0])
    assert found.best().fidelity == 0.5  # nobody was given more


def test_budgets():
    assert len(on_line(distance, budget=17).archive) == 12  # whole generations, no more than told
    with pytest.raises(ValueError, match="budget=5 evaluations is less than one generation of 6"):
        on_line(distance, budget=5)
    timed = on_line(distance, budget="0.3s", cache=False)
    assert timed.seconds >= 0.3
    assert len(on_line(distance, budget=Budget(evaluations=12, seconds=100.0)).archive) == 12
    assert len(on_line(distance, budget=np.int64(12)).archive) == 12
    for wrong in ({"evaluations": 1.5}, {"evaluations": "10"}, {"seconds": "10"}, {"seconds": -1}, {}):
        with pytest.raises(ValueError, match=r"[Bb]udget"):
            Budget(**wrong)
    for wrong, error in (("soon", ValueError), ("3 days", ValueError), (True, TypeError), (0, ValueError)):
        with pytest.raises(error, match="budget"):
            on_line(distance, budget=wrong)


def test_a_space_without_anything_new_ends_the_search(tmp_path):
    """Ten candidates in ten minutes: generations of 200, of which the first hold all there are."""
    few = Space({"x": IntRange(0, 9)})
    settings = {"key": KEY, "executor": "map", "progress": False, "checkpoint": tmp_path}
    found = run(few, distance, search.RandomSearch(batch=200), budget="10min", **settings)
    assert found.stopped == "exhausted"
    assert found.archive.cached.sum() == len(found.archive) - 10
    assert 2000 <= found.archive.known_since() < 2200  # ten generations, and not one more
    assert found.archive.cached[-found.archive.known_since() :].all()
    assert not found.archive.cached[-found.archive.known_since() - 1]
    assert "ended before the budget: the last 2," in str(found)
    again = run(few, distance, search.RandomSearch(batch=200), budget="20min", **settings)
    assert (again.stopped, len(again.archive)) == ("exhausted", len(found.archive))


def test_an_interrupt_keeps_what_is_done():
    def stop(moment):
        if moment.generation == 4:
            raise KeyboardInterrupt

    found = on_line(distance, progress=stop)
    assert found.stopped == "interrupted"
    np.testing.assert_array_equal(found.archive.values("error"), on_line(distance).archive.values("error")[:24])

    def never(config, key):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        on_line(search.python(never), executor="auto")


def test_reporting_data_is_read_by_the_report_alone():
    search_on, report_on = split(DATA, (0.5, 0.5), jax.random.key(1))
    found = climbing.search(data=search_on, report_data=report_on)
    same = climbing.search(data=search_on)
    for one, other in zip(columns(found), columns(same), strict=True):
        np.testing.assert_array_equal(one, other)
    row = found.report().rows[0]
    best = found.best()
    key = jax.random.fold_in(jax.random.split(KEY)[1], best.number)
    by_hand = jax.jit(climbing.evaluate)(best.genome, key, report_on)
    assert row.metrics["error"] == pytest.approx(float(by_hand["error"]), rel=1e-5)
    assert row.metrics["error"] != row.candidate.metrics["error"]
    by_config = found.report([best.config, {"width": 1, "rate": 0.1, "kind": "sine"}])
    assert by_config.rows[0].metrics == row.metrics
    assert by_config.rows[1].candidate is None
    assert f"{row.metrics['error']:.4g} ({best.metrics['error']:.4g})" in str(by_config)
    with pytest.raises(ValueError, match="the search had no report_data="):
        same.report()
    with pytest.raises(ValueError, match="report_data is data"):
        climbing.search(report_data=DATA)
    with pytest.raises(ValueError, match="must have the structure of data"):
        climbing.search(report_data=(1.0,))
    with pytest.raises(ValueError, match="data holds NaN or infinity at 'x'"):
        climbing.search(data={"x": np.full((4, 4), np.nan, np.float32)})


def test_splits_are_disjoint_and_whole():
    parts = split({"x": np.arange(103), "y": np.arange(103) * 2}, (0.7, 0.2, 0.1), jax.random.key(0))
    assert [len(part["x"]) for part in parts] == [72, 21, 10]
    assert sorted(np.concatenate([part["x"] for part in parts]).tolist()) == list(range(103))
    for part in parts:
        np.testing.assert_array_equal(part["y"], 2 * part["x"])
    for arrays, fractions in (
        ({"a": np.ones(3), "b": np.ones(4)}, (1.0,)),
        (np.ones(9), (0.5, 0.4)),
        (np.ones(3), (0.9, 0.1)),
    ):
        with pytest.raises(ValueError, match="split"):
            split(arrays, fractions, jax.random.key(0))


def test_what_an_evaluation_must_not_do():
    with pytest.raises(TypeError, match=r"jaxcompress.search.python"):
        on_line(lambda genome, key: {"error": float(genome["x"])})
    with pytest.raises(ValueError, match=r"objectives='error' is none of what evaluate= returns: \['loss'\]"):
        on_line(lambda genome, key: {"loss": genome["x"]})
    with pytest.raises(ValueError, match="limits='bytes' is none"):
        on_line(distance, limits={"bytes": 3})
    with pytest.raises(ValueError, match=r"'error' has shape \(2,\): take the mean"):
        on_line(lambda genome, key: {"error": jnp.ones(2)})
    with pytest.raises(ValueError, match="all of the first 12 candidates failed"):
        on_line(lambda genome, key: {"error": jnp.float32(jnp.nan)})
    with pytest.raises(TypeError, match="evaluate= must be a function"):
        on_line("distance")
    with pytest.raises(TypeError, match="typed key"):
        on_line(distance, key=jax.random.PRNGKey(0))
    with pytest.raises(ValueError, match="objectives="):
        on_line(distance, objectives=())
    with pytest.raises(ValueError, match="called in a loop"):
        on_line(search.python(distance), executor="vmap")
    with pytest.raises(TypeError, match="progress="):
        on_line(distance, progress=3)
    for wrong in (None, (1.0, 2.0), {"error": "small"}, {"error": 1.0, "more": {"bytes": 1}}, {"error": 1j}):
        with pytest.raises(ValueError, match="must return real numbers by name"):
            on_line(lambda genome, key, wrong=wrong: wrong)
        with pytest.raises(ValueError, match="must return real numbers by name"):
            on_line(search.python(lambda config, key, wrong=wrong: wrong), executor="auto")


@dataclasses.dataclass
class Unhashable:
    """Equal by value and changeable: no static argument."""

    def __call__(self, genome, key):
        return distance(genome, key)


def test_arguments_of_the_wrong_kind():
    for strategy in ("random", search.RandomSearch):
        with pytest.raises(TypeError, match=r"strategy= must be a strategy, as jaxcompress.search.RandomSearch"):
            on_line(distance, strategy=strategy)
    with pytest.raises(TypeError, match=r"is called as evaluate\(genome, key, data\) in this search, .*too many"):
        on_line(distance, data=DATA)
    with pytest.raises(TypeError, match=r"is called as evaluate\(genome, key, fidelity=...\)"):
        on_line(distance, strategy=search.SuccessiveHalving(candidates=4))
    with pytest.raises(TypeError, match="missing a required argument: 'data'"):
        on_line(lambda genome, key, data: data)
    with pytest.raises(TypeError, match="of type Unhashable cannot be hashed: make it a frozen dataclass"):
        on_line(Unhashable())
    with pytest.raises(TypeError, match="space= must be a Space"):
        run({"x": IntRange(0, 9)}, distance, key=KEY, budget=60)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="limits= must be a dict"):
        on_line(distance, limits=("cost", 3))
    with pytest.raises(TypeError, match=r"limits='cost' must be a number, got 'few'"):
        on_line(distance, limits={"cost": "few"})
    for objectives in (None, 3):
        with pytest.raises(TypeError, match="objectives= must be names of metrics"):
            on_line(distance, objectives=objectives)
    for data in ("rows", {"x": np.array(["a"])}, object()):
        with pytest.raises(TypeError, match="data must be a tree of arrays of numbers, got"):
            on_line(lambda genome, key, data: distance(genome, key), data=data)
    with pytest.raises(TypeError, match="checkpoint= must be the path of a folder, got 3"):
        on_line(distance, checkpoint=3)
    with pytest.raises(TypeError, match=r"best\(error='low'\): a bound is a number"):
        on_line(distance, budget=6).best(error="low")
    for seeds in ("x", [50], on_line(distance, budget=6).best()):
        with pytest.raises(TypeError, match=r"seeds= must be configs \(dicts, as Candidate.config\) or Genes"):
            on_line(distance, seeds=seeds)
    unit = Space({"x": search.Float(0, 1)})
    for value in (1.5, np.nan):
        seeds = Genes(jnp.zeros((1, 0), jnp.int32), jnp.array([[value]]))
        with pytest.raises(ValueError, match=r"seeds= hold values outside of \[0, 1\], or NaN, in rows \[0\]"):
            run(unit, distance, key=KEY, budget=10, seeds=seeds, progress=False)


def test_a_finished_search_of_an_executor_that_auto_does_not_try(tmp_path):
    on_line(distance, budget=6, checkpoint=tmp_path, executor="loop")
    again = on_line(distance, budget=6, checkpoint=tmp_path, executor="auto")
    assert str(again.executor) == "loop: as before; nothing was evaluated since"


def test_a_budget_that_is_too_small_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match="less than one generation"):
        on_line(distance, budget=5, checkpoint=tmp_path / "search")
    assert not list(tmp_path.iterdir())


def test_a_cached_candidate_is_reported_with_the_key_of_its_twin():
    drawn = {"strategy": search.RandomSearch(batch=6), "data": np.zeros(2), "report_data": np.ones(2), "budget": 12}
    evaluate = lambda genome, key, data: {"error": jax.random.uniform(key) + data[0], "of": genome["x"]}  # noqa: E731
    found = on_line(evaluate, **(drawn | {"seeds": [{"x": 5}] * 2}))
    first, second = found.report([found.archive[0], found.archive[1]]).rows
    assert found.archive.cached.tolist()[:2] == [False, True]
    assert first.metrics == second.metrics
    with pytest.raises(ValueError, match="no candidates to report on"):
        found.report([])


def test_a_failed_candidate_alone_ends_no_search():
    """Generations of one: the first is a seed that fails, the second is not."""
    settings = {"strategy": search.RandomSearch(), "seeds": [{"x": 99}], "budget": 3, "executor": "auto"}

    def fragile(config, key):
        return float("nan") if config["x"] == 99 else float(config["x"])

    found = on_line(search.python(fragile), **settings)
    assert found.archive.failed.tolist() == [True, False, False]
    with pytest.raises(ValueError, match="all of the first 3 candidates failed"):
        on_line(search.python(lambda config, key: float("nan")), **settings)


def test_a_python_function_may_return_large_numbers_and_a_single_one():
    found = on_line(search.python(lambda config, key: 2**40 + config["x"]), executor="auto", budget=12)
    x = found.archive.columns.genes.codes[:, 0]
    np.testing.assert_array_equal(found.archive.values("error"), 2.0**40 + x)

    def changing(config, key, seen=[]):  # noqa: B006
        seen.append(0)
        return {"error": 1.0} if len(seen) < 8 else {"error": 1.0, "other": 2.0}

    with pytest.raises(ValueError, match=r"returned \['error', 'other'\] where it returned \['error'\] before"):
        on_line(search.python(changing), executor="auto", cache=False)


def test_the_bar_shows_the_best(capsys):
    on_line(distance, progress=True, budget=12)
    told = capsys.readouterr().err
    assert "12 done" in told
    assert "100%" in told


def test_sharded_over_some_devices():
    mesh = jax.make_mesh((3,), ("some",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:3])
    found = on_line(distance, executor=Sharded(mesh), budget=12)
    assert found.archive.values("error").tolist() == on_line(distance, budget=12).archive.values("error").tolist()
    assert SPACE.size == float("inf")
