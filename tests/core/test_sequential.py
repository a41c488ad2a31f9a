"""Layer after layer: every turn sees what the turns before it did. And who beats whom on a trained model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.core.observe import observe
from jaxcompress.core.tree import materialize
from jaxcompress.prune import magnitude, sequential, sparse_sensing, sparsegpt, wanda
from tests.zoo import llama
from tests.zoo.model import arrays, data


def fn(p, x):
    return jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"] + x @ p["c"]) @ p["d"]


PARAMS = {name: arrays(seed=i, w=(8, 8))["w"] for i, name in enumerate("abcd")}
BATCHES = [data(32, 8, seed=seed) for seed in range(2)]


def moments(params, path):
    (seen,) = observe(fn, params, BATCHES, what="second_moment")[path]
    return np.asarray(seen["second_moment"])


@pytest.mark.parametrize(
    ("order", "turns"),
    [("depth", ["ac", "b", "d"]), ("together", ["abcd"]), (["d", ["a", "b"]], ["d", "ab"])],
    ids=["depth", "together", "given"],
)
def test_every_turn_observes_what_is_pruned_up_to_there(order, turns):
    seen = []

    def method(params, stats):
        for path in stats:
            np.testing.assert_allclose(stats[path][0]["second_moment"], moments(params, path), rtol=1e-4, atol=1e-5)
        seen.append("".join(sorted(stats)))
        return wanda(params, stats, sparsity=0.5)

    out = sequential(fn, PARAMS, BATCHES, method, order=order)
    assert seen == turns
    pruned = set("".join(turns))
    assert all((int((materialize(out[name]) == 0).sum()) == 32) == (name in pruned) for name in PARAMS)


def test_later_layers_make_up_for_earlier_ones():
    """The error of the whole function is smaller than with all layers fitted to the dense model."""
    method = functools.partial(sparsegpt, sparsity=0.5)
    x = jnp.concatenate(BATCHES)
    errors = {
        order: float(
            jnp.sum((fn(materialize(sequential(fn, PARAMS, BATCHES, method, order=order)), x) - fn(PARAMS, x)) ** 2)
        )
        for order in ("depth", "together")
    }
    assert errors["depth"] < errors["together"]


def test_settings_for_layers_of_other_turns_are_no_error():
    method = functools.partial(wanda, sparsity={"a": 0.25, "[bc]": 0.5, "d": 0.75})
    out = sequential(fn, PARAMS, BATCHES, method)
    assert [int((materialize(out[name]) == 0).sum()) for name in "abcd"] == [16, 32, 32, 48]


def test_errors_say_the_way_out():
    method = functools.partial(wanda, sparsity=0.5)
    with pytest.raises(ValueError, match="give a list, not an iterator"):
        sequential(fn, PARAMS, iter(BATCHES), method)
    with pytest.raises(ValueError, match="gave no batch"):
        sequential(fn, PARAMS, [], method)
    with pytest.raises(ValueError, match="where='e' fits no contracted weight"):
        sequential(fn, PARAMS, BATCHES, method, where="e")
    with pytest.raises(ValueError, match="the turn 'e' of order= fits no chosen weight"):
        sequential(fn, PARAMS, BATCHES, method, order=["a", "e"])
    with pytest.raises(ValueError, match="order must be 'depth', 'together' or a list"):
        sequential(fn, PARAMS, BATCHES, method, order="depths")


@pytest.fixture(scope="module")
def first_layer(data_folder):
    """The first layer of the trained Llama, its matrices as (in, out), and what it makes of 4 windows of text."""
    del data_folder
    config, flat = llama.trained()
    params = {name: flat[name][0].T for name in llama.MATRICES}
    tokens = jnp.asarray(llama.windows(4)[:, :-1])
    x = flat["emb"][tokens]

    def layer(p, x):
        h = llama.rms_norm(x, flat["att_norm"][0])
        q, k, v = (
            llama.split_heads(h @ p[name], config[heads])
            for name, heads in (("wq", "heads"), ("wk", "kv_heads"), ("wv", "kv_heads"))
        )
        x = x + llama.attend(q, k, v).reshape(x.shape) @ p["wo"]
        h = llama.rms_norm(x, flat["ffn_norm"][0])
        return x + (jax.nn.silu(h @ p["w1"]) * (h @ p["w3"])) @ p["w2"]

    return params, observe(layer, params, [x], what="second_moment")


CHOSEN = ("wq", "w2")  # one shape more is two programs more


@pytest.mark.slow
@pytest.mark.parametrize("pattern", [{"sparsity": 0.5}, {"n": 2, "m": 4}], ids=["50%", "2:4"])
def test_who_beats_whom_on_real_weights(first_layer, pattern):
    """Output errors, relative to the outputs, of matrices of a trained layer."""
    params, stats = first_layer

    def errors(method, *args, **settings):
        pruned, found = method(params, *args, **settings, where=CHOSEN), []
        for path in CHOSEN:
            w = np.float64(params[path])
            s, lost = np.float64(stats[path][0]["second_moment"]), w - np.float64(materialize(pruned[path]))
            found.append(np.trace(lost.T @ s @ lost) / np.trace(w.T @ s @ w))
        return np.array(found)

    ours = errors(sparsegpt, stats, **pattern)
    ranked = errors(wanda, stats, **pattern)
    assert (ours < ranked).all()
    if "sparsity" in pattern:
        plain = errors(magnitude, **pattern)
        assert ranked.sum() < plain.sum()  # not each: as many per output is a stricter pattern than as many per layer
        fixed, moved = (errors(sparse_sensing, stats, **pattern, recovery=name) for name in ("fit", "iht"))
        assert (moved < fixed).all()
        assert (fixed < plain).all()
