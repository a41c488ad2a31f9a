"""What a shrunk model can do: every transformation, any batch size, optimizer states, compressed leaves, export."""

import functools
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import export

import jaxcompress as jc
from jaxcompress.cluster.codebook import Codebook
from jaxcompress.core.shrink import masked
from jaxcompress.factorize.lowrank import LowRank
from jaxcompress.prune.masked import Masked
from jaxcompress.quantize.affine import Quantized
from tests.core.shrink.models import kept, lenet, residual
from tests.zoo.model import data


def mlp(params, x):
    return jax.nn.relu(x @ params["a"]["kernel"] + params["a"]["bias"][None]) @ params["b"]["kernel"]


PARAMS = {
    "a": {"kernel": data(4, 8), "bias": data(8, seed=2)},
    "b": {"kernel": data(8, 3, seed=3)},
    "steps": jnp.int32(7),
}
KEEP = kept(("a/kernel", 1, [1, 2, 6]), ("a/bias", 0, [1, 2, 6]), ("b/kernel", 0, [1, 2, 6]))
X = data(5, 4, seed=4)


@functools.cache
def small():
    return jc.shrink(mlp, PARAMS, KEEP)


def test_shapes_and_widths():
    assert jax.tree.map(jnp.shape, small().params) == {
        "a": {"kernel": (4, 3), "bias": (3,)}, "b": {"kernel": (3, 3)}, "steps": ()
    }  # fmt: skip
    assert small().widths == {"a": {"kernel": (4, 3), "bias": (3,)}, "b": {"kernel": (3, 3)}}
    assert "a/kernel: (4, 8) -> (4, 3)" in repr(small())
    assert small().fn.__name__ == "mlp"
    np.testing.assert_array_equal(PARAMS["a"]["kernel"].shape, (4, 8))


def test_calls_are_cached(compilations):
    traces = []

    def fn(params, x, flip=False):
        traces.append(None)
        return mlp(params, -x if flip else x)

    model = jc.shrink(fn, PARAMS, KEEP)
    assert not traces
    first = model.fn(model.params, X)
    model.fn(jax.tree.map(lambda a: a + 1, model.params), X + 1)
    assert len(traces) == 1
    model.fn(model.params, X, flip=True)
    model.fn(model.params, X, flip=True)
    assert len(traces) == 2
    jitted = jax.jit(model.fn)
    np.testing.assert_array_equal(jitted(model.params, X), first)
    x = X + 1
    before = compilations()
    jitted(model.params, x)
    assert compilations() == before
    alive = weakref.ref(fn)
    del fn, model, jitted, first
    gc.collect()
    assert alive() is None


def test_any_batch_size_and_vmap():
    model = small()
    whole = model.fn(model.params, X)
    for size in (1, 2, 0):
        np.testing.assert_allclose(model.fn(model.params, X[:size]), whole[:size], rtol=1e-6)
    by_row = jax.vmap(lambda x: model.fn(model.params, x[None])[0])(X)
    np.testing.assert_allclose(by_row, whole, rtol=1e-5)
    stacked = jax.tree.map(lambda a: jnp.stack([a, a * 2]), model.params)
    both = jax.vmap(model.fn, (0, None))(stacked, X)
    np.testing.assert_allclose(both[1], model.fn(jax.tree.map(lambda a: a * 2, model.params), X), rtol=1e-5)


def test_nothing_is_left_of_a_width():
    """Width 0: what comes out is what is left without the branch."""
    keep = kept(("a/kernel", 1, []), ("a/bias", 0, []), ("b/kernel", 0, []))
    model = jc.shrink(mlp, PARAMS, keep)
    np.testing.assert_array_equal(model.fn(model.params, X), jnp.zeros((5, 3)))
    assert jc.verify(mlp, PARAMS, keep, X)
    assert jax.tree.map(jnp.shape, jax.grad(lambda p: model.fn(p, X).sum(), allow_int=True)(model.params)) is not None


@pytest.mark.parametrize("empty", ["Conv_1", "Conv_2"])
def test_a_residual_branch_of_width_zero(empty):
    """The inner width of a block, then the block's own kernel: convolutions without features are zeros."""
    fn, params, inputs, _, _ = residual()
    keep = kept(("params/Conv_1/kernel", 3, []), ("params/Conv_2/kernel", 2, []))
    for name in ("scale", "bias"):
        keep |= kept((f"params/BatchNorm_1/{name}", 0, []))
    keep |= kept(("batch_stats/BatchNorm_1/mean", 0, []), ("batch_stats/BatchNorm_1/var", 0, []))
    assert jc.verify(fn, params, keep, *inputs)


def test_shapes_of_the_program_are_small():
    """No dense array is left in the program: the point of it all."""
    fn, params, inputs, _, keep = lenet()
    model = jc.shrink(fn, params, keep)
    text = jax.jit(model.fn).lower(model.params, *inputs).as_text()
    dense = jax.jit(fn).lower(params, *inputs).as_text()
    for shape in ("8x8x6xf32", "4x4x8xf32", "2x32xf32"):
        assert shape in dense
        assert shape not in text
    flops = [jax.jit(f).lower(p, *inputs).cost_analysis()["flops"] for f, p in ((model.fn, model.params), (fn, params))]
    assert flops[0] < 0.55 * flops[1]


def test_export_for_every_platform_with_an_unknown_batch():
    fn, params, _, _, keep = lenet()
    model = jc.shrink(fn, params, keep)
    (batch,) = export.symbolic_shape("b")
    exported = export.export(jax.jit(model.fn), platforms=["cpu", "cuda", "tpu"])(
        model.params, jax.ShapeDtypeStruct((batch, 8, 8, 1), jnp.float32)
    )
    x = data(3, 8, 8, 1)
    np.testing.assert_allclose(
        export.deserialize(exported.serialize()).call(model.params, x), model.fn(model.params, x), rtol=1e-5
    )


def test_compressed_further():
    """int8 leaves in the small tree: served in the small program, none made dense."""
    model = small()
    packed = jc.quantize.rtn(model.params, bits=8, sites=jc.sites(model.fn, model.params, X))
    explanation = jc.explain(model.fn, packed, X)
    assert [line.served for line in explanation if line.kind == "quantized"] == [True, True]
    assert not explanation.materialized
    lifted = jc.lift(model.fn)(packed, X)
    np.testing.assert_allclose(lifted, model.fn(jc.materialize(packed), X), rtol=1e-5, atol=1e-5)
    with pytest.raises(TypeError, match=r"shrink: mlp got a compressed leaf; call jaxcompress\.lift\(small\.fn\)"):
        model.fn(packed, X)


MASK = jnp.asarray(np.arange(24).reshape(8, 3) % 5 > 1)
CODES = jnp.asarray(np.arange(24).reshape(8, 3) % 7, jnp.uint8)
CHAINS = {
    "masked": lambda: Masked.create(PARAMS["b"]["kernel"], MASK),
    "quantized": lambda: Quantized.create(jnp.arange(24, dtype=jnp.int8).reshape(8, 3) - 9, data(8, 1, seed=6)),
    "int4": lambda: Quantized.create((CODES.astype(jnp.int8) - 3).astype(jnp.int4), data(1, 3, seed=6)),
    "lowrank": lambda: LowRank.create(data(8, 2, seed=6), data(2, 3, seed=7)),
    "masked_codebook": lambda: Masked.create(Codebook.create(CODES, data(7, seed=6)), MASK),
}


@pytest.mark.parametrize("kind", CHAINS)
def test_compressed_before(kind):
    """A leaf that is cut stays of its kind and keeps what it promised."""
    params = PARAMS | {"b": {"kernel": CHAINS[kind]()}}
    model = jc.shrink(mlp, params, KEEP)
    leaf, before = model.params["b"]["kernel"], params["b"]["kernel"]
    assert jax.tree.structure(leaf) == jax.tree.structure(before)
    np.testing.assert_allclose(leaf.materialize(), before.materialize()[jnp.array([1, 2, 6])], rtol=1e-4, atol=1e-6)
    report = jc.verify(mlp, params, KEEP, X)
    assert report.ok, report


def test_grouped_scales_cannot_be_cut():
    kernel = Quantized.create(jnp.ones((8, 3), jnp.int8), jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"the quantized leaf 'b/kernel' holds axis 0 in groups .*materialize"):
        jc.shrink(mlp, PARAMS | {"b": {"kernel": kernel}}, KEEP)
    dense = PARAMS | {"b": {"kernel": kernel}}
    assert jc.verify(mlp, jc.materialize(dense), KEEP, X)


def test_expand_and_masked():
    model = small()
    dense = model.expand(model.params)
    theirs = masked(PARAMS, KEEP)
    jax.tree.map(np.testing.assert_array_equal, dense, theirs)
    np.testing.assert_allclose(mlp(dense, X), model.fn(model.params, X), rtol=1e-5)
    packed = jc.quantize.rtn(model.params, bits=8, where="*/kernel")
    np.testing.assert_array_equal(model.expand(packed)["a"]["kernel"][:, 0], jnp.zeros(4))
    doubled = model.with_params(jax.tree.map(lambda a: a * 2, model.params))
    assert doubled.params["a"]["bias"].shape == (3,)
    assert doubled.fn is model.fn


def test_shrunk_twice():
    model = small()
    again = jc.shrink(
        model.fn, model.params, kept(("a/kernel", 1, [0, 2]), ("a/bias", 0, [0, 2]), ("b/kernel", 0, [0, 2]))
    )
    keep, shapes = again.from_start
    assert {key: indices.tolist() for key, indices in keep.items()} == {
        ("a/kernel", 1): [1, 6], ("a/bias", 0): [1, 6], ("b/kernel", 0): [1, 6]
    }  # fmt: skip
    assert shapes["a/kernel"] == (4, 8)
    direct = jc.shrink(mlp, PARAMS, keep)
    np.testing.assert_allclose(again.fn(again.params, X), direct.fn(direct.params, X), rtol=1e-6)


def test_abstract_parameters():
    shapes = jax.eval_shape(lambda: PARAMS)
    model = jc.shrink(mlp, shapes, KEEP)
    assert model.params["a"]["kernel"] == jax.ShapeDtypeStruct((4, 3), jnp.float32)
    assert jax.eval_shape(model.fn, model.params, X).shape == (5, 3)


def test_state_outputs_are_returned_small():
    fn, params, inputs, kwargs, keep = residual(train=True)
    model = jc.shrink(fn, params, keep)
    logits, state = model.fn(model.params, *inputs, **kwargs)
    assert logits.shape == (3, 4)
    assert jax.tree.map(jnp.shape, state["batch_stats"]) == jax.tree.map(jnp.shape, model.params["batch_stats"])
    again, _ = model.fn({**model.params, **state}, *inputs, **kwargs)
    assert again.shape == (3, 4)


def test_nnx():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.layers = nnx.List([nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)])
            self.norm = nnx.BatchNorm(8, rngs=rngs)

        def __call__(self, x):
            return self.layers[1](nnx.relu(self.norm(self.layers[0](x))))

    module = Model(nnx.Rngs(0))
    module.eval()
    fn, variables = jc.nnx.split(module)
    units = [0, 3, 4]
    rows = [("layers/0/kernel", 1, units), ("layers/0/bias", 0, units), ("layers/1/kernel", 0, units)]
    keep = kept(*rows, *((f"norm/{name}", 0, units) for name in ("scale", "bias", "mean", "var")))
    assert jc.verify(fn, variables, keep, X)


def test_in_shard_map_and_scan():
    model = small()
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec
    mapped = jax.shard_map(model.fn, mesh=mesh, in_specs=(spec(), spec("d")), out_specs=spec("d"))
    np.testing.assert_allclose(jax.jit(mapped)(model.params, X), model.fn(model.params, X), rtol=1e-6)
    _, rows = jax.lax.scan(lambda c, x: (c, model.fn(model.params, x[None])[0]), 0, X)
    np.testing.assert_allclose(rows, model.fn(model.params, X), rtol=1e-5)


# States of optimizers ---------------------------------------------------------------------------------------------

OPTIMIZERS = {
    "adamw": lambda: optax.adamw(1e-2),
    "muon": lambda: optax.contrib.muon(1e-2),
    "multi_steps": lambda: optax.MultiSteps(optax.adam(1e-2), 2),
    "injected": lambda: optax.inject_hyperparams(optax.adam)(1e-2),
    "partition": lambda: optax.multi_transform(
        {"slow": optax.adam(1e-3), "fast": optax.sgd(1e-1, momentum=0.5)},
        lambda params: jax.tree_util.tree_map_with_path(
            lambda path, _: "slow" if "a" in str(path[0]) else "fast", params
        ),
    ),
    "masked": lambda: optax.masked(optax.adam(1e-2), {"a": {"kernel": True, "bias": False}, "b": {"kernel": True}}),
    "ema": lambda: optax.chain(optax.adam(1e-2), optax.ema(0.9)),
    "gradual": lambda: jc.train.gradual_pruning(optax.adam(1e-2), sparsity=0.5, begin_step=0, end_step=1),
}


@functools.cache
def trained(name):
    """A step, and parameters and state after two of them on the masked model, whose dropped entries get no gradient."""
    tx = OPTIMIZERS[name]()

    @functools.partial(jax.jit, static_argnums=0)
    def step(fn, params, state):
        gradient = jax.grad(lambda p: jnp.sum(fn(p, X) ** 2))(params)
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    params = masked({key: PARAMS[key] for key in "ab"}, KEEP)
    state = tx.init(params)
    for _ in range(2):
        params, state = step(mlp, params, state)
    return tx, step, params, state


@pytest.mark.standard_promotion
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on(name):
    """A step of the cut parameters under the cut state is the cut of a step."""
    tx, step, params, state = trained(name)
    model = jc.shrink(mlp, params, KEEP)
    cut = model.tree(state)
    assert jax.tree.structure(cut) == jax.tree.structure(state)
    assert jax.tree.map(jnp.shape, cut) == jax.tree.map(jnp.shape, jax.eval_shape(tx.init, model.params))
    if name == "muon":  # orthogonalises a whole matrix: the cut of a step is no step of the cut
        return
    ours, _ = step(model.fn, model.params, cut)
    theirs = model.tree(step(mlp, params, state)[0])
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_masks_are_cut_with_the_weights():
    _, _, params, state = trained("gradual")
    model = jc.shrink(mlp, params, KEEP)
    finished = jc.prune.finish(model.params, model.tree(state))
    dense = jc.prune.finish(params, state)
    np.testing.assert_array_equal(finished["b"]["kernel"].mask, dense["b"]["kernel"].mask[jnp.array([1, 2, 6])])


def test_a_state_of_one_collection():
    """An optimizer of ``variables["params"]``: the paths lack the collection's name."""
    fn, variables, _, _, keep = residual()
    model = jc.shrink(fn, variables, keep)
    state = optax.adam(1e-3).init(variables["params"])
    cut = model.tree(state)
    assert jax.tree.map(jnp.shape, cut) == jax.tree.map(jnp.shape, optax.adam(1e-3).init(model.params["params"]))


@pytest.mark.slow
@pytest.mark.standard_promotion
def test_factored_moments():
    """Rows and columns of a factored moment are cut along the axis that each has; where factors change, it is reset."""
    fn = lambda p, x: x @ p["w"] @ p["v"]  # noqa: E731
    params = {"w": data(200, 150), "v": data(150, 140)}
    keep = kept(("w", 1, np.arange(0, 150, 2)), ("v", 0, np.arange(0, 150, 2)))
    tx = optax.adafactor(1e-2, min_dim_size_to_factor=64)
    _, state = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    model = jc.shrink(fn, params, keep)
    cut = model.tree(state)
    factored = next(s for s in jax.tree.leaves(cut, is_leaf=lambda s: hasattr(s, "v_row")) if hasattr(s, "v_row"))
    shapes = {name: (factored.v_row[name].shape, factored.v_col[name].shape) for name in "wv"}
    assert shapes == {"w": ((75,), (200,)), "v": ((140,), (75,))}
    fresh = tx.init(model.params)
    fitted = model.tree(state, like=fresh)
    assert jax.tree.map(jnp.shape, fitted) == jax.tree.map(jnp.shape, fresh)
    tx.update(jax.tree.map(jnp.ones_like, model.params), fitted, model.params)


@pytest.mark.standard_promotion
def test_factored_moments_of_square_weights():
    params = {"w": jnp.asarray(np.add.outer(np.arange(8.0), 10 * np.arange(8.0)), jnp.float32)}
    tx = optax.scale_by_factored_rms(min_dim_size_to_factor=4, decay_rate=0.8)
    _, state = tx.update(params, tx.init(params), params)
    model = jc.shrink(lambda p, x: x @ p["w"], params, {("w", 0): [1, 2, 3], ("w", 1): [4, 5, 6, 7]})
    cut = model.tree(state)
    np.testing.assert_array_equal(cut.v_row["w"], state.v_row["w"][1:4])
    np.testing.assert_array_equal(cut.v_col["w"], state.v_col["w"][4:])
    nameless = {"moments": {"w": state.v_row["w"]}}
    with pytest.raises(ValueError, match=r"'moments/w' has the shape \(8,\), its parameter \(8, 8\): which axis"):
        model.tree(nameless)
    np.testing.assert_array_equal(
        model.tree(nameless, like={"moments": {"w": jnp.zeros(3)}})["moments"]["w"], jnp.zeros(3)
    )
    with pytest.raises(ValueError, match="like= must have the structure"):
        model.tree(nameless, like={})
