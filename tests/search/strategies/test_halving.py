"""Successive halving and Hyperband, held against the papers' tables and a plain loop in Python."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcompress.search import Choice, Fitness, Float, Space, Strategy
from jaxcompress.search.strategies.fidelity_correlation import fidelity_correlation
from jaxcompress.search.strategies.hyperband import Hyperband
from jaxcompress.search.strategies.successive_halving import SuccessiveHalving

LINE = Space({"x": Float(0.0, 1.0)})
HALVING = SuccessiveHalving(candidates=8, batch=4, record=2)
BANDS = Hyperband(resource=9, batch=4, record=2)


def noisy(genes, fidelity):
    """A loss ``x`` behind a disturbance that fades with effort: a function of the candidate, so it can be redone."""
    x = genes.values[:, 0]
    return x + (1.0 - fidelity) * 0.3 * jnp.sin(1e3 * x)


def searched(strategy, key, questions, loss=noisy, seeds=None):
    """The last state, and of every question the candidates, fidelities and losses."""

    def turn(state, _):
        candidates, state = strategy.ask(LINE, state)
        losses = loss(candidates.genes, candidates.fidelity)
        state = strategy.tell(LINE, state, candidates, Fitness(losses[:, None], jnp.zeros_like(losses)))
        return state, (candidates.genes.values[:, 0], candidates.fidelity, losses)

    return lax.scan(turn, strategy.init(LINE, key, seeds=seeds), length=questions)


def test_brackets_are_those_of_the_papers():
    """Li et al., 2017, table 1: R = 81, eta = 3; Jamieson and Talwalkar, 2016, figure 3: 8 arms."""
    bands = Hyperband(resource=81, eta=3)
    table = [
        list(zip(bracket.sizes, [round(81 * bands.fidelities[level]) for level in bracket.levels], strict=True))
        for bracket in bands.brackets
    ]
    assert table == [
        [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
        [(34, 3), (11, 9), (3, 27), (1, 81)],
        [(15, 9), (5, 27), (1, 81)],
        [(8, 27), (2, 81)],
        [(5, 81)],
    ]
    assert len(Hyperband(resource=243).brackets) == 6
    assert HALVING.brackets[0].sizes == (8, 4, 2)
    np.testing.assert_allclose(HALVING.fidelities, np.array([1 / 8, 1 / 8 + 1 / 4, 7 / 8]) / (7 / 8))
    assert isinstance(HALVING, Strategy)
    assert isinstance(bands, Strategy)


@pytest.mark.parametrize("strategy", [HALVING, BANDS], ids=["halving", "hyperband"])
def test_a_round_is_that_of_a_plain_loop(strategy):
    """Who is evaluated at which fidelity, by an oracle that knows only the first rungs and the losses."""
    plan = strategy.schedule
    assert sorted(plan.asks[plan.asks >= 0]) == list(range(plan.jobs))
    _, (x, fidelity, _) = jax.jit(lambda key: searched(strategy, key, 2 * len(plan.asks)))(jax.random.key(0))
    x, fidelity = np.asarray(x), np.asarray(fidelity)
    for turn in range(2):
        rows = slice(turn * len(plan.asks), (turn + 1) * len(plan.asks))
        asked = {int(job): (x[rows].ravel()[i], fidelity[rows].ravel()[i]) for i, job in enumerate(plan.asks.ravel())}
        for place in plan.places:
            found = [asked[job] for job in place.jobs]
            np.testing.assert_allclose([f for _, f in found], strategy.fidelities[place.level], rtol=1e-6)
            if place.rung:
                before = np.array([asked[job] for job in place.before], np.float32)
                losses = before[:, 0] + (1 - before[:, 1]) * 0.3 * np.sin(np.float32(1e3) * before[:, 0])
                best = before[np.argsort(losses, kind="stable")[: len(place.jobs)], 0]
                np.testing.assert_array_equal([value for value, _ in found], best)
    first = [x.reshape(2, -1)[turn][np.isin(plan.asks.ravel(), plan.first)] for turn in range(2)]
    assert len(np.unique(np.concatenate(first))) == 2 * len(plan.first)


def test_empty_slots_repeat_the_first_at_the_least_fidelity():
    plan = BANDS.schedule
    _, (x, fidelity, _) = jax.jit(lambda key: searched(BANDS, key, len(plan.asks)))(jax.random.key(0))
    empty = plan.asks < 0
    assert plan.empty == empty.sum() > 0
    assert (np.asarray(fidelity)[empty] == np.float32(BANDS.fidelities[0])).all()
    assert (np.asarray(x) == np.asarray(x)[:, :1])[empty].all()


def test_it_beats_random_search_of_the_same_effort_on_average():
    """A whole search for each of 200 seeds, vmapped."""
    strategy = SuccessiveHalving(candidates=64, batch=8)
    keys = jax.random.split(jax.random.key(1), 200)
    questions = len(strategy.schedule.asks)
    _, (x, fidelity, _) = jax.jit(jax.vmap(lambda key: searched(strategy, key, questions)))(keys)
    final = jnp.where(fidelity == 1.0, x, jnp.inf).min(axis=(1, 2))
    effort = float(fidelity.sum(axis=(1, 2)).mean())
    random = jax.random.uniform(jax.random.key(2), (200, int(np.ceil(effort)))).min(axis=1)
    assert effort < 32
    assert final.mean() < 0.7 * random.mean()


def test_failed_and_infeasible_candidates_do_not_climb():
    def failing(genes, fidelity):
        return jnp.where(genes.values[:, 0] < 0.5, jnp.nan, noisy(genes, fidelity))

    plan = HALVING.schedule
    _, (x, fidelity, _) = jax.jit(lambda key: searched(HALVING, key, len(plan.asks), failing))(jax.random.key(3))
    x, fidelity = np.asarray(x).ravel(), np.asarray(fidelity).ravel()
    assert (x[fidelity < 0.2] < 0.5).any()
    assert (x[fidelity > 0.9] >= 0.5).all()


def test_seeds_are_asked_for_first():
    seeds = LINE.encode([{"x": 0.25}, {"x": 0.75}])
    ask = jax.jit(lambda key, seeds: HALVING.ask(LINE, HALVING.init(LINE, key, seeds=seeds))[0])
    candidates = ask(jax.random.key(0), seeds)
    np.testing.assert_allclose(candidates.genes.values[:2, 0], [0.25, 0.75])
    with pytest.raises(ValueError, match="seeds must be genes of this space"):
        HALVING.init(LINE, jax.random.key(0), seeds=jax.tree.map(lambda row: row[:, :0], seeds))
    with pytest.raises(ValueError, match="begins with 8 candidates in a round and cannot take 9 seeds"):
        HALVING.init(LINE, jax.random.key(0), seeds=LINE.sample(jax.random.key(0), 9))


def test_small_spaces_are_exhausted_before_anything_is_repeated():
    space = Space({"a": Choice(tuple(range(4))), "b": Choice(("left", "right"))})
    genes = jax.jit(lambda key: HALVING.init(space, key).genes)(jax.random.key(5))
    candidates = genes.codes[HALVING.schedule.first]
    assert len(np.unique(np.asarray(candidates), axis=0)) == 8


def test_lowers_for_every_platform():
    function = jax.jit(lambda key: searched(HALVING, key, 2)[1])
    exported = jax.export.export(function, platforms=("cpu", "cuda", "tpu"))(jax.random.key(0))
    assert exported.platforms == ("cpu", "cuda", "tpu")


def test_correlation_counts_and_ranks():
    """By hand: ranks 1 2 3 4 against 2 1 3 4 have Spearman 1 - 6*2/60 = .8, Kendall (5 - 1)/6; failed are left out."""
    losses = np.array([[1, 20, 7], [2, 10, np.nan], [3, 30, 5], [4, 40, 6], [5, np.inf, np.nan]], float)
    report = fidelity_correlation(losses, (0.25, 0.5, 1.0))
    pair = report.of(0.25, 0.5)
    assert (pair.count, pair.spearman, pair.kendall) == (4, pytest.approx(0.8), pytest.approx(2 / 3))
    assert report.of(0.25, 1.0).count == 3
    with pytest.raises(KeyError, match="there are"):
        report.of(0.1, 1.0)


def test_correlation_of_a_search():
    """Where effort changes nothing ranks agree perfectly; counted are those who climbed in the rounds recorded."""
    questions = 3 * len(HALVING.schedule.asks)

    def undisturbed(genes, fidelity):
        return genes.values[:, 0] * (1.0 + fidelity)

    state, _ = jax.jit(lambda key: searched(HALVING, key, questions, undisturbed))(jax.random.key(7))
    report = HALVING.correlation(state)
    assert [pair.count for pair in report.pairs] == [2 * 4, 2 * 2, 2 * 2]
    assert all(pair.spearman == pytest.approx(1.0) == pair.kendall for pair in report.pairs)
    assert "Spearman" in str(report)
    assert "<table>" in report._repr_html_()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"candidates": 1}, r"SuccessiveHalving\(candidates=\) must be an integer of at least 2, got 1"),
        ({"eta": 1.5}, r"SuccessiveHalving\(eta=\) must be an integer of at least 2, got 1.5"),
        ({"batch": 0}, r"SuccessiveHalving\(batch=\) must be an integer of at least 1, got 0"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        SuccessiveHalving(**settings)


def test_bad_resource():
    with pytest.raises(ValueError, match=r"Hyperband\(eta=4\) must not be above resource=3"):
        Hyperband(resource=3, eta=4)
