"""`untie`: the same function of one more parameter; what is looked up and what is contracted then part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.core.untie import untie
from tests.core.rotation.cases import assert_same, orthogonal
from tests.zoo import ZOO
from tests.zoo.model import arrays

TOKENS = jnp.arange(5)


def tied(p, tokens, scale=1.0):
    """A tied head with a gain before it."""
    x = p["emb"][tokens]
    h = x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5) * p["gain"][None]
    return {"logits": scale * (h @ p["emb"].T)}


PARAMS = arrays(emb=(7, 4), gain=(4,))


@pytest.mark.parametrize("head", ["copy", "matrix"])
def test_the_function_stays_and_the_head_is_its_own(head) -> None:
    fn, params = untie(tied, PARAMS, "emb", TOKENS, head=head)
    assert jax.tree.map(jnp.shape, params) == {
        "emb": (7, 4),
        "gain": (4,),
        "untied": {"emb": (7, 4) if head == "copy" else (4, 4)},
    }
    assert_same(fn(params, TOKENS, scale=2.0), tied(PARAMS, TOKENS, scale=2.0))
    doubled = params | {"untied": {"emb": 2 * params["untied"]["emb"]}}
    assert_same(fn(doubled, TOKENS), jax.tree.map(lambda out: 2 * out, tied(PARAMS, TOKENS)))
    grads = jax.grad(lambda p: fn(p, TOKENS)["logits"][:, 0].sum())(params)
    whole = jax.grad(lambda p: tied(p, TOKENS)["logits"][:, 0].sum())(PARAMS)
    if head == "copy":  # the gradients of the two uses, apart
        np.testing.assert_allclose(grads["emb"] + grads["untied"]["emb"], whole["emb"], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(grads["untied"]["emb"][1:], 0)
    else:
        np.testing.assert_allclose(grads["emb"], whole["emb"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", ["copy", "matrix"])
def test_the_gain_before_the_head_can_be_folded_then(head) -> None:
    assert not [r for r in jc.rotations(tied, PARAMS, TOKENS) if r.size == 4]
    fn, params = untie(tied, PARAMS, "emb", TOKENS, head=head)
    (found,) = jc.rotations(fn, params, TOKENS)
    assert {fold.taker.path for fold in found.folds} == {"untied/emb"}
    expected = [("emb", 1), ("untied/emb", 1)] if head == "copy" else [("emb", 1), ("untied/emb", 0), ("untied/emb", 1)]
    assert list(found.members) == expected
    turned = jc.core.rotation.apply(params, found, orthogonal(4))
    assert_same(fn(turned, TOKENS), tied(PARAMS, TOKENS))


def test_other_verbs_take_it() -> None:
    fn, params = untie(tied, PARAMS, "emb", TOKENS)
    assert [site.primitive for site in jc.sites(fn, params, TOKENS).at("untied/emb")] == ["dot_general"]
    assert [site.primitive for site in jc.sites(fn, params, TOKENS).at("emb")] == ["gather"]
    keep = {("emb", 1): [0, 2], ("gain", 0): [0, 2], ("untied/emb", 1): [0, 2]}
    assert jc.verify(fn, params, keep, TOKENS)
    packed = jc.quantize.rtn(params, bits=8, where="untied/**", sites=jc.sites(fn, params, TOKENS))
    error = jc.lift(fn)(packed, TOKENS)["logits"] - fn(params, TOKENS)["logits"]
    assert 0 < np.abs(error).max() < 0.05
    both = jax.vmap(jax.jit(fn), in_axes=(None, 0))(params, jnp.stack([TOKENS, TOKENS + 1]))
    assert_same(both["logits"][0], fn(params, TOKENS)["logits"])


def test_a_module_with_scanned_layers() -> None:
    model = ZOO["llama_flax"].model
    fn, params = untie(model.fn, model.params, "params/emb/embedding", *model.inputs, head="matrix")
    assert params["untied"]["params/emb/embedding"].shape == (16, 16)
    assert_same(jax.jit(fn)(params, *model.inputs), jax.jit(model.fn)(model.params, *model.inputs))


def test_two_tables() -> None:
    def fn(p, tokens):
        return tied(p["a"], tokens)["logits"] + tied(p["b"], tokens)["logits"]

    params = {"a": PARAMS, "b": jax.tree.map(lambda leaf: leaf * 2, PARAMS)}
    one, first = untie(fn, params, "a/emb", TOKENS)
    two, second = untie(one, first, "b/emb", TOKENS, head="matrix")
    assert sorted(second["untied"]) == ["a/emb", "b/emb"]
    assert_same(two(second, TOKENS), fn(params, TOKENS))


def test_a_head_that_is_cut_first_is_refused() -> None:
    def fn(p, tokens):
        return p["emb"][tokens] @ p["emb"][:3].T

    with pytest.raises(ValueError, match=r"untie: 'emb' meets slice at test_untie.py:\d+"):
        untie(fn, {"emb": PARAMS["emb"]}, "emb", TOKENS)


def test_what_it_refuses() -> None:
    with pytest.raises(TypeError, match="must be a dict at the top, got list"):
        untie(lambda p, x: x, [1.0], "0", TOKENS)
    with pytest.raises(ValueError, match="no parameter 'embed' to untie"):
        untie(tied, PARAMS, "embed", TOKENS)
    with pytest.raises(ValueError, match=r"'gain' must be looked up and contracted; it meets \['mul'\]"):
        untie(tied, PARAMS, "gain", TOKENS)
    with pytest.raises(ValueError, match="head must be 'copy' or 'matrix', got 'both'"):
        untie(tied, PARAMS, "emb", TOKENS, head="both")  # type: ignore[arg-type]
    packed = jc.quantize.rtn(PARAMS, bits=8, where="emb")
    with pytest.raises(TypeError, match=r"'emb' is a .* leaf: untie before compressing"):
        untie(tied, packed, "emb", TOKENS)
