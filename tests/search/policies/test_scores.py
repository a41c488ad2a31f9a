"""Scores: what is added up, by the metric, by the outputs, by curvature."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.search.policies import Channels, Evaluation, Setting, kl, second_order, sweep, variant_table
from tests.search.policies import small

X, Y = small.data()
BITS = (2, 4, 8)


@pytest.fixture(scope="module")
def table():
    return variant_table(small.fn, small.params(), {"**/kernel": [Setting(bits=b) for b in BITS]}, inputs=(X,))


def loss(params, batch):
    return jnp.mean(jnp.square(small.fn(params, batch[0]) - batch[1])) + jnp.mean(small.fn(params, batch[0]))


def test_a_sweep_is_every_variant_alone(table):
    evaluation = Evaluation(table, small.evaluate, data=(X, Y))
    scores = sweep(evaluation, "loss")
    assert evaluation.evaluations == 1 + 3 * 3
    row = np.array([0, 2, 0])
    alone = small.evaluate(jc.lift(small.fn), table.tree(row), (X, Y))["loss"]
    assert scores.values[1][2] == pytest.approx(float(alone), rel=1e-4)
    assert all(own[0] == 0 and own[1] > own[2] > own[3] > 0 for own in scores.values)
    assert scores.of([[1, 2, 3]])[0] == pytest.approx(sum(own[i + 1] for i, own in enumerate(scores.values)))
    assert "2 bits" in repr(scores)
    with pytest.raises(ValueError, match=r"metric='acc' is none of what evaluate= returns: \['error', 'loss'\]"):
        sweep(evaluation, "acc")


def test_curvature_scores_are_those_of_quantize(table):
    params, sites = small.params(), jc.sites(small.fn, small.params(), X)
    fisher = jc.quantize.fisher(loss, params, [(X, Y)], sites=sites)
    method = functools.partial(jc.quantize.rtn, ranges="mse", where="**/kernel", sites=sites)
    wanted = jc.quantize.sensitivity(params, fisher, bits=BITS, method=method)
    found = second_order(table, fisher)
    np.testing.assert_allclose(np.stack(found.values)[:, 1:], wanted.values, rtol=1e-6)
    assert found.name == wanted.curvature
    with pytest.raises(ValueError, match="does not know 'a/kernel'"):
        second_order(table, jc.quantize.fisher(loss, params, [(X, Y)], where="b/kernel"))


def test_curvature_scores_units_by_what_is_dropped():
    params = small.params()
    table = variant_table(small.fn, params, {"a/bias": [Channels(1.0), Channels(0.5)]}, inputs=(X,))
    fisher = jc.quantize.fisher(loss, params, [(X, Y)], sites=jc.sites(small.fn, params, X))
    gone = np.setdiff1d(np.arange(16), table.units[0].units(1))
    wanted = sum(
        float(np.sum(np.asarray(fisher[path])[at] * np.square(np.asarray(params[path[0]]["kernel"])[at])))
        for path, at in (("a/kernel", np.s_[:, gone]), ("b/kernel", np.s_[gone]))
    )
    assert second_order(table, fisher).values[0].tolist() == [0.0, pytest.approx(wanted, rel=1e-5)]


def test_kl_is_that_of_the_predictions():
    params = {"w": jnp.array([[2.0, 0.0], [0.0, 1.0]])}
    other = {"w": jnp.array([[0.0, 0.0], [0.0, 1.0]])}

    def fn(params, x):
        return x @ params["w"]

    x = jnp.eye(2)
    score = kl(fn, params, [x])
    p, q = jax.nn.softmax(jnp.array([2.0, 0.0])), jnp.array([0.5, 0.5])
    assert float(score(fn, other)) == pytest.approx(float(jnp.sum(p * jnp.log(p / q))) / 2, rel=1e-6)
    assert float(score(fn, params)) == 0
    with pytest.raises(ValueError, match="holds no batch"):
        kl(fn, params, [])


def test_a_network_that_fails_as_it_is_is_refused(table):
    with pytest.raises(ValueError, match="of the network as it is is nan"):
        sweep(Evaluation(table, lambda apply, p: jnp.nan * jnp.sum(apply(p, X))))
