"""Scale symmetries: what the trace allows is found, everything else is fixed, and nothing that is found changes fn."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxcompress as jc
from jaxcompress.core.rescaling import apply, symmetries
from tests.zoo import ENTRIES, ZOO
from tests.zoo.model import arrays, data

D, H = 6, 8
TWO = {"a": (D, H), "b": (H, D)}
BIASED = TWO | {"bias": (H,)}


def hidden(between):
    """A network of two layers with something in the middle."""
    return lambda p, x: between(x @ p["a"]) @ p["b"]


def stacked(p, x):
    return lax.scan(lambda c, w: (jax.nn.relu(c @ w), None), x, p["w"])[0]


def backwards(p, x):
    return lax.scan(lambda c, w: (jax.nn.relu(c @ w), None), x, p["w"], reverse=True)[0]


def recurrent(p, x):
    state, _ = lax.scan(lambda h, row: (jax.nn.relu(h @ p["h"] + row @ p["a"]), None), jnp.zeros(H), x)
    return state @ p["b"]


def looped(p, x):
    return lax.fori_loop(0, 3, lambda i, h: jax.nn.relu(h @ p["h"]), x @ p["a"]) @ p["b"]


def counted(p, x):
    """The number of steps depends on the data that a scale would change."""
    return lax.while_loop(lambda h: h.sum() < 9, lambda h: jax.nn.relu(h @ p["h"]) + 1, x @ p["a"]) @ p["b"]


def either(p, x):
    branches = [lambda h: jax.nn.relu(h), lambda h: jnp.zeros_like(h), lambda h: 2 * h]
    return lax.switch(x.shape[0] % 3, branches, x @ p["a"]) @ p["b"]


def gated(p, x):
    return (jax.nn.silu(x @ p["gate"]) * (x @ p["a"])) @ p["b"]


def shuffled(p, x):
    h = jax.nn.relu(x @ p["a"]).reshape(-1, 2, H // 2).swapaxes(1, 2).reshape(-1, H)
    return jnp.flip(h, 1) @ p["b"]


def merged(p, x):
    """Two parts, joined and padded with zeros."""
    return jnp.pad(jnp.concatenate([jax.nn.relu(x @ p["a"]), x], 1), ((0, 0), (0, 2))) @ p["b"]


def normed(p, x):
    h = x @ p["a"]
    return h / jnp.sqrt((h * h).sum(0, keepdims=True)) @ p["b"]


def cached(p, x):
    """Written into zeros, row by row."""
    memory = lax.dynamic_update_slice(jnp.zeros((9, H)), x @ p["a"], (2, 0))
    return memory @ p["b"]


def pooled(p, x):
    h = lax.conv_general_dilated(x.reshape(1, 2, 2, D), p["k"], (1, 1), "SAME", dimension_numbers=NHWC)
    h = lax.reduce_window(h, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 1, 1, 1), "SAME")
    return h.sum((1, 2)) @ p["b"]


def depthwise(p, x):
    h = jax.nn.relu(x @ p["a"]).reshape(1, 2, 2, H)
    h = lax.conv_general_dilated(h, p["k"], (1, 1), "SAME", dimension_numbers=NHWC, feature_group_count=H)
    return jax.nn.relu(h).reshape(4, H) @ p["b"]


def grouped(p, x):
    h = jax.nn.relu(x @ p["a"]).reshape(1, 2, 2, H)
    h = lax.conv_general_dilated(h, p["k"], (1, 1), "SAME", dimension_numbers=NHWC, feature_group_count=2)
    return jax.nn.relu(h).reshape(4, H) @ p["b"]


NHWC = ("NHWC", "HWIO", "NHWC")

# name -> (function, shapes of the parameters, number of units per symmetry that is found). x is (4, D).
CASES = {
    "linear": (hidden(lambda h: h), TWO, [H]),
    "relu": (hidden(jax.nn.relu), TWO, [H]),
    "leaky_relu": (hidden(jax.nn.leaky_relu), TWO, [H]),
    "abs": (hidden(jnp.abs), TWO, [H]),
    "sign": (hidden(lambda h: jnp.where(h > 0, h, jnp.sign(h))), TWO, []),  # a value and a sign are not scaled alike
    "signs_alone": (hidden(jnp.sign), TWO, [H]),
    "squared_relu": (hidden(lambda h: jax.nn.relu(h) ** 2), TWO, [H]),
    "root": (hidden(lambda h: jnp.sqrt(jnp.abs(h))), TWO, [H]),
    "bias": (lambda p, x: jax.nn.relu(x @ p["a"] + p["bias"][None]) @ p["b"], BIASED, [H]),
    "gain": (lambda p, x: jax.nn.relu(x @ p["a"] * p["bias"][None]) @ p["b"], BIASED, [H, H]),
    "remat": (lambda p, x: jax.checkpoint(hidden(jax.nn.relu))(p, x), TWO, [H]),
    "jit": (lambda p, x: jax.jit(hidden(jax.nn.relu))(p, x), TWO, [H]),
    "sum_of_rows": (hidden(lambda h: h.sum(0, keepdims=True)), TWO, [H]),
    "running_sum": (hidden(lambda h: jnp.cumsum(h, 0)), TWO, [H]),
    "largest_row": (hidden(lambda h: h.max(0, keepdims=True)), TWO, [H]),
    "sorted_rows": (hidden(lambda h: jnp.sort(h, 0)), TWO, [H]),
    "softmax_over_rows": (hidden(lambda h: jax.nn.softmax(h, 0)), TWO, []),
    "softmax": (hidden(jax.nn.softmax), TWO, []),
    "tanh": (hidden(jnp.tanh), TWO, []),
    "gelu": (hidden(jax.nn.gelu), TWO, []),
    "silu": (hidden(jax.nn.silu), TWO, []),
    "relu6": (hidden(jax.nn.relu6), TWO, []),
    "clipped": (hidden(lambda h: jnp.clip(h, -1, 1)), TWO, []),
    "clipped_at_zero": (hidden(lambda h: jnp.clip(h, 0, jnp.inf)), TWO, [H]),
    "add_one": (hidden(lambda h: h + 1), TWO, []),
    "threshold": (hidden(lambda h: jnp.where(h > 0.1, h, 0)), TWO, []),
    "sum_over_units": (hidden(lambda h: h + h.sum(1, keepdims=True)), TWO, []),
    "largest_unit": (hidden(lambda h: h + h.max(1, keepdims=True)), TWO, []),
    "running_over_units": (hidden(lambda h: jnp.cumsum(h, 1)), TWO, []),
    "rounded": (hidden(jnp.round), TWO, []),
    "to_integers": (hidden(lambda h: h.astype(jnp.int32).astype(h.dtype)), TWO, []),
    "returned_too": (lambda p, x: (x @ p["a"], (x @ p["a"]) @ p["b"]), TWO, []),
    "weight_returned": (lambda p, x: ((x @ p["a"]) @ p["b"], p["a"]), TWO, []),
    "gated": (gated, TWO | {"gate": (D, H)}, [H]),
    "heads": (hidden(lambda h: jax.nn.relu(h.reshape(-1, 2, H // 2)).reshape(-1, H)), TWO, [H]),
    "shuffled": (shuffled, TWO, [H]),
    "merged": (merged, {"a": (D, H), "b": (D + H + 2, D)}, [H, 2]),  # what meets zeros is free
    "normed": (normed, TWO, [H]),  # the second is not: its input is normalized
    "cached": (cached, TWO, [H]),
    "half_used": (lambda p, x: jax.nn.relu(x @ p["a"])[:, :5] @ p["b"][:5], TWO, [5, 3, 3]),
    "stacked": (stacked, {"w": (3, D, D)}, [2 * D]),  # between the first and the second layer, the second and the third
    "stacked_backwards": (backwards, {"w": (3, D, D)}, [2 * D]),
    "recurrent": (recurrent, TWO | {"h": (H, H)}, [H]),
    "looped": (looped, TWO | {"h": (H, H)}, [H]),
    "counted": (counted, TWO | {"h": (H, H)}, []),
    "either": (either, TWO, [H]),
    "pooled": (pooled, {"k": (3, 3, D, H), "b": (H, D)}, [H]),
    "depthwise": (depthwise, TWO | {"k": (3, 3, 1, H)}, [H, H]),
    "grouped": (
        grouped,
        TWO | {"k": (3, 3, H // 2, H)},
        [1, 1, 1, 3, H],
    ),  # 4 inputs that the groups share, outputs, groups
    "tied": (lambda p, x: jax.nn.relu(x @ p["a"]) @ p["a"].T, {"a": (D, H)}, []),
    "looked_up": (lambda p, x: jax.nn.relu(p["a"][jnp.arange(3)]) @ p["b"], TWO, [H]),
}


def powers(size, seed=0):
    """Powers of two: they round nothing."""
    return np.exp2(np.random.RandomState(seed).randint(-2, 3, size)).astype(np.float32)


@pytest.mark.parametrize("name", CASES)
def test_found_or_fixed(name):
    fn, shapes, sizes = CASES[name]
    params, x = arrays(**shapes), data(4, D)
    found = symmetries(fn, params, x)
    assert sorted(s.size for s in found) == sorted(sizes), found
    before = jax.tree.leaves(fn(params, x))
    for symmetry in (*found, *found.pairs):
        after = jax.tree.leaves(fn(apply(params, symmetry, powers(symmetry.size)), x))
        exact = all(float(member.exponent).is_integer() for member in symmetry.members)
        rounding = 0 if exact else 1e-6  # the root of 2 is not exact
        jax.tree.map(lambda a, b, atol=rounding: np.testing.assert_allclose(a, b, rtol=0, atol=atol), after, before)


@pytest.mark.parametrize("name", ["bias", "gain", "gated", "stacked", "recurrent", "grouped", "depthwise"])
def test_every_member_counts(name):
    """Left alone, any member would change the function: so the tests above can fail."""
    fn, shapes, _ = CASES[name]
    params, x = arrays(**shapes), data(4, D)
    before = fn(params, x)
    for symmetry in symmetries(fn, params, x):
        scaled = apply(params, symmetry, 4.0)
        for member in symmetry.members:
            rest = dataclasses.replace(symmetry, members=tuple(m for m in symmetry.members if m is not member))
            assert not np.allclose(fn(apply(params, rest, 4.0), x), before, rtol=1e-3, atol=1e-3), member
        np.testing.assert_array_equal(fn(scaled, x), before)


# One or two of every family; the others run with `slow`.
COMMON = frozenset(
    [
        "attention_self",
        "attention_transformer",
        "attention_fused_gqa",
        "nnx_cnn",
        "vision_resnet_a",
        "vision_mobilenet",
        "vision_shufflenet_v2",
        "llama_plain",
        "equinox_mlp",
        "equinox_conv",
        "conv_text",
        "linen_batch_norm",
        "linen_embed_attend",
        "linen_dropout",
        "recurrent_classifier",
        "plain_concatenated_rows",
        "plain_strided_slice",
        "moe_gathered",
    ]
)


def zoo(entry):
    marks = [] if entry.name in COMMON else [pytest.mark.slow]
    return pytest.param(entry, marks=marks, id=entry.name)


@pytest.mark.parametrize("entry", [zoo(entry) for entry in ENTRIES])
def test_zoo(entry, request):
    """All symmetries and pairs of every model, one after the other, with powers of two: nothing changes."""
    if "data" in entry.tags:
        request.getfixturevalue("data_folder")
    model = entry.model
    with entry.context():
        found = symmetries(model.fn, model.params, *model.inputs, **model.kwargs)
        if not len(found):
            return
        scaled = model.params
        for seed, symmetry in enumerate((*found, *found.pairs)):
            scaled = apply(scaled, symmetry, powers(symmetry.size, seed))
        for path in (path for path in model.weights if found.absorbing(path)):
            symmetry = found.absorbing(path)
            scaled = apply(scaled, symmetry, powers(symmetry.size))
        run = jax.jit(lambda params: model.fn(params, *model.inputs, **model.kwargs))
        before, after = jax.tree.leaves(run(model.params)), jax.tree.leaves(run(scaled))
    for a, b in zip(before, after, strict=True):
        if jnp.issubdtype(a.dtype, jnp.floating):
            a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
            # float32 products of scaled numbers may be summed elsewhere; far below what a wrong factor of 2 does.
            np.testing.assert_allclose(b, a, rtol=0, atol=2e-6 * np.abs(a).max())


def members(symmetry):
    return {(m.path.removeprefix("params/"), m.axes, m.exponent) for m in symmetry.members}


def test_batch_norm_has_its_two():
    """The kernel against the gain through the mean, and gain and bias against what reads them."""
    model = ZOO["linen_batch_norm"].model
    found = symmetries(model.fn, model.params, *model.inputs, **model.kwargs)
    norm, head = "BatchNorm_0", ("Dense_0/kernel", (0,), -1)
    assert members(found.absorbing("params/Dense_0/kernel")) == {
        (f"{norm}/scale", (0,), 1),
        (f"{norm}/bias", (0,), 1),
        head,
    }
    (pair,) = found.pairs
    conv = ("Conv_0/kernel", (3,), 1)
    assert members(pair) == {conv, (f"batch_stats/{norm}/mean", (0,), 1), (f"{norm}/bias", (0,), 1), head}
    assert found.absorbing("params/Conv_0/kernel") is None


def test_llama_is_what_one_would_write_by_hand():
    model = ZOO["llama_plain"].model
    found = symmetries(model.fn, model.params, *model.inputs)
    stream = {(name, (0, 2), -1) for name in ("wq", "wk", "wv")}
    assert members(found.absorbing("wk")) == {("att_norm", (0, 1), 1)} | stream
    assert members(found.absorbing("w1")) == {("ffn_norm", (0, 1), 1), ("w1", (0, 2), -1), ("w3", (0, 2), -1)}
    assert members(found.absorbing("w2")) == {("w3", (0, 1), 1), ("w2", (0, 2), -1)}
    assert members(found.absorbing("wo")) == {("wv", (0, 1), 1), ("wo", (0, 2), -1)}
    (rotary,) = (s for s in found if members(s) == {("wq", (0, 1), -1), ("wk", (0, 1), 1)})
    layers, kv_width = model.params["wk"].shape[0], model.params["wk"].shape[1]
    assert rotary.size == layers * kv_width // 2  # both halves of a rotated head go together
    reasons = {(e.path, e.axes): e.reason for e in found.excluded}
    assert "logistic" in reasons["w1", (0, 1)]


def test_shared_heads_share_units():
    """Two query heads read one value head: both of their rows of the output kernel are one unit."""
    model = ZOO["attention_fused_gqa"].model
    found = symmetries(model.fn, model.params, *model.inputs)
    symmetry = found.absorbing("params/Dense_1/kernel")
    (member,) = symmetry.at("params/Dense_1/kernel")
    assert member.units.shape == (model.params["params"]["Dense_1"]["kernel"].shape[0],)
    assert np.bincount(member.units).tolist() == [member.units.size // symmetry.size] * symmetry.size
    wanted = jnp.asarray(1 + np.arange(member.units.size, dtype=np.float32))
    means = [np.exp(np.log(np.asarray(wanted)[member.units == u]).mean()) for u in range(symmetry.size)]
    np.testing.assert_allclose(symmetry.tied(member, wanted), means, rtol=1e-6)


def test_partial_consumers_are_marked():
    fn, shapes, _ = CASES["merged"]
    symmetry = symmetries(fn, arrays(**shapes), data(4, D)).absorbing("b")
    (member,) = symmetry.at("b")
    assert (member.units[:H] >= 0).all()
    assert (member.units[H : H + D] == -1).all()  # those read the input
    assert (member.factor(jnp.full(symmetry.size, 2.0), 2)[H : H + D] == 1).all()


def test_clips_pass_on_request():
    fn, shapes, _ = CASES["relu6"]
    params, x = arrays(**shapes), data(4, D)
    (symmetry,) = symmetries(fn, params, x, clips="pass")
    small = apply(params, symmetry, 0.25)  # no activation was beyond 6, so none is now
    np.testing.assert_array_equal(fn(small, x), fn(params, x))
    with pytest.raises(ValueError, match="clips must be 'fix' or 'pass', got 'allow'"):
        symmetries(fn, params, x, clips="allow")


def test_apply_is_traceable_and_refuses_what_is_wrong():
    fn, shapes, _ = CASES["bias"]
    params, x = arrays(**shapes), data(4, D)
    (symmetry,) = symmetries(fn, params, x)
    kept = jax.tree.map(jnp.copy, params)
    jitted = jax.jit(lambda p, s: apply(p, symmetry, s))(params, jnp.asarray(powers(H)))
    jax.tree.map(np.testing.assert_array_equal, jitted, apply(params, symmetry, powers(H)))
    jax.tree.map(np.testing.assert_array_equal, params, kept)
    with pytest.raises(ValueError, match=r"scales must have the shape \(8,\), got \(3,\)"):
        apply(params, symmetry, jnp.ones(3))
    with pytest.raises(ValueError, match="positive and finite"):
        apply(params, symmetry, -1.0)
    masked = params | {"a": jc.prune.magnitude({"a": params["a"]}, sparsity=0.5)["a"]}
    with pytest.raises(TypeError, match="'a' is a masked leaf"):
        apply(masked, symmetry, 2.0)
    assert not len(symmetries(jc.lift(fn), masked, x))  # compressed leaves are fixed
    with pytest.raises(KeyError, match="does not scale 'c'"):
        symmetry.at("c")


def test_says_what_is_in_the_way():
    fn, shapes, _ = CASES["tanh"]
    found = symmetries(fn, arrays(**shapes), data(4, D))
    reasons = {(e.path, e.axes): (e.entries, e.reason) for e in found.excluded}
    entries, reason = reasons["a", (1,)]
    assert entries == H
    assert reason.startswith("tanh, at test_rescaling.py:")
    assert "excluded: a axes 1 (8): tanh" in repr(found)
    assert reasons["b", (1,)][1] == "it is a result"
