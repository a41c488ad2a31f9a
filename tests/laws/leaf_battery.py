"""The laws that every leaf kind obeys, as functions of a compressor: a third party's kind goes through them too."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxcompress.artifact import load, save
from jaxcompress.core.fields import data_fields
from jaxcompress.core.leaf import CompressedArray, is_compressed
from jaxcompress.core.lift import lift
from jaxcompress.core.tree import in_axes, materialize, merge, split_trainable, stored_bytes
from tests.laws.compressors import Compressor

SHAPE, STACK = (8, 6), 3


def matrix(dtype: Any = jnp.float32, stack: bool = False) -> jax.Array:
    """What is compressed: (8, 6), or three of them."""
    shape = (STACK, *SHAPE) if stack else SHAPE
    return jnp.asarray(np.random.RandomState(4).standard_normal(shape), dtype)


def arrays(tree: Any) -> list[np.ndarray]:
    """The arrays of a tree as bytes that compare bit for bit."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def assert_same_bits(ours: Any, theirs: Any) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(arrays(ours), arrays(theirs), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert a.tobytes() == b.tobytes()


def shape_and_dtype(compress: Compressor, dtype: Any) -> None:
    """A leaf says of itself what `materialize` gives, and that is what was compressed; sizes are whole and positive."""
    for stack in (False, True):
        w = matrix(dtype, stack)
        leaf = compress(w, int(stack))
        dense = leaf.materialize()
        assert (leaf.shape, leaf.dtype, leaf.ndim, leaf.size) == (w.shape, w.dtype, w.ndim, w.size)
        assert (dense.shape, dense.dtype) == (w.shape, w.dtype)
        assert isinstance(leaf.stored_bits, int)
        assert 0 < leaf.stored_bits <= 8 * stored_bytes({"w": leaf})
        assert 8 * stored_bytes({"w": leaf}) - leaf.stored_bits < 8
        assert leaf.kind in repr(leaf).lower() or type(leaf).__name__ in repr(leaf)


def jit_is_eager(compress: Compressor) -> None:
    """One rounding of the order of products: a dot may run on other blocks under jit."""
    leaf = compress(matrix(), 0)
    np.testing.assert_allclose(jax.jit(materialize)(leaf), leaf.materialize(), rtol=1e-6, atol=1e-6)


def pytree(compress: Compressor) -> None:
    """Flatten and unflatten, with names; tree functions may build leaves out of anything."""
    leaf = compress(matrix(), 0)
    children, treedef = jax.tree.flatten(leaf)
    assert_same_bits(jax.tree.unflatten(treedef, children), leaf)
    placeholder = jax.tree.unflatten(treedef, [object()] * len(children))
    assert is_compressed(placeholder)
    assert jax.tree.structure(placeholder) == treedef
    assert hash(treedef) == hash(jax.tree.structure(compress(matrix(), 0)))
    named = jax.tree_util.tree_leaves_with_path(leaf)
    assert leaf.component_paths() == tuple("/".join(key.name for key in keys) for keys, _ in named)
    assert set(leaf.components()) == {name for name in data_fields(type(leaf)) if getattr(leaf, name) is not None}
    rank = {name: getattr(leaf, name).ndim for name in leaf.components()}
    assert {name: len(axes) for name, axes in leaf.alignment().items()} == rank
    doubled = jax.tree.map(lambda field: jnp.stack([field, field]), leaf)
    assert doubled.shape == (2, *leaf.shape)


def stacks(compress: Compressor) -> None:
    """A stacked leaf is its layers: under `vmap`, in `scan`, taken apart, mapped by `in_axes`."""
    stacked = compress(matrix(stack=True), 1)
    dense = stacked.materialize()
    layers = stacked.unstack()
    assert len(layers) == STACK
    for layer, expected in zip(layers, dense, strict=True):
        assert layer.shape == SHAPE
        np.testing.assert_allclose(layer.materialize(), expected, rtol=1e-6, atol=1e-6)
    mapped = jax.vmap(lambda leaf: leaf.materialize(), in_axes=(in_axes(stacked, 0),))(stacked)
    np.testing.assert_allclose(mapped, dense, rtol=1e-6, atol=1e-6)
    _, scanned = jax.lax.scan(lambda carry, leaf: (carry, leaf.materialize()), 0, stacked)
    np.testing.assert_allclose(scanned, dense, rtol=1e-6, atol=1e-6)


def scanned_product(compress: Compressor) -> None:
    """The layers of a stacked leaf multiply inside `scan`, forwards and transposed."""
    stacked = compress(matrix(stack=True), 1)
    dense = stacked.materialize()
    x = jnp.ones((2, SHAPE[0]))

    def through(params: Any, x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda c, w: (jnp.tanh(c @ w @ w.T), None), x, params)[0]

    np.testing.assert_allclose(lift(through)(stacked, x), through(dense, x), rtol=2e-5, atol=2e-5)


def placement(compress: Compressor) -> None:
    """`partition_specs` has the leaf's structure and one entry for every axis of every field."""
    leaf = compress(matrix(stack=True), 1)
    specs = leaf.partition_specs(PartitionSpec("layers", None, "model"))
    fields = jax.tree.leaves(leaf)
    found = jax.tree.leaves(specs, is_leaf=lambda x: isinstance(x, PartitionSpec))
    assert [len(spec) for spec in found] == [field.ndim for field in fields]
    assert all(spec[0] == "layers" for spec in found)
    held = any(2 in axes for axes in leaf.alignment().values())  # buckets run along no dense axis
    assert held == any("model" in spec for spec in found)


def training(compress: Compressor) -> None:
    """`split_trainable` and `merge` are inverse; gradients are finite, and some are not zero."""
    params = {"w": compress(matrix(), 0), "b": jnp.ones(SHAPE[1])}
    trainable, frozen = split_trainable(params)
    assert_same_bits(merge(trainable, frozen), params)
    x = jnp.asarray(np.random.RandomState(5).standard_normal((4, SHAPE[0])), jnp.float32)

    def loss(trainable: Any) -> jax.Array:
        params = merge(trainable, frozen)
        return jnp.sum(jnp.tanh(x @ params["w"].materialize() + params["b"][None]) ** 2)

    grads = jax.grad(loss)(trainable)
    assert all(bool(jnp.isfinite(grad).all()) for grad in jax.tree.leaves(grads))
    names = {keys[1].name for keys, _ in jax.tree_util.tree_leaves_with_path(grads) if len(keys) > 1}
    assert names <= set(type(params["w"]).trainable)
    if type(params["w"]).trainable and names:
        assert any(bool(jnp.any(grad != 0)) for grad in jax.tree.leaves(grads["w"]))


def exported(compress: Compressor) -> None:
    """One serialized program for three platforms, a symbolic batch, the leaf an argument; it runs after coming back."""
    params = {"w": compress(matrix(), 0)}
    run = jax.jit(lift(lambda params, x: x @ params["w"]))
    (batch,) = jax.export.symbolic_shape("batch")
    avals = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), params)
    program = jax.export.export(run, platforms=("cpu", "cuda", "tpu"))(
        avals, jax.ShapeDtypeStruct((batch, SHAPE[0]), jnp.float32)
    )
    again = jax.export.deserialize(program.serialize())
    assert again.platforms == ("cpu", "cuda", "tpu")
    for rows in (2, 5):
        x = jnp.asarray(np.random.RandomState(rows).standard_normal((rows, SHAPE[0])), jnp.float32)
        np.testing.assert_allclose(again.call(params, x), run(params, x), rtol=1e-6, atol=1e-6)


def stored(compress: Compressor, folder: Path, dtype: Any, coder: str) -> None:
    """The file gives back every bit, and its reported size is its size."""
    params = {"layers": [compress(matrix(dtype), 0), compress(matrix(dtype, stack=True), 1)]}
    path = folder / "model.jxc"
    written = save(path, params, coder=coder)
    assert written == os.path.getsize(path)
    loaded = load(path)
    assert loaded.file_bytes == written
    assert_same_bits(loaded.params, params)
    assert all(isinstance(leaf, CompressedArray) for leaf in loaded.params["layers"])
