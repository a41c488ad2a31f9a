"""`observe`: what met every weight, held against inputs captured by hand."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxcompress.core import statistics
from jaxcompress.core.lift import lift
from jaxcompress.core.observe import _PROGRAMS, observe
from jaxcompress.core.tree import materialize
from tests.core.kinds import Grouped, Thin

D = 6
ALL = tuple(name for name in statistics.STATISTICS if name != "output_rows")  # a sample is no sum of samples


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


BATCHES = [normal(seed, 4, D) for seed in range(3)]
PARAMS = {"w": normal(7, D, D) / 3, "v": normal(8, D, 3)}


def moments(rows):
    """Second moment and mean of rows, in float64."""
    rows = np.asarray(rows, np.float64).reshape(-1, rows.shape[-1])
    return rows.T @ rows / len(rows), rows.mean(0)


def check(observed, rows, *, stack=()):
    second, mean = moments(rows) if not stack else map(np.stack, zip(*map(moments, rows), strict=True))
    tol = {"rtol": 1e-4, "atol": 1e-5}  # float32 sums of some dozen terms
    np.testing.assert_allclose(observed["second_moment"], second, **tol)
    np.testing.assert_allclose(observed["mean"], mean, **tol)
    count = np.prod(rows.shape[len(stack) : -1])
    np.testing.assert_array_equal(observed.count, np.full(stack, count))
    lead = np.asarray(rows).reshape(*stack, -1, rows.shape[-1])
    np.testing.assert_allclose(observed["absmax"], np.abs(lead).max(-2), rtol=1e-5)


def mlp(p, x):
    return jnp.tanh(x @ p["w"]) @ p["v"]


def test_a_plain_model_with_every_statistic():
    found = observe(mlp, PARAMS, BATCHES, what=ALL)
    assert list(found) == ["w", "v"]
    x = jnp.concatenate(BATCHES)
    hidden = jnp.tanh(x @ PARAMS["w"])
    check(found["w"][0], x)
    check(found["v"][0], hidden)
    v = found["v"][0]
    assert (v.primitive, v.contracting, v.path) == ("dot_general", (0,), "v")
    assert v.source.startswith("test_observe.py")
    np.testing.assert_allclose(v["output_second_moment"], moments(hidden @ PARAMS["v"])[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(v["min"], np.min(hidden, 0), rtol=1e-5)
    np.testing.assert_allclose(v["max"], np.max(hidden, 0), rtol=1e-5)
    counts, edges = found["w"][0]["histogram"]
    np.testing.assert_array_equal(counts, np.histogram(np.asarray(x, np.float64), edges)[0])
    with pytest.raises(KeyError, match="'nonsense' was not observed at 'v'"):
        v["nonsense"]
    with pytest.raises(KeyError, match="nothing was observed at 'b'"):
        found["b"]


def test_roles_of_a_transposed_and_reshaped_kernel():
    """Features come in the order of the parameter's own axes."""

    def fn(p, x):
        return jnp.einsum("bji,ojk,ik->bo", x.reshape(4, 2, 3), p["w"].reshape(5, 2, 3), jnp.eye(3))

    params = {"w": normal(1, 5, 6)}
    (observed,) = observe(fn, params, [BATCHES[0]])["w"]
    assert observed.contracting == (1,)
    check(observed, BATCHES[0])


def scanned(p, x):
    def layer(x, w):
        return jnp.tanh(x @ w), None

    return lax.scan(layer, x, p["w"])[0]


def captured(ws, x):
    seen = []
    for w in ws:
        seen.append(x)
        x = jnp.tanh(x @ w)
    return jnp.stack(seen)


STACK = normal(3, 3, D, D) / 2


@pytest.mark.parametrize("wrap", [lambda f: f, jax.checkpoint, jax.jit, lift], ids=["plain", "remat", "jit", "lift"])
def test_scanned_weights_get_stacked_statistics(wrap):
    found = observe(wrap(scanned), {"w": STACK}, BATCHES)["w"]
    x = jnp.concatenate(BATCHES)
    check(found[0], captured(STACK, x), stack=(3,))


@pytest.mark.parametrize(
    "loop",
    [
        lambda p, x: lax.scan(lambda c, _: (jnp.tanh(c @ p["w"]), None), x, None, length=3)[0],
        lambda p, x: lax.fori_loop(0, 3, lambda i, s: (s[0], jnp.tanh(s[1] @ s[0])), (p["w"], x))[1],
        lambda p, x: lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, jnp.tanh(s[1] @ p["w"])), (0, x))[1],
    ],
    ids=["scan", "fori", "while"],
)
def test_constant_weights_get_a_sum(loop):
    (observed,) = observe(loop, {"w": STACK[0]}, BATCHES)["w"]
    check(observed, captured([STACK[0]] * 3, jnp.concatenate(BATCHES)))


def test_nested_loops_and_both_kinds():
    """A stack outside, a constant inside, twice."""

    def fn(p, x):
        def outer(x, w):
            return lax.scan(lambda c, _: (jnp.tanh(c @ w @ p["v"]), None), x, None, length=2)[0], None

        return lax.scan(outer, x, p["w"])[0]

    params = {"w": STACK, "v": jnp.eye(D) * 2}
    found = observe(fn, params, BATCHES)
    x, at_w, at_v = jnp.concatenate(BATCHES), [], []
    for w in STACK:
        for _ in range(2):
            at_w.append(x)
            at_v.append(x @ w)
            x = jnp.tanh(x @ w @ params["v"])
    rows = jnp.stack(at_w).reshape(3, -1, D)
    check(found["w"][0], rows, stack=(3,))
    check(found["v"][0], jnp.stack(at_v))


def test_branches():
    """Each branch counts what it saw; data that never reaches one is an error with its name."""

    def fn(p, x):
        return lax.cond(x[0, 0] > 0, lambda x: x @ p["a"], lambda x: x @ p["b"], x)

    params = {"a": normal(1, D, 2), "b": normal(2, D, 2)}
    up, down = jnp.abs(BATCHES[0]), -jnp.abs(BATCHES[1])
    found = observe(fn, params, [up, down, up])
    check(found["a"][0], jnp.concatenate([up, up]))
    check(found["b"][0], down)
    with pytest.raises(ValueError, match="'b' never met data in any batch"):
        observe(fn, params, [up, up])
    assert list(observe(fn, params, [up], where="a")) == ["a"]


def test_vmap_inside_and_stacks():
    fn = lambda p, x: jax.vmap(lambda row: jnp.tanh(row @ p["w"]))(x)  # noqa: E731
    check(observe(fn, PARAMS, BATCHES)["w"][0], jnp.concatenate(BATCHES))
    experts = lambda p, x: jnp.einsum("sbi,sio->sbo", x, p["w"])  # noqa: E731
    x = normal(5, 3, 4, D)
    check(observe(experts, {"w": STACK}, [x])["w"][0], x, stack=(3,))


@pytest.mark.parametrize("check_vma", [True, False])
def test_data_parallel_is_the_same_as_one_device(check_vma):
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    fn = jax.shard_map(mlp, mesh=mesh, in_specs=(P(), P("d")), out_specs=P("d"), check_vma=check_vma)
    batches = [normal(seed, 16, D) for seed in range(2)]
    ours, theirs = observe(fn, PARAMS, batches, what=ALL), observe(mlp, PARAMS, batches, what=ALL)
    for path in ("w", "v"):
        for name in ALL:
            for a, b in zip(jax.tree.leaves(ours[path][0][name]), jax.tree.leaves(theirs[path][0][name]), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        assert ours[path][0].count == theirs[path][0].count == 32


def test_split_weights_are_refused():
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    fn = jax.shard_map(lambda w, x: x @ w, mesh=mesh, in_specs=(P(None, "d"), P()), out_specs=P(None, "d"))
    with pytest.raises(ValueError, match="the parameter 'w' is split over devices inside shard_map"):
        observe(lambda p, x: fn(p["w"], x), {"w": normal(0, D, 8)}, BATCHES)


CONVOLUTIONS = {
    "plain": ((3, 2, 4, 5), ("NHWC", "HWIO", "NHWC"), {}),
    "strided": ((2, 3, 4, 5), ("NHWC", "HWIO", "NHWC"), {"window_strides": (2, 1)}),
    "dilated": ((2, 2, 4, 5), ("NHWC", "HWIO", "NHWC"), {"rhs_dilation": (2, 1)}),
    "torch_layout": ((5, 4, 3, 2), ("NHWC", "OIHW", "NHWC"), {}),
    "grouped": ((3, 2, 2, 6), ("NHWC", "HWIO", "NHWC"), {"feature_group_count": 2}),
    "depthwise": ((3, 3, 1, 4), ("NHWC", "HWIO", "NHWC"), {"feature_group_count": 4}),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_patches_of_a_convolution(name):
    """The second moment predicts the squared output of any kernel, and its features are in the kernel's order."""
    kernel, numbers, options = CONVOLUTIONS[name]
    options = {"window_strides": (1, 1), "padding": "SAME"} | options
    fn = lambda p, x: lax.conv_general_dilated(x, p["k"], dimension_numbers=numbers, **options)  # noqa: E731
    k, x = normal(1, *kernel), normal(2, 2, 6, 5, 4)
    (observed,) = observe(fn, {"k": k}, [x], what=("second_moment", "mean", "absmax", "output_second_moment"))["k"]
    out = np.asarray(fn({"k": k}, x), np.float64)
    groups = options.get("feature_group_count", 1)
    out_axis = numbers[1].index("O")
    flat = np.moveaxis(np.asarray(k, np.float64), out_axis, -1).reshape(-1, k.shape[out_axis])
    flat = np.stack(np.split(flat, groups, axis=1))  # [groups, features, outputs of the group]
    second = np.asarray(observed["second_moment"], np.float64).reshape(groups, *flat.shape[1:2] * 2)
    predicted = np.einsum("gio,gij,gjo->go", flat, second, flat).reshape(-1)
    np.testing.assert_allclose(predicted, (out**2).mean((0, 1, 2)), rtol=1e-4)
    mean = np.asarray(observed["mean"], np.float64).reshape(groups, -1)
    np.testing.assert_allclose(np.einsum("gi,gio->go", mean, flat).reshape(-1), out.mean((0, 1, 2)), atol=1e-4)
    second_out = np.asarray(observed["output_second_moment"]).reshape(groups, *flat.shape[2:] * 2)
    diagonal = np.einsum("goo->go", second_out).reshape(-1)
    np.testing.assert_allclose(diagonal, (out**2).mean((0, 1, 2)), rtol=1e-4)


def test_lookups_count_rows():
    fn = lambda p, i: p["t"][i] @ p["t"].T  # noqa: E731
    ids = [jnp.array([[0, 3], [3, 3]]), jnp.array([[8, 0], [1, 1]])]
    lookup, attend = observe(fn, {"t": normal(0, 9, 4)}, ids)["t"]
    np.testing.assert_array_equal(lookup["row_counts"], [2, 2, 0, 3, 0, 0, 0, 0, 1])
    assert lookup.contracting == (0,)
    assert attend.contracting == (1,)
    assert attend.count == 8


def test_tied_weights_have_an_entry_per_site():
    fn = lambda p, x: jnp.tanh(x @ p["w"]) @ p["w"].T  # noqa: E731
    first, second = observe(fn, PARAMS, BATCHES)["w"]
    x = jnp.concatenate(BATCHES)
    check(first, x)
    check(second, jnp.tanh(x @ PARAMS["w"]))


def test_two_parts_of_one_leaf_in_one_product():
    """A rolled weight is a join of two slices of itself: two sites, whatever their sizes."""
    fn = lambda p, x: x @ jnp.roll(p["w"], 2, axis=0)  # noqa: E731
    first, second = observe(fn, PARAMS, BATCHES)["w"]
    x = jnp.concatenate(BATCHES)
    check(first, x[:, :2])
    check(second, x[:, 2:])


def test_masked_weights_are_still_observed():
    fn = lambda p, x: x @ (p["w"] * jnp.tri(D))  # noqa: E731
    check(observe(fn, PARAMS, BATCHES)["w"][0], jnp.concatenate(BATCHES))


@pytest.mark.parametrize("transform", [lambda f: f, lift], ids=["bare", "lifted"])
def test_packed_parameters(transform):
    """Served or materialized, a compressed leaf sees the same data as the dense model it stands for."""
    packed = {"w": Thin.random(0, D, D), "v": Grouped.of(PARAMS["v"], 2)}
    ours = observe(transform(mlp), packed, BATCHES)
    theirs = observe(mlp, materialize(packed), BATCHES)
    for path in ("w", "v"):
        for name in ("second_moment", "mean", "absmax"):
            np.testing.assert_allclose(ours[path][0][name], theirs[path][0][name], rtol=1e-4, atol=1e-4)


def test_compiled_once():
    """One trace for the sites and one for the pass, whatever the number of batches; a new shape is one more."""
    traces = []

    def fn(p, x):
        traces.append(x.shape)
        return mlp(p, x)

    observe(fn, PARAMS, BATCHES)
    assert len(traces) == 2
    traces.clear()
    observe(fn, PARAMS, [*BATCHES, BATCHES[0][:2]])
    assert len(traces) == 2  # the sites, and the new shape: the program of the first call is there


def test_programs_of_one_function_are_kept_apart_and_die_with_it():
    class Model:
        def apply(self, p, x):
            return x @ p if p.shape[0] == x.shape[1] else x @ p.T

    model, x = Model(), jnp.ones((3, 6))
    before = len(_PROGRAMS)
    for shape, axis in ((6, 2), 0), ((2, 6), 1), ((6, 2), 0):
        (entry,) = observe(model.apply, jnp.ones(shape), [x])[""]
        assert entry.contracting == (axis,)
    assert len(_PROGRAMS[id(model)]) == 2
    del model
    gc.collect()
    assert len(_PROGRAMS) == before


def test_leaves_per_pass_gives_the_same():
    whole, parts = observe(mlp, PARAMS, BATCHES, what=ALL), observe(mlp, PARAMS, BATCHES, what=ALL, leaves_per_pass=1)
    assert list(whole) == list(parts)
    for path in whole:
        for a, b in zip(
            jax.tree.leaves(dict(whole[path][0].values)), jax.tree.leaves(dict(parts[path][0].values)), strict=True
        ):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="leaves_per_pass= needs batches that can be iterated again"):
        observe(mlp, PARAMS, iter(BATCHES), leaves_per_pass=1)
    assert list(observe(mlp, PARAMS, iter(BATCHES))) == ["w", "v"]


def test_inputs_and_keywords():
    fn = lambda p, x, scale, *, sign: x @ p["w"] * scale * (1 if sign else -1)  # noqa: E731
    batches = [{"image": x, "label": 0} for x in BATCHES]
    inputs = lambda batch: (batch["image"], jnp.float32(2))  # noqa: E731
    found = observe(fn, PARAMS, batches, inputs=inputs, sign=True)
    check(found["w"][0], jnp.concatenate(BATCHES))
    pairs = [(x, jnp.float32(1)) for x in BATCHES]
    check(observe(fn, PARAMS, pairs, sign=False)["w"][0], jnp.concatenate(BATCHES))


def test_where():
    assert list(observe(mlp, PARAMS, BATCHES, where="v")) == ["v"]
    assert list(observe(mlp, PARAMS, BATCHES, where=["*", "!v"])) == ["w"]
    assert list(observe(mlp, PARAMS, BATCHES, where=lambda path, site: site.shape[1] == 3)) == ["v"]
    with pytest.raises(ValueError, match=r"(?s)where='nothing' matches no weight.*w\n  v"):
        observe(mlp, PARAMS, BATCHES, where="nothing")


def test_errors():
    with pytest.raises(ValueError, match="what='moment' is not known"):
        observe(mlp, PARAMS, BATCHES, what="moment")
    with pytest.raises(ValueError, match="gave no batch"):
        observe(mlp, PARAMS, [])
    broken = [BATCHES[0], BATCHES[1].at[0, 2].set(jnp.nan)]
    with pytest.raises(
        ValueError, match=r"1 values that are not finite met 'w' \(dot_general at test_observe.*batch 1"
    ):
        observe(mlp, PARAMS, broken, what="absmax")
    exploding = lambda p, x: (x @ p["w"] / jnp.float32(0)) @ p["v"]  # noqa: E731
    with pytest.raises(ValueError, match="not finite met 'v'"):
        observe(exploding, PARAMS, BATCHES)
    with pytest.raises(ValueError, match=r"sums over what met 'w' \(dot_general at .*\) overflow float32: multiply"):
        observe(mlp, PARAMS, [batch * jnp.float32(1e25) for batch in BATCHES], what="second_moment")


def test_parameters_are_left_alone():
    before = jax.tree.map(np.array, PARAMS)
    observe(mlp, PARAMS, BATCHES)
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.asarray, PARAMS))


def test_x64():
    fn = lambda p, x: lax.fori_loop(0, 3, lambda i, x: jnp.tanh(x @ p["w"]), x)  # noqa: E731
    with jax.enable_x64(True):
        params, batches = jax.tree.map(lambda a: jnp.asarray(np.float64(a)), (PARAMS["w"], BATCHES))
        (observed,) = observe(fn, {"w": params}, batches, what=ALL)["w"]
        check(observed, captured([params] * 3, jnp.concatenate(batches)))
