"""Rotation symmetries: what the trace allows is found, all else is fixed, and what is found changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.core.rotation import apply, fold_gains, rotations
from tests.core.rotation.cases import CASES, D, H, assert_same, orthogonal, rms
from tests.zoo import ZOO
from tests.zoo.model import arrays, data


@pytest.mark.parametrize("name", CASES)
def test_what_is_found_and_that_it_changes_nothing(name: str) -> None:
    fn, shapes, expected = CASES[name]
    params, x = arrays(**shapes), data(4, D)
    found = rotations(fn, params, x)
    assert [-r.size if r.ones else r.size for r in found] == expected
    run = jax.jit(fn)
    out = run(params, x)
    for rotation in found:
        turned = apply(params, rotation, orthogonal(rotation.size, ones=bool(rotation.ones)))
        assert all(np.abs(turned[path] - params[path]).max() > 0.01 for path, _ in rotation.members)
        assert_same(run(turned, x), out)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case[2]])
def test_what_is_not_found_says_why_and_where(name: str) -> None:
    fn, shapes, _ = CASES[name]
    found = rotations(fn, arrays(**shapes), data(4, D))
    reasons = [entry.reason for entry in found.excluded if (entry.path, entry.axis) == ("a", 1)]
    assert len(reasons) == 1
    if name != "result":
        assert "cases.py:" in reasons[0] or "test_rotations.py:" in reasons[0], reasons
    assert reasons[0] in repr(found)


def test_a_matrix_that_does_not_keep_the_ones_would_change_a_layer_norm() -> None:
    fn, shapes, _ = CASES["layer_norm"]
    params, x = arrays(**shapes), data(4, D)
    (found,) = rotations(fn, params, x)
    assert "cases.py:" in found.ones
    with pytest.raises(ValueError, match=r"must keep the vector of ones.*a sum over it, at cases"):
        apply(params, found, orthogonal(H))
    turned = jax.jit(lambda q: apply(params, found, q))(orthogonal(H))  # under jit nothing is checked
    assert np.abs(fn(turned, x) - fn(params, x)).max() > 0.1


@pytest.mark.parametrize("name", ["llama_plain", "llama_flax"])
def test_llamas_turn_their_whole_stream_tied_head_gains_and_layers(name: str) -> None:
    model = ZOO[name].model
    random = np.random.RandomState(0)

    def drawn(path, leaf):
        return jnp.asarray(random.standard_normal(leaf.shape), leaf.dtype) if "_norm" in str(path) else leaf

    params = jax.tree_util.tree_map_with_path(drawn, model.params)  # gains of any sign; the last one is constant
    stream, *others = rotations(model.fn, params, *model.inputs)
    assert stream.size == 16
    assert len(stream.members) == 8
    assert [gain.rpartition("/")[2] for gain, _ in stream.gains] == ["att_norm", "ffn_norm", "norm"]
    assert [(r.size, [p.rpartition("layers/")[2] for p, _ in r.members]) for r in others] == (
        [(4, ["wo/kernel", "wv/kernel"])] if name == "llama_flax" else []
    )
    turned = apply(params, stream, orthogonal(16))
    assert jax.tree.map(lambda a: (a.shape, a.dtype), turned) == jax.tree.map(lambda a: (a.shape, a.dtype), params)
    run = jax.jit(model.fn)
    assert_same(run(turned, *model.inputs), run(params, *model.inputs))


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("attention_fused_gqa", [12]), ("attention_unrolled", [-12, 4, 4, 4, 4]), ("nnx_transformer", [4, 4])],
)
def test_transformers_of_libraries(name: str, sizes: list[int]) -> None:
    model = ZOO[name].model
    found = rotations(model.fn, model.params, *model.inputs, **model.kwargs)
    assert [-r.size if r.ones else r.size for r in found] == sizes
    params = model.params
    for rotation in found:
        params = apply(params, rotation, orthogonal(rotation.size, ones=bool(rotation.ones), seed=rotation.size))
    run = jax.jit(lambda p: model.fn(p, *model.inputs, **model.kwargs))
    assert_same(run(params), run(model.params))


def test_a_tied_head_with_a_gain_is_refused_and_named() -> None:
    model = ZOO["nnx_transformer"].model
    found = rotations(model.fn, model.params, *model.inputs)
    with pytest.raises(KeyError, match=r"norms/2/scale.* cannot be folded .*a tied head\?.* at nnx.py"):
        found.at("embed/embedding", 1)


def test_experts_between_a_stream() -> None:
    def fn(p, tokens):
        x = p["emb"][tokens]
        h = rms(x, p["gain"])
        gate = jax.nn.softmax(h @ p["router"])
        inner = jax.nn.gelu(jnp.einsum("bi,eih->beh", h, p["up"]))
        return rms(x + jnp.einsum("beh,ehd,be->bd", inner, p["down"], gate)) @ p["head"]

    shapes = {"emb": (9, D), "gain": (D,), "router": (D, 3), "up": (3, D, H), "down": (3, H, D), "head": (D, 5)}
    params, tokens = arrays(**shapes), jnp.arange(7)
    (found,) = rotations(fn, params, tokens)
    assert [path for path, _ in found.members] == ["down", "emb", "head", "router", "up"]
    assert {fold.taker.path for fold in found.folds} == {"router", "up"}
    run = jax.jit(fn)
    assert_same(run(apply(params, found, orthogonal(D)), tokens), run(params, tokens))


def test_bfloat16_stays_and_the_inputs_too() -> None:
    fn, shapes, _ = CASES["gain"]
    params = arrays(dtype=jnp.bfloat16, **shapes)
    before = jax.tree.map(np.array, params)
    turned = apply(params, rotations(fn, params, data(4, D, dtype=jnp.bfloat16))[0], orthogonal(H))
    assert {leaf.dtype for leaf in jax.tree.leaves(turned)} == {jnp.dtype(jnp.bfloat16)}
    jax.tree.map(np.testing.assert_array_equal, params, before)


def test_gains_alone() -> None:
    fn, shapes, _ = CASES["gain_and_bias"]
    params, x = arrays(**shapes), data(4, D)
    (found,) = rotations(fn, params, x)
    folded = fold_gains(params, found)
    np.testing.assert_array_equal(folded["bias"], 1)
    np.testing.assert_allclose(folded["b"], params["bias"][:, None] * params["b"], rtol=1e-6)
    np.testing.assert_allclose(folded["shift"], params["shift"] / params["bias"], rtol=1e-6)
    assert_same(fn(folded, x), fn(params, x))
    assert_same(fold_gains(folded, found), folded)
    with pytest.raises(ValueError, match="the gain 'bias' is 0 in places, and the bias 'shift'"):
        fold_gains(params | {"bias": params["bias"].at[2].set(0)}, found)


def test_a_gain_of_zero_may_go_into_kernels() -> None:
    fn, shapes, _ = CASES["gain"]
    params, x = arrays(**shapes), data(4, D)
    params["bias"] = params["bias"].at[2].set(0)
    turned = apply(params, rotations(fn, params, x)[0], orthogonal(H))
    assert_same(fn(turned, x), fn(params, x))


def test_gains_one_plus_are_folded_to_zero() -> None:
    fn, shapes, _ = CASES["gain_plus_one"]
    params, x = arrays(**shapes), data(4, D)
    folded = fold_gains(params, rotations(fn, params, x)[0])
    np.testing.assert_array_equal(folded["bias"], 0)
    assert_same(fn(folded, x), fn(params, x))


def test_constant_gains_need_no_folding_but_abstract_ones_are_not_seen() -> None:
    fn, shapes, _ = CASES["tied_gain"]
    params, x = arrays(**shapes), data(4, D)
    params["bias"] = jnp.full(H, 3.0)
    (found,) = rotations(fn, params, x)
    assert found.folds == ()
    assert found.gains == (("bias", 0),)
    assert_same(fn(apply(params, found, orthogonal(H)), x), fn(params, x))
    assert len(rotations(fn, jax.eval_shape(lambda: params), x)) == 0


def test_apply_checks_what_it_gets() -> None:
    fn, shapes, _ = CASES["linear"]
    params = arrays(**shapes)
    (found,) = rotations(fn, params, data(4, D))
    with pytest.raises(ValueError, match=r"shape \(8, 8\), got \(3, 3\)"):
        apply(params, found, np.eye(3))
    with pytest.raises(ValueError, match=r"not orthogonal: .* by 3"):
        apply(params, found, 2 * np.eye(H))
    with pytest.raises(ValueError, match="not orthogonal"):
        apply(params, found, np.full((H, H), np.nan))
    packed = params | {"b": jc.quantize.rtn(params, bits=8, where="b")["b"]}
    with pytest.raises(TypeError, match=r"'b' is a .* leaf: rotate before compressing"):
        apply(packed, found, np.eye(H))
    assert rotations(fn, packed, data(4, D)).excluded[-1].reason.startswith("a compressed leaf")


def test_jit_gradients_and_no_second_compilation(compilations) -> None:
    fn, shapes, _ = CASES["gain"]
    params, x = arrays(**shapes), data(4, D)
    (found,) = rotations(fn, params, x)
    turn = jnp.asarray(orthogonal(H), jnp.float32)
    assert_same(jax.jit(lambda p, q: apply(p, found, q))(params, turn), apply(params, found, turn))
    grads = jax.grad(lambda p: fn(apply(p, found, turn), x).sum())(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    others, back = jax.tree.map(jnp.negative, params), turn.T
    before = compilations()
    apply(others, found, back)
    assert compilations() == before


def test_the_table() -> None:
    fn, shapes, _ = CASES["gain"]
    found = jc.rotations(fn, arrays(**shapes), data(4, D))
    assert repr(found).splitlines()[:4] == [
        "rotation  size  member  axis",
        "0         8     a       1",
        "                b       0",
        "                bias    0     gain, folded",
    ]
    assert "<table" in found._repr_html_()
    assert found.at("a") is found[0]
    with pytest.raises(KeyError, match="0 rotations turn 'a'; axis 0: an axis of the input"):
        found.at("a", 0)
