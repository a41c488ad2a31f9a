"""How a sparsity is shared over layers: totals to the entry, rules against other people's loops, budgets kept."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.prune import Masked, magnitude
from jaxcompress.prune.allocation import Allocation, by_budget, by_scores, erk, global_magnitude, lamp, uniform
from jaxcompress.prune.allocation.shares import share
from jaxcompress.quantize import rtn

RNG = np.random.default_rng(0)
SHAPES = {"conv": (3, 3, 1, 8), "wide": (72, 50), "thin": (50, 7)}
PARAMS = {
    name: {"kernel": jnp.asarray(RNG.normal(size=shape) * (i + 1), jnp.float32), "bias": jnp.ones(shape[-1])}
    for i, (name, shape) in enumerate(SHAPES.items())
}
SIZES = {name: int(np.prod(shape)) for name, shape in SHAPES.items()}
TOTAL = sum(SIZES.values())
RULES = {"uniform": uniform, "erk": erk, "global": global_magnitude, "lamp": lamp}


def net(params, x):
    h = jax.lax.conv_general_dilated(x, params["conv"]["kernel"], (2, 2), "VALID", dimension_numbers=DIMENSIONS)
    h = jax.nn.relu(h + params["conv"]["bias"][None, None, None]).reshape(len(x), -1)
    h = jax.nn.relu(h @ params["wide"]["kernel"] + params["wide"]["bias"][None])
    return h @ params["thin"]["kernel"] + params["thin"]["bias"][None]


DIMENSIONS = ("NHWC", "HWIO", "NHWC")
SITES = jc.sites(net, PARAMS, jnp.ones((2, 7, 7, 1)))


def kept_by(pruned):
    return {path: int(pruned[path.split("/")[0]]["kernel"].mask.sum()) for path in map("{}/kernel".format, SHAPES)}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("sparsity", [0.0, 0.37, 0.995, 1.0])
def test_the_total_is_exact_and_pruning_keeps_what_the_table_says(rule, sparsity):
    found = rule(PARAMS, sparsity=sparsity)
    assert sum(found.kept.values()) == TOTAL - round(sparsity * TOTAL)
    assert kept_by(magnitude(PARAMS, sparsity=found)) == found.kept


def rigl_erk(shapes, density):
    """The loop of RigL's `get_mask_random_sparsities`, as published: layers over 1 become dense, and again."""
    dense = set()
    while True:
        divisor = rest = 0.0
        raw = {}
        for name, shape in shapes.items():
            size = np.prod(shape)
            if name in dense:
                rest -= size * (1 - density)
            else:
                rest += size * density
                raw[name] = np.sum(shape) / size
                divisor += raw[name] * size
        epsilon = rest / divisor
        largest = max(raw.values())
        if largest * epsilon <= 1:
            break
        dense |= {name for name in raw if raw[name] == largest}
    return {name: 1.0 if name in dense else epsilon * raw[name] for name in shapes}


@pytest.mark.parametrize("density", [0.5, 0.1, 0.02])
def test_erk_is_where_the_loop_of_rigl_ends(density):
    found = erk(PARAMS, sparsity=1 - density)
    for name, expected in rigl_erk(SHAPES, density).items():
        assert abs(found.kept[f"{name}/kernel"] - expected * SIZES[name]) <= 1, name
    assert found["wide/kernel"] > found["thin/kernel"] >= found["conv/kernel"]


def test_erk_counts_the_axes_of_a_projection_to_heads_as_one():
    """(8, 4, 6) is an (8, 24) matrix: (8 + 24) / 192, where sites show it; (6, 6) has 12 / 36."""
    params = {"heads": jnp.ones((8, 4, 6)), "square": jnp.ones((6, 6))}
    found = jc.sites(
        lambda p, x: jnp.einsum("bi,ihd->bhd", x, p["heads"])[:, 0] @ p["square"], params, jnp.ones((2, 8))
    )
    kept = erk(params, sparsity=0.9, sites=found).kept
    assert kept == {"heads": 17, "square": 6}  # 23 in proportion 32 : 12 are 16.7 and 6.3


def test_global_is_the_global_scope_and_lamp_is_its_definition():
    whole = magnitude(PARAMS, sparsity=0.8, scope="global")
    shared = magnitude(PARAMS, sparsity=global_magnitude(PARAMS, sparsity=0.8))
    jax.tree.map(np.testing.assert_array_equal, whole, shared)
    scores = {}
    for name in SHAPES:
        square = np.sort(np.float64(PARAMS[name]["kernel"]).reshape(-1) ** 2)[::-1]
        scores[name] = square / np.cumsum(square)
    together = np.sort(np.concatenate(list(scores.values())))[::-1]
    keep = TOTAL - round(0.8 * TOTAL)
    expected = {f"{name}/kernel": int((scores[name] >= together[keep - 1]).sum()) for name in SHAPES}
    assert lamp(PARAMS, sparsity=0.8).kept == expected


def test_scores_may_be_anything_and_pruned_entries_go_first():
    once = magnitude(PARAMS, sparsity=0.5)
    again = by_scores(once, sparsity=0.75, scores={f"{n}/kernel": jnp.ones(s) for n, s in SHAPES.items()})
    assert sum(again.kept.values()) == TOTAL - round(0.75 * TOTAL)
    pruned = magnitude(once, sparsity=again)
    assert kept_by(pruned) == again.kept


def test_floors_and_protected_leaves_are_paid_by_the_others():
    options = {"floors": {"thin/*": 0.5, "wide/*": 20}, "protect": "conv/*"}
    for rule in RULES.values():
        found = rule(PARAMS, sparsity=0.93, **options)
        assert "conv/kernel" not in found
        assert found.kept["conv/kernel"] == 72
        assert found.kept["thin/kernel"] >= 175
        assert found.kept["wide/kernel"] >= 20
        assert sum(found.kept.values()) == TOTAL - round(0.93 * TOTAL)
        pruned = magnitude(PARAMS, sparsity=found)
        assert pruned["conv"]["kernel"] is PARAMS["conv"]["kernel"]
    with pytest.raises(ValueError, match=r"uniform: floors= and protect= keep 267 entries, more than the 40"):
        uniform(PARAMS, sparsity=0.99, **options)


def test_layers_of_a_stack_keep_the_same_number():
    params = {"layers": jnp.asarray(RNG.normal(size=(3, 8, 8)), jnp.float32), "head": jnp.ones((8, 5))}

    def fn(p, x):
        return jax.lax.scan(lambda h, w: (h @ w, None), x, p["layers"])[0] @ p["head"]

    found = jc.sites(fn, params, jnp.ones((2, 8)))
    for rule in RULES.values():
        kept = rule(params, sparsity=0.8, sites=found).kept
        assert kept["layers"] % 3 == 0
        assert 0 <= 232 - round(0.8 * 232) - sum(kept.values()) < 3
    masks = magnitude(params, sparsity=uniform(params, sparsity=0.8, sites=found), sites=found)["layers"].mask
    assert len(set(masks.sum((1, 2)).tolist())) == 1


def test_knobs_may_be_traced():
    @jax.jit
    def run(params, sparsity):
        return [magnitude(params, sparsity=rule(params, sparsity=sparsity)) for rule in (uniform, global_magnitude)]

    for ours, rule in zip(run(PARAMS, jnp.float32(0.8)), (uniform, global_magnitude), strict=True):
        eager = rule(PARAMS, sparsity=np.float32(0.8)).kept
        got = kept_by(ours)
        assert all(abs(got[path] - eager[path]) <= (rule is uniform) for path in got)
    with pytest.raises(TypeError, match="erk: sparsity must be concrete"):
        jax.jit(lambda s: erk(PARAMS, sparsity=s))(0.5)
    with pytest.raises(TypeError, match="uniform: a traced sparsity"):
        jax.jit(lambda s: dict(uniform(PARAMS, sparsity=s, floors=1)))(0.5)


@pytest.mark.parametrize("rule", ["uniform", "erk", "global", "lamp"])
def test_budgets_are_met_to_the_entry(rule):
    biases = 8 + 50 + 7
    found = by_budget(PARAMS, parameters=1000, rule=rule)
    assert sum(found.kept.values()) + biases == 1000
    found = by_budget(PARAMS, bytes=3000, rule=rule)
    assert 3000 - 4 < jc.stored_bytes(magnitude(PARAMS, sparsity=found)) <= 3000
    found = by_budget(PARAMS, flops=0.25, rule=rule, sites=SITES)
    macs = {"conv/kernel": 2 * 9 * 9 * 8, "wide/kernel": 2 * 3600, "thin/kernel": 2 * 350}
    sizes = {f"{name}/kernel": size for name, size in SIZES.items()}
    spent = sum(macs[path] * kept / sizes[path] for path, kept in found.kept.items())
    assert (
        0.25 * sum(macs.values()) - 18 <= spent <= 0.25 * sum(macs.values())
    )  # an entry of the convolution is 18 MACs


def test_bytes_of_coded_leaves_are_those_of_their_codes():
    coded = rtn({"w": PARAMS["wide"]["kernel"]}, bits=8)
    found = by_budget(coded, bytes=2000)
    assert 1999 <= jc.stored_bytes(magnitude(coded, sparsity=found)) <= 2000


def test_bytes_may_be_measured_on_real_files(tmp_path):
    measured = []

    def measure(tree):
        measured.append(jc.save(tmp_path / "model.jxc", tree))
        return measured[-1]

    found = by_budget(PARAMS, bytes=3000, measure=measure)
    written = jc.save(tmp_path / "final.jxc", magnitude(PARAMS, sparsity=found))
    assert 2900 < written <= 3000
    assert len(measured) < 20
    assert found.sparsity < by_budget(PARAMS, bytes=3000).sparsity  # the mask is coded, so more may stay


def test_errors_name_the_way_out():
    with pytest.raises(ValueError, match=r"mask makes nothing faster.*prune\.channels"):
        by_budget(PARAMS, latency_ms=1.0)
    with pytest.raises(ValueError, match=r"give exactly one of parameters=, flops=, bytes=; got none"):
        by_budget(PARAMS)
    with pytest.raises(ValueError, match=r"bytes=300 cannot be met.*763"):
        by_budget(PARAMS, bytes=300)  # the masks alone: 9 + 450 + 44 bytes, and 260 of biases, and the rounding of each
    with pytest.raises(ValueError, match=r"flops= needs sites="):
        by_budget(PARAMS, flops=0.5)
    with pytest.raises(ValueError, match=r"float in \(0, 1\].*got 1\.5"):
        by_budget(PARAMS, parameters=1.5)
    with pytest.raises(ValueError, match=r"protect= names 'conv', which fits none"):
        uniform(PARAMS, sparsity=0.5, protect="conv")
    with pytest.raises(ValueError, match=r"floors= must be an int .* got 1\.2 for 'conv/kernel'"):
        uniform(PARAMS, sparsity=0.5, floors=1.2)
    thin = jc.factorize.svd({"w": PARAMS["wide"]["kernel"]}, rank=2)
    with pytest.raises(ValueError, match=r"'w' holds 'w/u' in place of one element per weight"):
        uniform(thin, sparsity=0.5)
    broken = {"w": jnp.array([[jnp.nan, 1.0]])}
    with pytest.raises(ValueError, match="'w' holds NaN"):
        lamp(broken, sparsity=0.5)


def test_an_allocation_is_a_dict_and_prints_every_layer():
    found = erk(PARAMS, sparsity=0.9, sites=SITES, protect="conv/*")
    text = repr(found)
    for piece in ("conv/kernel", "3x3x1x8", "72x50", "protected: conv/kernel", "MACs kept", "rule: erk", "90.00%"):
        assert piece in text
    assert "<table>" in found._repr_html_()
    assert json.loads(json.dumps(found)) == dict(found)
    stage = jc.prune.Magnitude(sparsity=found)
    recipe = jc.Recipe([stage])
    assert jc.Recipe.from_json(recipe.to_json()) == recipe
    assert Allocation(found.items()) == found


def test_masked_leaves_count_their_dense_size():
    once = {"w": Masked.create(jnp.ones((4, 4)), jnp.eye(4, dtype=bool))}
    assert uniform(once, sparsity=0.75).kept == {"w": 4}


@pytest.mark.parametrize("total", [13, 40, 61])
def test_share_follows_the_clipped_proportion(total):
    weights, least, most = [1.0, 2.0, 30.0, 0.5], [0, 6, 0, 1], [50, 50, 20, 9]
    counts = share(total, weights, least=least, most=most, steps=[1, 1, 1, 1])
    assert sum(counts) == total
    scales = np.linspace(0, 60, 600001)
    real = np.clip(scales[:, None] * np.array(weights), least, most)
    nearest = real[np.abs(real.sum(1) - total).argmin()]
    assert np.abs(np.array(counts) - nearest).max() <= 1
