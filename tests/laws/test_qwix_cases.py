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
from jaxcompress.core.sites import sites
from jaxcompress.core.tree import materialize, merge, split_trainable
from jaxcompress.prune import magnitude
from jaxcompress.quantize import activations, coverage, rtn
from tests.laws.compressors import KINDS
from tests.laws.pairs import call
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


NO_WEIGHTS = ("nn.LayerNorm", "custom: elementwise (x*w[0])")
# Largest relative error of an output (Frobenius norm). Rounding to 255 or 15 levels over a channel's range of some 2.5
# standard deviations makes 0.6 % or 10 % of error of a weight, about as much of an output, and more behind several
# layers; data in int8 add what weights in int8 make.
ERRORS = {"int8": 0.012, "int4": 0.2, "int8 dynamic": 0.02}
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@pytest.mark.parametrize("case", MODELS)
def test_model_is_in_the_zoo(case):
    assert MODELS[case] in ZOO


@pytest.mark.parametrize("case", [case for case in MODELS if case not in NO_WEIGHTS])
def test_every_case_is_quantized_whole(case):
    """int8, int4, and int8 that meets int8 data: every weight is covered, and the outputs stay near the float ones."""
    entry = ZOO[MODELS[case]]
    with entry.context():
        model = entry.model
        found = sites(model.fn, model.params, *model.inputs, **model.kwargs)
        packed = {f"int{bits}": rtn(model.params, bits=bits, sites=found) for bits in (8, 4)}
        packed["int8 dynamic"] = activations(packed["int8"])
        plain, lifted = call(model), call(model, lift)

        def run(params, packed, inputs):
            return plain(params, inputs), {name: lifted(tree, inputs) for name, tree in packed.items()}

        expected, outputs = jax.jit(run, compiler_options=QUICK)(model.params, packed, model.inputs)
        for name, tree in packed.items():
            table = coverage(tree, sites=found)
            table.require()
            assert {leaf.path for leaf in table if leaf.state == "quantized"} == set(model.weights)
            dynamic = {leaf.activations for leaf in table if leaf.state == "quantized"}
            assert dynamic == {"dynamic int8" if name == "int8 dynamic" else "float"}
    for name, outs in outputs.items():
        for ours, theirs in zip(outs, expected, strict=True):
            if jnp.issubdtype(theirs.dtype, jnp.floating):
                a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
                error = np.linalg.norm(a - b) / np.linalg.norm(b)
                assert 0 < error < ERRORS[name], f"{name}: {error}"


@pytest.mark.parametrize("case", NO_WEIGHTS)
def test_a_model_without_weights_says_so(case):
    """Where there is nothing to quantize, the rule that found nothing raises."""
    model = ZOO[MODELS[case]].model
    found = sites(model.fn, model.params, *model.inputs)
    with pytest.raises(ValueError, match="matches no leaf"):
        rtn(model.params, bits=8, sites=found)
    assert {leaf.why.partition(":")[0] for leaf in coverage(model.params, sites=found)} == {"no contraction weight"}


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


FORMS = {
    "weights": lambda params: rtn(params, bits=4),
    "data too": lambda params: activations(rtn(params, bits=4), bits=4),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("first", ["quantized", "plain"])
def test_quantizing_one_model_never_changes_another(first, form):
    """The peer's worst: a second model of the same shapes, and a bare product of them, after and before the first."""
    helper.clear_cache()
    a, b, x = arrays(w=(16, 12)), arrays(seed=1, w=(16, 12)), data(4, 16)
    dense = {"a": np.array(a["w"]), "b": np.array(b["w"])}
    expected = {name: np.asarray(x) @ w for name, w in dense.items()}

    def fn(params, x):
        return helper(x, params["w"])

    def plain():
        for got in (fn(b, x), jax.jit(fn)(b, x), lift(fn)(b, x)):
            np.testing.assert_allclose(got, expected["b"], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(jnp.matmul(x, a["w"]), expected["a"], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(fn(a, x), expected["a"], rtol=1e-5, atol=1e-5)

    def quantized():
        out = lift(fn)(FORMS[form](a), x)
        assert np.linalg.norm(out - expected["a"]) > 1e-2 * np.linalg.norm(expected["a"])

    order = [quantized, plain] if first == "quantized" else [plain, quantized]
    for turn in (*order, *order):
        turn()
    np.testing.assert_array_equal(a["w"], dense["a"])


def test_models_in_threads_do_not_meet():
    """Quantized and plain calls of one helper at once, each traced anew in every turn."""
    x, failures = data(4, 16), []
    params = [arrays(seed=seed, w=(16, 12)) for seed in range(4)]
    expected = [np.asarray(x) @ np.asarray(p["w"]) for p in params]
    packed = [activations(rtn(p, bits=8)) for p in params]
    barrier = threading.Barrier(8)

    def work(i):
        quantized = i % 2 == 0
        barrier.wait()
        for _ in range(3):
            fn = lambda p, x: helper(x, p["w"])  # noqa: E731  # a new function: nothing is cached
            out = (lift(fn)(packed[i // 2], x) if quantized else jax.jit(fn)(params[i // 2], x)) - expected[i // 2]
            error = np.linalg.norm(out) / np.linalg.norm(expected[i // 2])
            if not (1e-4 < error < 0.02 if quantized else error < 1e-5):
                failures.append((i, error))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


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
