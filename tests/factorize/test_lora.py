import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState

from jaxcompress.artifact import load, save
from jaxcompress.core.explain import explain
from jaxcompress.core.leaf import is_compressed
from jaxcompress.core.lift import lift
from jaxcompress.core.sites import sites
from jaxcompress.core.tree import materialize, merge, split_trainable
from jaxcompress.factorize import Lora, LowRank, is_lora, lora, merge_lora, svd
from jaxcompress.prune import Masked, magnitude
from jaxcompress.quantize import RTN, rtn
from tests.zoo import ZOO
from tests.zoo.model import arrays, data

KEY = jax.random.key(0)


def moved(params, scale=0.1):
    """The tree after some training: deltas that are not zero any more."""
    trainable, frozen = split_trainable(params, where=is_lora)
    noisy = jax.tree.map(lambda a: a + scale * data(*a.shape, seed=a.size).astype(a.dtype), trainable)
    return merge(noisy, frozen)


def test_dense_array_by_hand():
    """W + alpha / rank * B A of the paper, in the transposed notation ``base + scaling * u @ v``."""
    base, u, v = (np.asarray(data(*shape, seed=i), np.float64) for i, shape in enumerate([(8, 6), (8, 2), (2, 6)]))
    delta = LowRank.create(jnp.asarray(u, jnp.float32), jnp.asarray(v, jnp.float32))
    leaf = Lora.create(jnp.asarray(base, jnp.float32), delta, 4 / 2)
    np.testing.assert_allclose(leaf.materialize(), base + 2 * u @ v, rtol=1e-5, atol=1e-5)
    assert leaf.stored_bits == 32 * (48 + 16 + 12)


def test_fields_are_checked():
    delta = LowRank.create(jnp.ones((4, 1)), jnp.ones((1, 3)))
    with pytest.raises(TypeError, match="int32"):
        Lora.create(jnp.ones((4, 3), jnp.int32), delta)
    with pytest.raises(ValueError, match=r"\(4, 2\) and \(4, 3\)"):
        Lora.create(jnp.ones((4, 2)), delta)


@pytest.mark.parametrize(
    "name", ["linen_dense_bf16_params", "conv_same", "attention_self", "transform_nn_scan", "plain_transposed"]
)
def test_nothing_changes_at_first_and_the_law_holds_later(name):
    """Any kernel, over int8: outputs are those of the base before training, of the dense sum after it."""
    model = ZOO[name].model
    found = sites(model.fn, model.params, *model.inputs, **model.kwargs)
    base = rtn(model.params, bits=8, sites=found)
    adapted = lora(base, rank=1, alpha=2, key=KEY, sites=found)
    run = jax.jit(lambda params: lift(model.fn)(params, *model.inputs, **model.kwargs))
    top = float(jnp.abs(run(base)).max())
    np.testing.assert_allclose(run(adapted), run(base), atol=1e-6 * top, rtol=0)  # the same sums, plus zeros
    after = moved(adapted)
    dense = jax.jit(lambda params: model.fn(params, *model.inputs, **model.kwargs))(materialize(after))
    eps = float(jnp.finfo(dense.dtype).eps)  # x W + (x u) v against x (W + u v), a few layers deep
    np.testing.assert_allclose(run(after).astype(jnp.float32), dense.astype(jnp.float32), atol=64 * eps * top, rtol=0)
    assert float(jnp.abs(run(after) - run(base)).max()) > 1e-3 * top


def test_every_layer_of_a_stack_has_its_own_factors():
    model = ZOO["transform_nn_scan"].model
    found = sites(model.fn, model.params, *model.inputs, **model.kwargs)
    (path,) = model.weights
    leaf = next(
        leaf
        for leaf in jax.tree.leaves(lora(model.params, rank=2, key=KEY, sites=found), is_leaf=is_compressed)
        if is_compressed(leaf)
    )
    layers, inputs, outputs = leaf.shape
    assert leaf.delta.u.shape == (layers, inputs, 2), path
    assert leaf.delta.v.shape == (layers, 2, outputs)
    assert len(leaf.unstack()) == layers


def test_start_is_that_of_the_paper():
    """Normal with variance 1 / inputs where data enters, zero behind it; read from the sites, not from the order."""
    x = jnp.ones((2, 400))
    for fn, w, drawn, zero in (
        (lambda p, x: x @ p["w"], (400, 300), "u", "v"),
        (lambda p, x: x @ p["w"].T, (300, 400), "v", "u"),
    ):
        params = {"w": jnp.zeros(w)}
        leaf = lora(params, rank=8, key=KEY, sites=sites(fn, params, x))["w"]
        noise = np.asarray(getattr(leaf.delta, drawn), np.float64)
        assert not np.asarray(getattr(leaf.delta, zero)).any()
        # 3200 draws: the standard deviation of their deviation is 1 / sqrt(6400) = 1.25 %.
        np.testing.assert_allclose(noise.std(), 1 / np.sqrt(400), rtol=0.05)
    again = lora(params, rank=8, key=KEY, sites=sites(fn, params, x))["w"]
    np.testing.assert_array_equal(again.delta.v, leaf.delta.v)


@pytest.mark.parametrize("base", [{"bits": 4}, {"format": "nf4", "group_size": 16}], ids=["int4", "nf4"])
def test_only_the_delta_trains_in_a_train_state(base):
    """QLoRA in an unchanged Flax loop: the base keeps every bit, the loss falls, only deltas have state."""
    model = nn.Sequential([nn.Dense(64), nn.tanh, nn.Dense(8)])
    x, y = data(64, 16), data(64, 8, seed=3)
    packed = lora(rtn(arrays_of(model, x), **base), rank=4, key=KEY, where="**/kernel")
    trainable, frozen = split_trainable(packed, where=is_lora)
    fn = lift(model.apply)
    state = TrainState.create(
        apply_fn=lambda trainable, x: fn(merge(trainable, frozen), x), params=trainable, tx=optax.sgd(0.3, momentum=0.5)
    )

    @jax.jit
    def step(state):
        loss, grads = jax.value_and_grad(lambda p: jnp.mean((state.apply_fn(p, x) - y) ** 2))(state.params)
        return state.apply_gradients(grads=grads), loss

    losses = []
    for _ in range(60):
        state, loss = step(state)
        losses.append(float(loss))
    assert losses[-1] < 0.8 * losses[0]
    deltas = 4 * (16 + 64 + 64 + 8)
    assert sum(a.size for a in jax.tree.leaves(state.params)) == deltas
    assert sum(a.size for a in jax.tree.leaves(state.opt_state)) == deltas
    after, before = merge(state.params, frozen), packed
    for layer in ("layers_0", "layers_2"):
        now, then = after["params"][layer]["kernel"], before["params"][layer]["kernel"]
        for ours, theirs in zip(jax.tree.leaves(now.base), jax.tree.leaves(then.base), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(after["params"][layer]["bias"], before["params"][layer]["bias"])
        assert bool(jnp.any(now.delta.v != then.delta.v))


def arrays_of(model, x):
    shapes = jax.eval_shape(model.init, KEY, x)
    return jax.tree.map(lambda s: 0.3 * data(*s.shape, seed=s.size), shapes)


def test_merge_is_the_sum_dense_or_small_again():
    params = {"a": rtn(arrays(w=(16, 24)), bits=8)["w"], "b": {"w": arrays(w=(24, 4))["w"], "bias": jnp.ones(4)}}
    adapted = moved(lora(params, rank=2, key=KEY, where=["a", "b/w"]))
    dense = merge_lora(adapted)
    assert not any(is_compressed(leaf) for leaf in jax.tree.leaves(dense, is_leaf=is_compressed))
    np.testing.assert_array_equal(dense["a"], adapted["a"].materialize())
    small = merge_lora(adapted, RTN(bits={"a": 8, "**": 4}))
    assert (small["a"].qvalue.dtype, small["b"]["w"].qvalue.dtype) == (jnp.int8, jnp.int4)
    np.testing.assert_array_equal(small["a"].materialize(), rtn({"w": dense["a"]}, bits=8)["w"].materialize())
    partly = merge_lora(adapted, where="a")
    assert isinstance(partly["b"]["w"], Lora)
    assert not is_compressed(partly["a"])
    with pytest.raises(ValueError, match="delta"):
        merge_lora(dense)
    with pytest.raises(ValueError, match="delta"):
        merge_lora(dense, where="a")


def test_under_a_mask_what_is_pruned_stays_zero():
    pruned = magnitude(arrays(w=(16, 12)), sparsity=0.5)
    adapted = moved(lora(rtn(pruned, bits=8), rank=2, key=KEY))
    assert isinstance(adapted["w"], Masked)
    dropped = ~np.asarray(pruned["w"].mask)
    assert not np.asarray(adapted["w"].materialize())[dropped].any()
    for merged in (merge_lora(adapted), merge_lora(adapted, RTN(bits=8))):
        assert isinstance(merged["w"], Masked)
        assert not np.asarray(materialize(merged)["w"])[dropped].any()
    np.testing.assert_allclose(merge_lora(adapted)["w"].materialize(), adapted["w"].materialize())


def test_methods_before_not_after():
    """Pruning ranks and masks the sum, which trains on under the mask; a method that would code the factors refuses."""
    adapted = moved(lora(arrays(w=(16, 12)), rank=2, key=KEY))
    pruned = magnitude(adapted, sparsity=0.5)["w"]
    expected = magnitude({"w": adapted["w"].materialize()}, sparsity=0.5)["w"]
    np.testing.assert_array_equal(pruned.materialize(), expected.materialize())
    assert len(jax.tree.leaves(split_trainable({"w": pruned})[0])) == 2
    for method in (lambda p: rtn(p, bits=8), lambda p: svd(p, rank=1)):
        with pytest.raises(ValueError, match=r"'w' is a lora leaf.*merge_lora"):
            method(adapted)


def test_a_second_delta_freezes_the_first():
    twice = lora(moved(lora(arrays(w=(16, 12)), rank=2, key=KEY)), rank=1, key=KEY)
    assert twice["w"].base.kind == "lora"
    trainable, _ = split_trainable(twice)
    assert sorted(a.shape for a in jax.tree.leaves(trainable)) == [(1, 12), (16, 1)]


def test_file_gives_every_bit_back(tmp_path):
    adapted = moved(lora(rtn(arrays(w=(16, 12)), bits=4), rank=2, alpha=0.3, key=KEY))
    save(tmp_path / "model.jxc", adapted)
    loaded = load(tmp_path / "model.jxc").params
    assert loaded["w"].scaling == adapted["w"].scaling == 0.15
    for ours, theirs in zip(jax.tree.leaves(loaded), jax.tree.leaves(adapted), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_explain_shows_both_parts():
    def fn(params, x):
        return x @ params["w"]

    (line,) = explain(fn, lora(rtn(arrays(w=(16, 12)), bits=8), rank=2, key=KEY), data(4, 16))
    assert line.kind == "lora(quantized, lowrank)"
    assert line.served
    assert "lora matmul over quantized matmul" in line.how


def test_settings_are_checked():
    params = arrays(w=(16, 12))
    with pytest.raises(ValueError, match="rank must be a positive integer, got 0"):
        lora(params, rank=0, key=KEY)
    with pytest.raises(ValueError, match=r"rank 7 is no smaller than 'w' itself \(16 x 12\)"):
        lora(params, rank=7, key=KEY)
    with pytest.raises(TypeError, match="int8"):
        lora(params, rank=2, key=KEY, dtype=jnp.int8)
    with pytest.raises(ValueError, match="nothing"):
        lora(params, rank=2, key=KEY, where="nothing")
    with pytest.raises(ValueError, match=r"sites=jc\.sites"):
        lora(arrays(w=(3, 16, 12)), rank=2, key=KEY)


def test_under_jit_it_is_the_same():
    params = arrays(w=(16, 12))
    jitted = jax.jit(lambda params, key: lora(params, rank=2, key=key))(params, KEY)
    np.testing.assert_allclose(jitted["w"].delta.u, lora(params, rank=2, key=KEY)["w"].delta.u, rtol=1e-6)
