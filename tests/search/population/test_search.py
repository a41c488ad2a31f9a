"""Populations inside of a search: trained and measured candidates, at several fidelities."""

from functools import partial

import jax
import numpy as np

from jaxcompress import search
from jaxcompress.search import population
from tests.search.population.problems import MLP, data_for, error, training


def test_successive_halving_trains_candidates_longer_and_longer():
    layers = search.Repeated({"width": search.IntRange(1, 6)}, times=search.IntRange(1, 2))
    space = search.Space({"layers": layers, "rate": search.LogFloat(0.01, 0.5)})
    data = data_for(MLP)
    evaluate = population.Evaluation(training(MLP), partial(error, MLP))
    strategy = search.SuccessiveHalving(candidates=8, batch=4)
    questions = len(strategy.schedule.asks)
    state, history = search.scan(
        space,
        evaluate,
        strategy,
        jax.random.key(0),
        generations=questions,
        objectives=("loss",),
        data={"train": data, "valid": data},
    )
    fidelity = np.asarray(history.fidelity).ravel()
    np.testing.assert_allclose(np.unique(fidelity), strategy.fidelities, rtol=1e-6)
    assert [pair.count for pair in strategy.correlation(state).pairs] == [4, 2, 2]
    loss = np.asarray(history.objectives).ravel()
    assert np.isfinite(loss).all()
    assert loss[fidelity == 1.0].mean() < loss[fidelity < 0.2].mean()
