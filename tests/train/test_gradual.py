import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcompress as jc
from jaxcompress.prune import Masked, finish, masks_of
from jaxcompress.train import gradual_pruning

pytestmark = pytest.mark.standard_promotion

WEIGHTS = ("inner/kernel", "outer/kernel")


def make_params(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    return {
        name: {"kernel": jnp.asarray(rng.normal(size=(8, 8)), dtype), "bias": jnp.zeros(8, dtype)}
        for name in ("inner", "outer")
    }


def loss(params, x):
    hidden = jnp.tanh(x @ params["inner"]["kernel"] + params["inner"]["bias"][None])
    return jnp.mean((hidden @ params["outer"]["kernel"] + params["outer"]["bias"][None] - 1) ** 2)


def train(tx, params, steps, on_step=lambda params, state: None):
    traces = []

    @jax.jit
    def step(params, state, x):
        traces.append(None)
        updates, state = tx.update(jax.grad(loss)(params, x), state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    rng = np.random.default_rng(1)
    for _ in range(steps):
        x = jnp.asarray(rng.normal(size=(16, 8)), params["inner"]["kernel"].dtype)
        params, state = step(params, state, x)
        on_step(params, state)
    assert len(traces) == 1  # no recompilation: masks and schedule are data
    return params, state


def zeros(params):
    return {name: int((params[name]["kernel"] == 0).sum()) for name in params}


SETTING = {"sparsity": 0.75, "begin_step": 1, "end_step": 4, "every": 1}
HALVES = {"inner": "inner", "outer": "outer"}


def pruned(tx):
    return gradual_pruning(tx, **SETTING)


OPTIMIZERS = {
    "momentum": lambda: pruned(optax.sgd(0.1, momentum=0.9, nesterov=True)),
    "adam": lambda: pruned(optax.adam(1e-2)),
    "adamw": lambda: pruned(optax.adamw(1e-2, weight_decay=0.1)),
    "lion": lambda: pruned(optax.lion(1e-2)),
    "adafactor": lambda: pruned(optax.adafactor(1e-2, min_dim_size_to_factor=4)),
    "muon": lambda: pruned(optax.contrib.muon(1e-2)),
    "inject_hyperparams inside": lambda: pruned(optax.inject_hyperparams(optax.adam)(learning_rate=1e-2)),
    "inject_hyperparams outside": lambda: optax.inject_hyperparams(lambda rate: pruned(optax.adam(rate)))(rate=1e-2),
    "MultiSteps inside": lambda: pruned(optax.MultiSteps(optax.adam(1e-2), 2)),
    "MultiSteps outside": lambda: optax.MultiSteps(pruned(optax.adam(1e-2)), 2),
    "masked outside": lambda: optax.masked(pruned(optax.adam(1e-2)), {"inner": True, "outer": True}),
    "masked inside": lambda: pruned(optax.masked(optax.adam(1e-2), {"inner": True, "outer": False})),
    "chain": lambda: optax.chain(optax.clip_by_global_norm(1.0), pruned(optax.adam(1e-2))),
    "partition": lambda: optax.partition(
        {n: pruned(optax.adam(r)) for n, r in (("inner", 1e-2), ("outer", 1e-3))}, HALVES
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_exact_zeros_under_every_optimizer(name):
    params, state = train(OPTIMIZERS[name](), make_params(), 12)
    assert zeros(params) == {"inner": 48, "outer": 48}  # 75 % of 64
    assert sorted(masks_of(state)) == list(WEIGHTS)
    for path, mask in masks_of(state).items():
        kernel = params[path.split("/")[0]]["kernel"]
        np.testing.assert_array_equal(mask, kernel != 0)
        assert not np.signbit(np.asarray(kernel)[~np.asarray(mask)]).any()
    finished = finish(params, state)
    assert isinstance(finished["inner"]["kernel"], Masked)
    assert finished["inner"]["bias"] is params["inner"]["bias"]
    jax.tree.map(np.testing.assert_array_equal, jc.materialize(finished), params)


def test_schedule_is_equation_1_of_zhu_and_gupta():
    seen = []
    tx = gradual_pruning(
        optax.sgd(1e-3), sparsity=0.8, initial_sparsity=0.2, begin_step=2, end_step=8, every=3, where="inner/kernel"
    )
    train(tx, make_params(), 11, lambda params, _: seen.append(zeros(params)["inner"]))
    halfway = 0.8 + (0.2 - 0.8) * (1 - 3 / 6) ** 3  # 0.725 at t = 5
    first, second, last = (round(s * 64) for s in (0.2, halfway, 0.8))
    assert (first, second, last) == (13, 46, 51)
    assert seen == [0, 0, first, first, first, second, second, second, last, last, last]


def test_the_last_step_reaches_the_sparsity_though_every_does_not_divide():
    tx = gradual_pruning(optax.sgd(1e-3), sparsity=0.5, begin_step=0, end_step=4, every=3)
    assert zeros(train(tx, make_params(), 5)[0]) == {"inner": 32, "outer": 32}


def test_masks_are_those_of_the_largest_magnitudes():
    params = make_params()
    tx = gradual_pruning(optax.sgd(0.0), sparsity=0.5, begin_step=0, end_step=0)
    after, _ = train(tx, params, 1)
    for name in params:
        kernel = np.asarray(params[name]["kernel"])
        np.testing.assert_array_equal(after[name]["kernel"], np.where(abs(kernel) > np.median(abs(kernel)), kernel, 0))


def test_global_scope_and_globs():
    together, _ = train(gradual_pruning(optax.sgd(1e-3), **SETTING, scope="global"), make_params(), 6)
    assert sum(zeros(together).values()) == 96
    globs = {"inner/*": 0.5, "**/kernel": 0.25}
    by_glob, _ = train(gradual_pruning(optax.sgd(1e-3), **SETTING | {"sparsity": globs}), make_params(), 6)
    assert zeros(by_glob) == {"inner": 32, "outer": 16}
    some, _ = train(gradual_pruning(optax.sgd(1e-3), **SETTING | {"sparsity": {"outer/*": 0.5}}), make_params(), 6)
    assert zeros(some) == {"inner": 0, "outer": 32}


def test_half_precision_parameters_reach_exact_zero():
    params, _ = train(pruned(optax.adamw(1e-2)), make_params(jnp.bfloat16), 8)
    assert zeros(params) == {"inner": 48, "outer": 48}
    assert params["inner"]["kernel"].dtype == jnp.bfloat16


def test_updates_narrower_than_the_parameters_do_not_round_the_zero():
    tx = gradual_pruning(optax.stateless(lambda g, p: jax.tree.map(lambda x: x.astype(jnp.bfloat16), g)), **SETTING)
    params, _ = train(tx, make_params(), 8)
    assert zeros(params) == {"inner": 48, "outer": 48}


def test_a_dropped_weight_can_return_at_the_next_choice():
    params = {"w": jnp.array([[1.0, 0.5, 0.1, 0.2]])}
    tx = gradual_pruning(optax.sgd(1.0), sparsity=0.5, initial_sparsity=0.5, begin_step=0, end_step=1, every=1)
    state = tx.init(params)
    update = jax.jit(tx.update)
    for gradient, expected in (([0.0, 0.0, 0.0, 0.0], [1.0, 0.5, 0, 0]), ([0.0, 0.0, -9.0, 0.0], [1.0, 0, 9.0, 0])):
        updates, state = update({"w": jnp.array([gradient])}, state, params)
        params = optax.apply_updates(params, updates)
        assert params["w"].tolist() == [expected]


def test_stacked_layers_are_pruned_one_by_one():
    weights = jnp.asarray(
        np.random.default_rng(2).normal(size=(3, 4, 4)) * np.array([[[1]], [[9]], [[99]]]), jnp.float32
    )

    def fn(p, x):
        return jax.lax.scan(lambda h, w: (h @ w, None), x, p["layers"])[0]

    sites = jc.sites(fn, {"layers": weights}, jnp.ones((2, 4)))
    tx = gradual_pruning(optax.sgd(0.1), sparsity=0.5, begin_step=0, end_step=0, sites=sites)
    params = {"layers": weights}
    updates, _ = jax.jit(tx.update)(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    assert (optax.apply_updates(params, updates)["layers"] != 0).sum((1, 2)).tolist() == [8, 8, 8]


def test_state_survives_a_checkpoint_and_the_placing_of_parameters():
    tx = optax.chain(optax.clip(1.0), pruned(optax.adam(1e-2)))
    params, state = train(tx, make_params(), 6)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]  # what a checkpoint writes
    restored = jax.tree.unflatten(jax.tree.structure(tx.init(params)), leaves)
    assert {leaf.dtype for leaf in masks_of(restored).values()} == {np.dtype(bool)}
    jax.tree.map(np.testing.assert_array_equal, finish(params, restored), finish(params, state))

    specs = jax.tree.map(lambda leaf: f"spec of rank {leaf.ndim}", params)

    def hole(node):
        return isinstance(node, optax.MaskedNode)

    placed = optax.tree_map_params(
        tx,
        lambda leaf, spec: leaf if hole(leaf) else spec,
        state,
        specs,
        is_leaf=hole,
        transform_non_params=lambda _: None,
    )
    assert masks_of(placed) == dict.fromkeys(WEIGHTS, "spec of rank 2")


def test_abstract_init_vmap_and_ensembles():
    tx = pruned(optax.adam(1e-2))
    shapes = jax.eval_shape(tx.init, make_params())
    assert shapes.masks.masks["inner"]["kernel"].shape == (8, 8)
    ensemble = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), make_params())
    state = jax.jit(jax.vmap(tx.init))(ensemble)
    update = jax.jit(jax.vmap(tx.update))
    for _ in range(6):
        updates, state = update(jax.tree.map(jnp.ones_like, ensemble), state, ensemble)
        ensemble = optax.apply_updates(ensemble, updates)
    assert (ensemble["inner"]["kernel"] == 0).sum((1, 2)).tolist() == [48, 48]


def test_errors_name_the_way_out():
    with pytest.raises(ValueError, match="begin_step <= end_step, got 5 and 3"):
        gradual_pruning(optax.sgd(0.1), sparsity=0.5, begin_step=5, end_step=3)
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        gradual_pruning(optax.sgd(0.1), sparsity=0.5, begin_step=0, end_step=3, every=0)
    with pytest.raises(ValueError, match=r"\[0, 1\], got 90"):
        gradual_pruning(optax.sgd(0.1), sparsity=90, begin_step=0, end_step=3)
    with pytest.raises(ValueError, match="scope='layer'"):
        gradual_pruning(optax.sgd(0.1), sparsity={"w": 0.5}, begin_step=0, end_step=3, scope="global")
    with pytest.raises(ValueError, match="scope must be 'layer' or 'global', got 'model'"):
        gradual_pruning(optax.sgd(0.1), **SETTING, scope="model")
    with pytest.raises(ValueError, match="matches no leaf"):
        gradual_pruning(optax.sgd(0.1), **SETTING, where="nowhere").init(make_params())
    tx = pruned(optax.sgd(0.1))
    state = tx.init(make_params())
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(make_params(), state)
    with pytest.raises(TypeError, match="'w' is compressed"):
        pruned(optax.sgd(0.1)).init({"w": Masked.create(jnp.ones((2, 2)), jnp.ones((2, 2), bool))})
    with pytest.raises(ValueError, match="holds no masks"):
        finish(make_params(), optax.adam(0.1).init(make_params()))
    with pytest.raises(KeyError, match="no leaf at 'inner/kernel'"):
        finish({"params": make_params()}, pruned(optax.sgd(0.1)).init(make_params()))
