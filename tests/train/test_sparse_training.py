"""RigL, SET and static random masks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcompress as jc
from jaxcompress.prune import Masked, finish, masks_of
from jaxcompress.train import rigl, sparse_evolutionary, static_sparse

pytestmark = pytest.mark.standard_promotion

KEY = jax.random.key(3)
METHODS = {
    "rigl": lambda tx, **more: rigl(tx, **{"sparsity": 0.75, "end_step": 9, "every": 3, "key": KEY} | more),
    "set": lambda tx, **more: sparse_evolutionary(
        tx, **{"sparsity": 0.75, "end_step": 9, "every": 3, "key": KEY} | more
    ),
    "static": lambda tx, **more: static_sparse(tx, **{"sparsity": 0.75, "key": KEY} | more),
}


def step_of(tx):
    @jax.jit
    def step(params, state, gradient):
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, updates

    return step


def golden(schedule="cosine", **more):
    """A tree of one leaf under RigL that rewires at the second call, on masks of my choice."""
    tx = rigl(
        optax.trace(0.5), sparsity=0.5, end_step=4, every=1, drop_fraction=0.5, key=KEY, schedule=schedule, **more
    )
    params = {"w": jnp.array([[4.0, -1.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0]])}
    state = tx.init(params)
    masks = state.masks._replace(masks={"w": params["w"] != 0})
    inner = optax.TraceState({"w": jnp.full((2, 4), 10.0)})
    return step_of(tx), params, state._replace(masks=masks, inner=inner, step=jnp.int32(1))


def test_a_rewiring_is_algorithm_1_of_rigl():
    step, params, state = golden("constant")
    # 4 active, half of them move: -1 and 2 go. The largest |gradient| outside {4, 3}: 7 (new), 6 (just dropped).
    gradient = {"w": jnp.array([[9.0, 6.0, 1.0, 9.0], [5.0, -7.0, 2.0, 0.0]])}
    after, state, _ = step(params, state, gradient)
    assert after["w"].tolist() == [[4, -1, 0, 3], [0, 0, 0, 0]]  # no gradient step; what grew starts at zero
    assert masks_of(state)["w"].tolist() == [[True, True, False, True], [False, True, False, False]]
    # Moments: as they were where the weight stayed, as at the start where it grew or went.
    assert state.inner.trace["w"].tolist() == [[10, 10, 0, 10], [0, 0, 0, 0]]
    assert state.step == 2


def test_the_cosine_rate_anneals_to_zero():
    step, params, state = golden()
    gradient = {"w": jnp.array([[0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0]])}
    moved = []
    for at in (1, 2, 3):
        _, after, _ = step(params, state._replace(step=jnp.int32(at)), gradient)
        moved.append(int((masks_of(after)["w"] & ~state.masks.masks["w"]).sum()))
    rates = [0.25 * (1 + np.cos(np.pi * t / 4)) for t in (1, 2, 3)]  # of 4 active: 1.71, 1, 0.29
    assert moved == [round(4 * rate) for rate in rates] == [2, 1, 0]
    _, after, updates = step(params, state._replace(step=jnp.int32(4)), gradient)  # end_step: a gradient step again
    assert masks_of(after)["w"].tolist() == state.masks.masks["w"].tolist()
    assert updates["w"].tolist() == [[5, 5, 5, 5], [0, 0, 0, 0]]  # momentum 0.5 * 10, nothing where the mask drops


def test_ties_grow_at_the_lower_index():
    step, params, state = golden("constant")
    _, state, _ = step(params, state, jax.tree.map(jnp.zeros_like, params))
    assert masks_of(state)["w"].tolist() == [[True, True, True, True], [False] * 4]


def random_tree(seed=0):
    draw = np.random.default_rng(seed).normal
    shapes = {"a": (6, 8), "b": (8, 6), "c": (4, 3, 5), "bias": (8,)}
    return {name: jnp.asarray(draw(size=shape), jnp.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("method", METHODS)
def test_counts_never_change_and_dropped_weights_are_zero(method, compilations):
    tx = METHODS[method](optax.adam(1e-2), allocation="uniform")
    params, step = random_tree(), step_of(tx)
    state = tx.init(params)
    begin = masks_of(state)
    assert {path: int(mask.sum()) for path, mask in begin.items()} == {"a": 12, "b": 12, "c": 15}
    for i in range(11):
        before = masks_of(state)
        params, state, updates = step(params, state, random_tree(i + 1))
        now = masks_of(state)
        for path, mask in now.items():
            assert int(mask.sum()) == int(begin[path].sum())
            assert not np.asarray(params[path])[~np.asarray(mask)].any()
            if method == "static" or i not in (3, 6):
                np.testing.assert_array_equal(mask, before[path])
        still = method != "static" and i in (3, 6)
        assert bool((updates["bias"] == 0).all()) == still
    changed = any((now[path] != begin[path]).any() for path in now)
    assert changed == (method != "static")
    assert compilations("step") == 1
    finished = finish(params, state)
    assert isinstance(finished["a"], Masked)
    jax.tree.map(np.testing.assert_array_equal, jc.materialize(finished), params)


def test_masks_depend_on_the_key_alone():
    params = random_tree()
    masks = {name: masks_of(method(optax.sgd(0.1)).init(params)) for name, method in METHODS.items()}
    for path, mask in masks["static"].items():
        np.testing.assert_array_equal(mask, masks["rigl"][path])
        np.testing.assert_array_equal(mask, masks["set"][path])
    other = masks_of(METHODS["static"](optax.sgd(0.1), key=jax.random.key(4)).init(params))
    assert any((other[path] != masks["static"][path]).any() for path in other)


def test_set_grows_anywhere_with_equal_chance():
    """Of 16 inactive entries and the 4 just dropped, 4 grow: each with probability 1/5."""
    tx = sparse_evolutionary(optax.sgd(0.1), sparsity=0.5, end_step=10, every=1, drop_fraction=0.25, key=KEY)
    params = {"w": jnp.where(jnp.arange(32) < 16, jnp.arange(32.0) + 1, 0)[None]}
    state = tx.init(params)
    state = state._replace(step=jnp.int32(1), masks=state.masks._replace(masks={"w": params["w"] != 0}))
    update = jax.jit(jax.vmap(lambda key: tx.update(params, state._replace(key=key), params)[1].masks.masks["w"][0]))
    grown = update(jax.random.key_data(jax.random.split(KEY, 4000))).mean(0)
    assert (grown[4:16] == 1).all()  # the twelve largest
    others = np.concatenate([grown[:4], grown[16:]])
    np.testing.assert_allclose(others, 0.2, atol=5 * np.sqrt(0.2 * 0.8 / 4000))  # 5 standard deviations, 20 entries


def test_erk_and_globs_share_out_the_sparsity():
    params = {"wide": jnp.ones((40, 40)), "thin": jnp.ones((40, 4)), "bias": jnp.ones(4)}
    kept = {p: int(m.sum()) for p, m in masks_of(METHODS["rigl"](optax.sgd(0.1)).init(params)).items()}
    assert sum(kept.values()) == 440  # a quarter of 1760, shared as 80 : 44 (sums of the dimensions), thin 156 of 160
    assert kept == {"wide": 284, "thin": 156}
    globs = METHODS["set"](optax.sgd(0.1), sparsity={"th*": 0.5})
    assert {p: int(m.sum()) for p, m in masks_of(globs.init(params)).items()} == {"thin": 80}


def test_layers_of_a_stack_are_rewired_one_by_one():
    weights = jnp.asarray(np.random.default_rng(2).normal(size=(3, 4, 4)), jnp.float32)

    def fn(p, x):
        return jax.lax.scan(lambda h, w: (h @ w, None), x, p["layers"])[0]

    sites = jc.sites(fn, {"layers": weights}, jnp.ones((2, 4)))
    tx = rigl(
        optax.sgd(0.1), sparsity=0.5, end_step=9, every=1, drop_fraction=1.0, schedule="constant", key=KEY, sites=sites
    )
    params, step = {"layers": weights}, step_of(tx)
    state = tx.init(params)
    gradient = {"layers": jnp.tile(jnp.arange(16.0).reshape(1, 4, 4), (3, 1, 1))}
    for _ in range(2):
        params, state, _ = step(params, state, gradient)
    np.testing.assert_array_equal(masks_of(state)["layers"], gradient["layers"] >= 8)  # 8 in every layer


@pytest.mark.slow
def test_rigl_beats_static_random_masks():
    """A linear teacher that reads 8 of 64 inputs: RigL finds them, random masks miss most of them."""
    teacher = jnp.zeros((64, 4)).at[jnp.arange(8) * 7].set(1.0)

    def final_loss(tx):
        @jax.jit
        def train(params, state):
            def step(carry, key):
                params, state = carry
                x = jax.random.normal(key, (32, 64))
                loss, gradient = jax.value_and_grad(lambda p: jnp.mean((x @ p["w"] - x @ teacher) ** 2))(params)
                updates, state = tx.update(gradient, state, params)
                return (optax.apply_updates(params, updates), state), loss

            return jax.lax.scan(step, (params, state), jax.random.split(KEY, 400))[1][-50:].mean()

        params = {"w": jax.random.normal(KEY, (64, 4)) * 0.1}
        return float(train(params, tx.init(params)))

    setting = {"sparsity": 0.8, "key": jax.random.key(9)}
    moving = {"end_step": 300, "every": 20, "drop_fraction": 0.5}
    grown = final_loss(rigl(optax.adam(3e-2), **setting, **moving))
    evolved = final_loss(sparse_evolutionary(optax.adam(3e-2), **setting, **moving, schedule="cosine"))
    static = final_loss(static_sparse(optax.adam(3e-2), **setting))
    assert grown < 0.1 * static  # 51 connections, 32 are needed: found, or not (static keeps about a fifth of them)
    assert grown < evolved < static


def test_errors_name_the_way_out():
    given = {"sparsity": 0.5, "end_step": 9, "key": KEY}
    for wrong, message in (
        ({"sparsity": 5}, r"\[0, 1\], got 5"),
        ({"every": 0}, "every must be at least 1, got 0"),
        ({"drop_fraction": 1.5}, "drop_fraction must lie in"),
        ({"schedule": "linear"}, "schedule must be 'cosine' or 'constant', got 'linear'"),
        ({"allocation": "lamp"}, "allocation must be 'erk' or 'uniform', got 'lamp'"),
        ({"end_step": -1}, "end_step must be 0 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            rigl(optax.sgd(0.1), **given | wrong)
    tx = rigl(optax.sgd(0.1), **given)
    with pytest.raises(ValueError, match="rigl needs the parameters"):
        tx.update(random_tree(), tx.init(random_tree()))
    with pytest.raises(ValueError, match="matches no leaf"):
        rigl(optax.sgd(0.1), **given, where="nowhere").init(random_tree())
    with pytest.raises(TypeError, match="rigl prunes plain arrays, 'w' is compressed"):
        tx.init({"w": Masked.create(jnp.ones((2, 2)), jnp.ones((2, 2), bool))})
