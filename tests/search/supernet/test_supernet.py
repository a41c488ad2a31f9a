"""Any model as a supernet: masked is extracted, subnets are really smaller, one program serves them all."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.search.supernet import Supernet
from tests.core.groups.law import QUICK
from tests.core.shrink.models import MODELS
from tests.zoo import ZOO
from tests.zoo.model import arrays, data

TOLERANCE = 1e-5  # relative to the largest output: float32 sums of a few dozen products in another order


def mlp():
    """Three residual blocks, the first of which also changes the width."""

    def fn(p, x):
        x = jax.nn.relu(x @ p["into"]["w"])
        for name in ("one", "two"):
            x = x + jax.nn.relu(x @ p[name]["a"] + p[name]["b"][None]) @ p[name]["c"]
        return x @ p["head"]["w"]

    block = {"a": (8, 12), "b": (12,), "c": (12, 8)}
    shapes = {"into": {"w": (5, 8)}, "one": block, "two": block, "head": {"w": (8, 3)}}
    return fn, {name: arrays(i, **leaves) for i, (name, leaves) in enumerate(shapes.items())}, (data(4, 5),), {}


def from_zoo(name):
    model = ZOO[name].model
    return model.fn, model.params, model.inputs, dict(model.kwargs)


NETWORKS = {
    "mlp": mlp,
    "transformer": lambda: MODELS["transformer"]()[:4],
    **{name: functools.partial(from_zoo, name) for name in ("vision_resnet_a", "vision_mobilenet", "vision_vit")},
    **{
        name: functools.partial(from_zoo, name)
        for name in ("vision_mobilenet_v2", "recurrent_classifier", "nnx_cnn", "moe_scanned")
    },
}
QUICK_ONES = ("mlp",)


@functools.cache
def network(name):
    fn, params, inputs, kwargs = NETWORKS[name]()
    supernet = Supernet.from_model(fn, params, *inputs, widths=(0.25, 0.5, 0.75, 1.0), round_to=1, **kwargs)
    return supernet, inputs, kwargs


def close(ours, theirs):
    assert ours.shape == theirs.shape
    assert float(jnp.max(jnp.abs(ours - theirs))) <= TOLERANCE * float(jnp.max(jnp.abs(theirs)))


@pytest.mark.parametrize("name", [n if n in QUICK_ONES else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS])
def test_extracted_is_masked_and_smaller(name, compilations):
    """Equal outputs from one program; sizes and FLOPs (XLA's and ours) fall as told. On the extremes and one more."""
    supernet, inputs, kwargs = network(name)
    space, params = supernet.space, supernet.params

    def evaluate(params, genes, inputs):
        genome = space.decode(genes)
        costs = supernet.flops(genome), supernet.parameters(genome), supernet.bytes(genome)
        return supernet.apply(params, genome, *inputs, **kwargs), costs

    run = jax.jit(evaluate, compiler_options=QUICK)
    genes = [supernet.largest, space.sample(jax.random.key(1), ()), supernet.smallest]
    found = [run(params, g, inputs) for g in genes]
    assert compilations("evaluate") == 1
    dense = jax.jit(lambda p, x: supernet.fn(p, *x, **kwargs)).lower(params, inputs).compile(QUICK)
    close(found[0][0], dense(params, inputs))
    assert float(found[0][1][0]) == supernet.groups.flops()
    flops = [dense.cost_analysis()["flops"]]
    for g, (masked, (our_flops, our_parameters, our_bytes)) in zip(genes[1:], found[1:], strict=True):
        small = supernet.extract(params, g)
        compiled = jax.jit(lambda p, x, fn=small.fn: fn(p, *x, **kwargs)).lower(small.params, inputs).compile(QUICK)
        close(compiled(small.params, inputs), masked)
        leaves = jax.tree.leaves(small.params)
        assert float(our_parameters) == sum(leaf.size for leaf in leaves)
        assert float(our_bytes) == sum(leaf.nbytes for leaf in leaves)
        assert float(our_flops) == jc.groups(small.fn, small.params, *inputs, **kwargs).flops()
        flops.append(compiled.cost_analysis()["flops"])
    assert flops[2] <= flops[1] <= flops[0]
    assert flops[2] < 0.6 * flops[0]
    assert float(found[2][1][1]) < 0.6 * float(found[0][1][1])


def test_units_go_in_the_order_of_their_weights():
    supernet, _, _ = network("mlp")
    total = np.abs(supernet.params["one"]["a"]).sum(0) + np.abs(supernet.params["one"]["c"]).sum(1)
    small = supernet.extract(supernet.params, {"width": {"one": 6}})
    assert small.keep["one/a", 1].tolist() == sorted(np.argsort(-total)[:6].tolist())
    other = jax.tree.map(lambda leaf: leaf, supernet.params)
    other["one"]["a"] = other["one"]["a"] * jnp.where(jnp.arange(12) < 6, 1e-3, 1.0)[None]
    other["one"]["c"] = other["one"]["c"] * jnp.where(jnp.arange(12) < 6, 1e-3, 1.0)[:, None]
    again = supernet.reordered(other)
    assert again.space == supernet.space
    assert again.extract(other, {"width": {"one": 6}}).keep["one/a", 1].tolist() == [6, 7, 8, 9, 10, 11]


def test_space_of_a_residual_network():
    supernet, _, _ = network("mlp")
    assert supernet.space.names == ("depth/one", "depth/two", "width/into", "width/one", "width/two")
    assert supernet.space.size == 4 * (1 + 4) ** 2  # the width of a block that is gone is no difference
    assert supernet.space.config(supernet.uniform(0.3)) == {
        "depth": {"one": 1, "two": 1}, "width": {"into": 4, "one": 6, "two": 6}
    }  # fmt: skip
    assert supernet.space.config(supernet.smallest) == {"depth": {"one": 0, "two": 0}, "width": {"into": 2}}
    assert "100 subnets" in repr(supernet)


def test_layers_of_a_scan_are_elastic():
    supernet, _, _ = network("transformer")
    one = {"depth": {"ScanCheckpointBlock_0": 1}}
    small = supernet.extract(supernet.params, one)
    stacked = small.params["params"]["ScanCheckpointBlock_0"]
    assert {leaf.shape[0] for leaf in jax.tree.leaves(stacked)} == {1}
    assert float(supernet.flops(one)) < 0.6 * float(supernet.flops({}))


def test_a_stack_that_is_no_residual_one_is_left_alone():
    def fn(p, x):
        return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p["w"])[0] @ p["v"] @ p["u"]

    params = arrays(w=(3, 4, 4), v=(4, 8), u=(8, 2))
    supernet = Supernet.from_model(fn, params, data(2, 4), round_to=1)
    assert supernet.space.names == ("width/v",)


def test_gradients_of_what_is_dropped_are_zero():
    supernet, inputs, _ = network("mlp")
    genome = {"depth": {"two": 0}, "width": {"one": 3}}
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(supernet.apply(p, genome, *inputs) ** 2)))(supernet.params)
    small = supernet.extract(supernet.params, genome)
    theirs = jax.jit(jax.grad(lambda p: jnp.sum(small.fn(p, *inputs) ** 2)))(small.params)
    for ours, dense in zip(jax.tree.leaves(small.expand(theirs)), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(ours, dense, rtol=1e-5, atol=1e-5)
    assert not np.any(np.asarray(gradient["two"]["a"]))


@pytest.mark.slow
def test_subnets_side_by_side():
    supernet, inputs, _ = network("mlp")
    genes = supernet.space.sample(jax.random.key(3), 5)
    at_once = jax.jit(jax.vmap(lambda g: supernet.apply(supernet.params, g, *inputs)))(genes)
    alone = jax.jit(lambda g: supernet.apply(supernet.params, g, *inputs))
    for i in range(5):
        close(at_once[i], alone(jax.tree.map(lambda rows, i=i: rows[i], genes)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"widths": (0.5, 1.5)}, r"fractions in \(0, 1\], got 1\.5"),
        ({"widths": "some"}, "fractions or 'all', got 'some'"),
        ({"widths": None, "depth": False}, "nothing is elastic"),
        ({"where": "**/nothing"}, "fits no group"),
        ({"widths": 0.5}, r"widths= are fractions, \(0\.5, 1\.0\), .*got 0\.5"),
        ({"widths": {"three/*": (0.5,)}}, r"'three/\*' in widths= fits no group"),
        ({"depth": ["two", "three"]}, r"'three' fits no branch or stack .*\['two'\]"),
    ],
)
def test_arguments_are_checked(arguments, words):
    fn, params, inputs, _ = mlp()
    with pytest.raises(ValueError, match=words):
        Supernet.from_model(fn, params, *inputs, **arguments)


def test_compressed_and_missing_leaves_are_named():
    supernet, inputs, _ = network("mlp")
    pruned = jc.prune.magnitude(supernet.params, sparsity=0.5, where="one/a")
    with pytest.raises(ValueError, match="'one/a' is compressed"):
        supernet.apply(pruned, supernet.smallest, *inputs)
    with pytest.raises(ValueError, match="no leaf at 'head/w'"):
        supernet.mask({"one": supernet.params["one"]}, supernet.smallest)
    with pytest.raises(ValueError, match=r"width must be in \(0, 1\]"):
        supernet.uniform(0.0)
    with pytest.raises(ValueError, match=r"no 'three' in width; there are \['into', 'one', 'two'\]"):
        supernet.apply(supernet.params, {"width": {"three": 1}}, *inputs)
    with pytest.raises(ValueError, match=r"one genome, got genes of the shape \(2, 5\)"):
        supernet.counts(supernet.space.sample(jax.random.key(0), 2))


@pytest.mark.parametrize(
    ("genome", "error", "words"),
    [
        ({"width": {"into": 0}}, ValueError, "'into' must be a whole number from 1 to 8, got 0"),
        ({"width": {"into": -1}}, ValueError, "got -1"),  # the mask would drop all, the cut keep all but one
        ({"width": {"into": 99}}, ValueError, "got 99"),
        ({"width": {"into": 2.5}}, ValueError, "got 2.5"),
        ({"depth": {"two": 7}}, ValueError, "'two' must be a whole number from 0 to 1, got 7"),
        ({"width": {"into": np.array([2, 4])}}, ValueError, r"'into' has the shape \(2,\): give one genome"),
        ({"width/into": 2}, TypeError, r"nested dict.*got 2 for 'width/into'"),
        ([1, 2], TypeError, r"nested dict.*got \[1, 2\]"),
    ],
)
def test_genomes_are_checked(genome, error, words):
    supernet, *_ = network("mlp")
    with pytest.raises(error, match=words):
        supernet.counts(genome)


def test_which_variables_there_are_is_chosen():
    fn, params, inputs, _ = mlp()
    found = Supernet.from_model(fn, params, *inputs, widths={"one/b": "all"}, depth="two", round_to=4)
    assert found.space.names == ("depth/two", "width/one")
    assert found.space.config(found.largest) == {"depth": {"two": 1}, "width": {"one": 12}}
    assert found.space.cardinalities == (2, 3)
    kept = Supernet.from_model(fn, params, *inputs, protect="into/**", depth=False)
    assert kept.space.names == ("width/one", "width/two")
