"""What breaks the peer (qwix 0.1.8, measured in ``shared/prototypes/qwix_breakage_cases.py``) holds here.

Its models are entries of the zoo, where every leaf kind goes through them; what is no model is tested here.
"""

import inspect
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcompress.core.lift import lift
from jaxcompress.core.tree import materialize, merge, split_trainable
from jaxcompress.prune import magnitude
from tests.laws.compressors import KINDS
from tests.zoo import ZOO
from tests.zoo.model import arrays, data

# The peer's case -> the zoo's entry.
MODELS = {
    "nn.Dense": "linen_dense",
    "nn.Dense bf16": "linen_dense_bf16",
    "nn.DenseGeneral": "linen_dense_general",
    "nn.scan of Dense": "transform_nn_scan",
    "nn.RNN(LSTMCell)": "recurrent_lstm",
    "nn.RNN(GRUCell)": "recurrent_gru",
    "nn.Einsum": "linen_einsum",
    "jnp.einsum 3 operands": "linen_einsum_three",
    "nn.MultiHeadDotProductAttention": "attention_self",
    "nn.Embed": "linen_embed",
    "nn.Conv": "conv_same",
    "nn.Conv depthwise": "conv_depthwise",
    "nn.ConvTranspose": "conv_transpose",
    "nn.ConvLocal": "conv_local",
    "nn.remat(Dense)": "linen_remat",
    "nn.jit(Dense)": "linen_jit",
    "nn.vmap(Dense)": "linen_vmap",
    "nn.WeightNorm(Dense)": "linen_weight_norm",
    "nn.LayerNorm": "linen_layer_norm",
    "custom: x@w": "plain_dot",
    "custom: jnp.matmul": "plain_matmul",
    "custom: jnp.tensordot": "plain_tensordot",
    "custom: w.T": "plain_transposed",
    "custom: w@x.T (param is lhs)": "plain_lhs",
    "custom: lax.dot": "plain_lax_dot",
    "custom: w*mask": "plain_mask",
    "custom: weight norm": "plain_weight_norm",
    "custom: astype bf16": "plain_astype_bf16",
    "custom: reshape heads": "plain_heads",
    "custom: split qkv slice": "plain_split_slice",
    "custom: used twice": "plain_used_twice",
    "custom: used in dot and +sum": "plain_dot_and_sum",
    "custom: vmap dot": "plain_vmap_dot",
    "custom: inner jit": "plain_inner_jit",
    "custom: lax.scan closure": "transform_scan_closure",
    "custom: lax.map": "transform_map",
    "custom: checkpoint": "transform_checkpoint",
    "custom: custom_vjp": "transform_custom_vjp",
    "custom: shard_map": "transform_shard_map_rows",
    "custom: elementwise (x*w[0])": "plain_first_row",
    "custom: take rows (embedding)": "plain_take_rows",
    "custom: lax.ragged_dot": "moe_ragged",
    "equinox module": "equinox_mlp",
    "nnx Linear": "nnx_linear",
    "nnx LinearGeneral": "nnx_general",
    "nnx Einsum": "nnx_einsum",
    "nnx Conv": "nnx_conv",
    "nnx Embed": "nnx_embed",
    "nnx MHA": "nnx_attention",
    "nnx RNN(LSTM)": "nnx_lstm",
    "nnx.scan stack of Linear": "nnx_scan",
}


@pytest.mark.parametrize("case", MODELS)
def test_model_is_in_the_zoo(case):
    assert MODELS[case] in ZOO


def packed():
    """One kernel in int8, its input, and what the dense function gives."""
    w = arrays(w=(16, 12))["w"]
    return {"w": KINDS["int8"](w, 0)}, {"w": w}, data(4, 16)


helper = jax.jit(lambda a, b: jnp.dot(a, b))


@pytest.mark.parametrize("first", ["plain", "lifted"])
def test_a_shared_jitted_helper_is_not_contaminated(first):
    """The jit cache is keyed by the function object: neither order may leak one model's numbers into the other."""
    helper.clear_cache()
    compressed, dense, x = packed()

    def fn(params, x):
        return helper(x, params["w"])

    runs = {"plain": lambda: fn(dense, x), "lifted": lambda: lift(fn)(compressed, x)}
    order = [first, *(name for name in runs if name != first)]
    found = {name: runs[name]() for name in order}
    np.testing.assert_array_equal(runs["plain"](), found["plain"])
    np.testing.assert_array_equal(found["plain"], jnp.dot(x, dense["w"]))
    # One dot of length 16 with the scale after the sum: a few units in the last place of float32.
    np.testing.assert_allclose(found["lifted"], fn(materialize(compressed), x), rtol=1e-5, atol=1e-5)
    assert bool(jnp.any(found["lifted"] != found["plain"]))


def test_nothing_is_patched():
    """While a compressed model is traced, JAX's functions are the ones they were, here and in another thread."""
    compressed, _, x = packed()
    functions = (jax.lax.dot_general, jnp.einsum, jnp.dot, jax.lax.conv_general_dilated)
    codes = [inspect.unwrap(function).__code__ for function in functions]
    seen = []

    def look():
        now = (jax.lax.dot_general, jnp.einsum, jnp.dot, jax.lax.conv_general_dilated)
        same = all(a is b for a, b in zip(now, functions, strict=True))
        seen.append(same and codes == [inspect.unwrap(function).__code__ for function in now])

    def fn(params, x):
        look()
        other = threading.Thread(target=look)
        other.start()
        other.join()
        return x @ params["w"]

    lift(fn)(compressed, x)
    look()
    assert seen
    assert all(seen)


def test_dense_parameters_go_through_the_same_function():
    """``lift(fn)`` takes the unpacked parameters, a mixture, and gives what ``fn`` gives."""
    _, dense, x = packed()

    def fn(params, x):
        return x @ params["w"]

    np.testing.assert_array_equal(lift(fn)(dense, x), jax.jit(fn)(dense, x))


def test_a_packed_tree_without_lift_is_an_error_not_a_guess():
    compressed, _, x = packed()
    with pytest.raises(TypeError, match="Quantized"):
        _ = x @ compressed["w"]


def test_methods_run_under_jit_and_vmap():
    """A method over three models at once prunes each as it would alone."""
    stacked = {"w": jnp.stack([arrays(seed=seed, w=(16, 12))["w"] for seed in range(3)])}
    mapped = jax.jit(jax.vmap(lambda params: magnitude(params, sparsity=0.5)))(stacked)
    for i, leaf in enumerate(mapped["w"].unstack()):
        alone = magnitude({"w": stacked["w"][i]}, sparsity=0.5)["w"]
        np.testing.assert_array_equal(leaf.materialize(), alone.materialize())


def test_gradients_with_respect_to_data_and_to_what_trains():
    """Through int8, where the peer raises for the integers; an optimizer starts on the trainable part."""
    compressed, _, x = packed()

    def loss(params, x):
        return jnp.sum(lift(lambda params, x: x @ params["w"])(params, x) ** 2)

    def dense_loss(params, x):
        return jnp.sum((x @ params["w"]) ** 2)

    ours = jax.grad(loss, argnums=1)(compressed, x)
    np.testing.assert_allclose(ours, jax.grad(dense_loss, 1)(materialize(compressed), x), rtol=1e-4, atol=1e-5)
    params = {"w": KINDS["codebook"](arrays(w=(16, 12))["w"], 0)}
    trainable, frozen = split_trainable(params)
    grads = jax.grad(lambda t: loss(merge(t, frozen), x))(trainable)
    moments = optax.adam(1e-3).init(trainable)[0].mu
    assert jax.tree.structure(moments) == jax.tree.structure(grads)
    assert grads["w"].codebook.shape == params["w"].codebook.shape


def test_an_unmatched_rule_is_an_error():
    with pytest.raises(ValueError, match=r"Dence_0[\s\S]*params/kernel"):
        magnitude(ZOO["linen_dense"].model.params, sparsity=0.5, where="**/Dence_0/kernel")
