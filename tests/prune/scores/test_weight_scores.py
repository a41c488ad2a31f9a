"""Scores per weight, held against loops in float64."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.prune.scores import (
    LAMP,
    Fisher,
    Gradients,
    Lp,
    Random,
    Taylor,
    Wanda,
    fisher,
    fpgm,
    lamp,
    lp,
    taylor,
    wanda,
    weight_scores,
)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def lamp_by_hand(w):
    """Equation 3, weight by weight: those that come no later than u are larger, or equal and of no higher index."""
    flat = np.float64(w).reshape(-1)
    scores = []
    for i, u in enumerate(flat):
        rest = [v for j, v in enumerate(flat) if abs(v) > abs(u) or (abs(v) == abs(u) and j <= i)]
        scores.append(u * u / sum(v * v for v in rest) if u else 0.0)
    return np.reshape(scores, np.shape(w))


def test_lamp_is_its_equation():
    w = normal(0, 5, 4).at[2, 1].set(0.0).at[0, 0].set(1.5).at[4, 3].set(-1.5)  # a zero and a tie
    np.testing.assert_allclose(lamp(w), lamp_by_hand(w), rtol=1e-5)  # sums of 20 terms in float32
    np.testing.assert_array_equal(lamp(jnp.zeros((2, 2))), np.zeros((2, 2)))
    tiny = lamp(jnp.array([1e-25, 3e-25]))  # whose squares are below the smallest float32
    np.testing.assert_allclose(tiny, [0.1, 1.0], rtol=1e-5)


def test_lamp_of_a_stack_is_that_of_its_layers():
    w = normal(1, 4, 3, 5)
    both = lamp(w, stack=(1,))
    for layer in range(3):
        np.testing.assert_allclose(both[:, layer], lamp_by_hand(w[:, layer]), rtol=1e-5)
    sites = jc.sites(
        lambda p, x: jax.lax.scan(lambda h, k: (h @ k, None), x, p["w"])[0], {"w": w[:, :, :3]}, w[0, :2, :3]
    )
    assert sites.axes("w")[0] == (0,)
    found = weight_scores({"w": w[:, :, :3]}, "lamp", sites=sites)["w"]
    assert [float(layer.max()) for layer in found] == [1.0] * 4


def test_lamp_never_empties_a_layer():
    params = {"small": normal(2, 6, 6) * 1e-4, "large": normal(3, 6, 6)}
    plain = jc.prune.by_score(params, "l1", sparsity=0.9, scope="global")
    kept = jc.prune.by_score(params, "lamp", sparsity=0.9, scope="global")
    assert int(plain["small"].mask.sum()) == 0
    assert int(kept["small"].mask.sum()) > 0


def test_scores_run_on_a_mesh_and_lower_for_every_platform():
    mesh = jax.make_mesh((4,), ("d",))  # its axes are explicit
    w = normal(22, 8, 4)
    placed = jax.device_put(w, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d", None)))
    found = lamp(placed)
    np.testing.assert_allclose(found, lamp(w), rtol=1e-6)
    assert found.sharding == placed.sharding

    def everything(w, other):
        return lp(w, 2.0), lamp(w), taylor(w, other), fisher(w, other), wanda(w, other), fpgm(w)

    exported = jax.export.export(jax.jit(everything), platforms=("cpu", "cuda", "tpu"))(w, w)
    assert exported.platforms == ("cpu", "cuda", "tpu")


@pytest.mark.parametrize("p", [0.5, 1, 2, 3])
def test_lp_is_a_power(p):
    w = normal(4, 3, 3)
    np.testing.assert_allclose(lp(w, p), np.abs(np.float64(w)) ** p, rtol=1e-5)
    assert lp(w.astype(jnp.float16), p).dtype == jnp.float32
    assert float(lp(jnp.asarray([3e4], jnp.float16), p)[0]) == pytest.approx(3e4**p, rel=1e-3)  # no overflow


def test_gradient_scores_are_their_formulas():
    w, g, square = normal(5, 3, 4), normal(6, 3, 4), normal(7, 3, 4) ** 2
    held = Gradients({"w": g}, {"w": square}, {}, 1, "batch")
    found = weight_scores({"w": w}, Taylor(held))["w"]
    np.testing.assert_allclose(found, np.abs(np.float64(w) * np.float64(g)), rtol=1e-6)
    found = weight_scores({"w": w}, Fisher(held))["w"]
    np.testing.assert_allclose(found, np.float64(w) ** 2 * np.float64(square) / 2, rtol=1e-6)
    with pytest.raises(ValueError, match=r"no gradient was gathered at 'v', only at \['w'\]"):
        weight_scores({"v": w}, Taylor(held))


def test_random_depends_on_key_and_path_alone():
    params = {"a": normal(0, 4, 4), "b": normal(1, 4, 4)}
    found = weight_scores(params, Random(0))
    assert not np.array_equal(found["a"], found["b"])
    again = weight_scores(params, Random(jax.random.key(0)), where="b")
    np.testing.assert_array_equal(again["b"], found["b"])
    assert not np.array_equal(weight_scores(params, Random(1))["a"], found["a"])


# Wanda ----------------------------------------------------------------------------------------------------------


def wanda_by_hand(w, rows):
    """``|w| * sqrt(mean(x ** 2))`` for kernels [features, outputs]."""
    return np.abs(np.float64(w)) * np.sqrt(np.mean(np.float64(rows) ** 2, 0))[:, None]


def test_wanda_of_a_matrix_and_of_its_transpose():
    x, w = normal(8, 7, 4), normal(9, 4, 3)
    stats = jc.observe(lambda p, x: x @ p["w"], {"w": w}, [x])
    np.testing.assert_allclose(weight_scores({"w": w}, Wanda(stats))["w"], wanda_by_hand(w, x), rtol=1e-5)
    stats = jc.observe(lambda p, x: x @ p["w"].T, {"w": w.T}, [x])
    np.testing.assert_allclose(weight_scores({"w": w.T}, Wanda(stats))["w"], wanda_by_hand(w, x).T, rtol=1e-5)


@pytest.mark.parametrize("groups", [1, 2])
def test_wanda_of_a_convolution(groups):
    """The input of a weight is what its tap sees, over all places; feature groups see different inputs."""
    x, w = normal(10, 2, 5, 4), normal(11, 3, 4 // groups, 6)

    def fn(p, x):
        options = {"dimension_numbers": ("NWC", "WIO", "NWC"), "feature_group_count": groups}
        return jax.lax.conv_general_dilated(x, p["w"], (1,), "VALID", **options)

    stats = jc.observe(fn, {"w": w}, [x])
    sites = jc.sites(fn, {"w": w}, x)
    found = weight_scores({"w": w}, Wanda(stats), sites=sites)["w"]
    for tap, channel, out in np.ndindex(w.shape):
        seen = np.float64(x)[:, tap : tap + 3, channel + (out // (6 // groups)) * (4 // groups)]
        expected = abs(float(w[tap, channel, out])) * np.sqrt(np.mean(seen**2))
        np.testing.assert_allclose(found[tap, channel, out], expected, rtol=1e-5)


def test_wanda_of_heads_a_scan_a_lookup_and_a_tied_kernel():
    x = normal(12, 5, 6)
    heads = normal(13, 6, 2, 3)
    stats = jc.observe(lambda p, x: jnp.einsum("nf,fhd->nhd", x, p["w"]), {"w": heads}, [x])
    found = weight_scores({"w": heads}, Wanda(stats))["w"]
    np.testing.assert_allclose(found.reshape(6, 6), wanda_by_hand(heads.reshape(6, 6), x), rtol=1e-5)

    stack = normal(14, 3, 6, 6) / 3
    stats = jc.observe(lambda p, x: jax.lax.scan(lambda h, k: (h @ k, None), x, p["w"])[0], {"w": stack}, [x])
    found, h = weight_scores({"w": stack}, Wanda(stats))["w"], np.float64(x)
    for layer in range(3):
        np.testing.assert_allclose(found[layer], wanda_by_hand(stack[layer], h), rtol=1e-4)
        h = h @ np.float64(stack[layer])

    table = normal(15, 4, 3)
    stats = jc.observe(lambda p, i: p["w"][i], {"w": table}, [jnp.array([0, 0, 2, 0])])
    found = weight_scores({"w": table}, Wanda(stats))["w"]
    frequency = np.array([3, 0, 1, 0]) / 4  # a lookup multiplies one-hot rows
    np.testing.assert_allclose(found, np.abs(np.float64(table)) * np.sqrt(frequency)[:, None], rtol=1e-6)

    tied = normal(16, 6, 6)
    stats = jc.observe(lambda p, x: (x @ p["w"])[:2] @ p["w"], {"w": tied}, [x])
    rows = np.concatenate([np.float64(x), (np.float64(x) @ np.float64(tied))[:2]])
    np.testing.assert_allclose(weight_scores({"w": tied}, Wanda(stats))["w"], wanda_by_hand(tied, rows), rtol=1e-4)


def test_by_output_with_wanda_scores_is_the_method():
    x, params = normal(17, 20, 8) * jnp.arange(1, 9, dtype=jnp.float32)[None], {"w": normal(18, 8, 6)}
    stats = jc.observe(lambda p, x: x @ p["w"], params, [x])
    ours = jc.prune.by_score(params, Wanda(stats), sparsity=0.5, scope="output")["w"].mask
    np.testing.assert_array_equal(ours, jc.prune.wanda(params, stats, sparsity=0.5)["w"].mask)
    assert ours.sum(0).tolist() == [4] * 6


def test_wanda_loses_less_of_the_output_than_magnitude():
    scale = jnp.exp(normal(19, 32))[None]  # inputs of very different size
    x, params = normal(20, 200, 32) * scale, {"w": normal(21, 32, 16)}
    stats = jc.observe(lambda p, x: x @ p["w"], params, [x])

    def error(scores):
        pruned = jc.materialize(jc.prune.by_score(params, scores, sparsity=0.5, scope="output"))
        return float(jnp.linalg.norm(x @ (pruned["w"] - params["w"])))

    assert error(Wanda(stats)) < 0.8 * error("l1")


def test_wanda_says_what_was_not_observed():
    params = {"w": normal(0, 3, 3), "v": normal(1, 3, 3)}
    stats = jc.observe(lambda p, x: x @ p["w"] @ p["v"], params, [normal(2, 4, 3)], where="w")
    with pytest.raises(ValueError, match="'v' was not observed"):
        weight_scores(params, Wanda(stats))
    stats = jc.observe(lambda p, x: x @ p["w"] @ p["v"], params, [normal(2, 4, 3)], what="mean")
    with pytest.raises(ValueError, match="second_moment"):
        weight_scores(params, Wanda(stats))


# The one argument -----------------------------------------------------------------------------------------------


def test_scores_are_names_objects_or_numbers():
    params = {"a": {"w": normal(0, 3, 2)}, "b": normal(1, 2)}
    by_name = weight_scores(params, "l2")
    assert list(by_name) == ["a/w"]
    np.testing.assert_array_equal(by_name["a/w"], weight_scores(params, Lp(2))["a/w"])
    numbers = normal(2, 3, 2)
    for given in ({"a/w": numbers}, {"a": {"w": numbers}, "b": normal(3, 2)}):
        np.testing.assert_array_equal(weight_scores(params, given)["a/w"], numbers)
    assert set(weight_scores(params, "l1", where="**")) == {"a/w", "b"}


def test_scores_that_do_not_fit_are_named():
    params = {"a": {"w": normal(0, 3, 2)}}
    with pytest.raises(ValueError, match=r"scores='l3' is no name of scores; there are \['l1', 'l2', 'lamp'\]"):
        weight_scores(params, "l3")
    with pytest.raises(ValueError, match=r"LAMP is a class: pass an instance"):
        weight_scores(params, LAMP)
    with pytest.raises(ValueError, match=r"holds nothing for 'a/w'; it has scores for \['b'\]"):
        weight_scores(params, {"b": normal(0, 2)})
    with pytest.raises(ValueError, match=r"scores of 'a/w' have shape \(2, 3\), the weights \(3, 2\)"):
        weight_scores(params, {"a/w": normal(0, 2, 3)})
    with pytest.raises(TypeError, match="int32, not float"):
        weight_scores(params, {"a/w": jnp.ones((3, 2), jnp.int32)})
    with pytest.raises(ValueError, match=r"'a/w' holds NaN or infinity, or its scores do"):
        weight_scores(params, {"a/w": jnp.full((3, 2), jnp.inf)})
    with pytest.raises(ValueError, match="p must be positive"):
        Lp(0)


def test_pruned_leaves_are_scored_by_their_dense_values():
    masked = jc.prune.Masked.create(jnp.array([[1.0, 2.0]]), jnp.array([[True, False]]))
    assert weight_scores({"w": masked}, "l1")["w"].tolist() == [[1.0, 0.0]]
