"""The subnet of an elastic module as a model of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import numpy as np
from jax.extend.core import Var

from jaxcompress.core.lift import array_paths, split_static, trace
from jaxcompress.core.paths import flatten_with_paths
from jaxcompress.search.supernet.elastic.layer import EXTRACTED, plain


@dataclasses.dataclass(frozen=True, eq=False)
class Standalone:
    """A subnet with parameters of its own.

    Attributes:
        fn: ``fn(params, *inputs, **kwargs)``: the module at this genome, for any batch size.
        params: its variables: sliced, cropped, transformed, and without what it does not use.
        genome: the choices, plain values.
    """

    fn: Callable[..., Any]
    params: Any
    genome: Any


def extract(module: nn.Module, variables: Any, genome: Any, *inputs: Any, **kwargs: Any) -> Standalone:
    """Cuts a subnet out of an elastic module: smaller parameters, fewer operations.

    The promise: ``small.fn(small.params, *inputs) == module.apply(variables, *inputs, genome=genome)`` up to rounding,
    where the genome of the right side is one of arrays. The kernel of a smaller size is transformed once and for all.

    Args:
        module: its ``__call__`` takes ``genome=`` and hands parts of it to elastic layers. Layers that read elastic
            channels are elastic themselves, with ``width=None`` where all their features stay.
        variables: of the whole module.
        genome: one decoded genome, concrete: a tree of numbers.
        *inputs: of the module; may be `jax.ShapeDtypeStruct`.
        **kwargs: keyword arguments of the module, in evaluation mode.

    Raises:
        ValueError: if a layer that is not elastic meets fewer channels than it has parameters for.

    Example:
        >>> from jaxcompress.search.supernet.elastic import ElasticDense
        >>> class Net(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x, genome):
        ...         return ElasticDense(2)(nn.relu(ElasticDense(8)(x, genome["width"])))
        >>> net, x = Net(), jnp.ones((1, 3))
        >>> variables = net.init(jax.random.key(0), x, {"width": 8})
        >>> small = extract(net, variables, {"width": jnp.int32(5)}, x)
        >>> jax.tree.map(jnp.shape, small.params)["params"]["ElasticDense_0"]
        {'bias': (2,), 'kernel': (5, 2)}
    """
    static = plain(genome)

    def fn(params: Any, *inputs: Any, **kwargs: Any) -> Any:
        return module.apply(params, *inputs, genome=static, **kwargs)

    def told(variables: Any, inputs: Any) -> Any:
        return module.apply(variables, *inputs, genome=static, mutable=[EXTRACTED], **kwargs)[1].get(EXTRACTED, {})

    numbers = jax.tree.map(_zeros, inputs)
    try:
        cut = jax.jit(told)(variables, numbers)
    except flax.errors.ScopeParamShapeError as error:
        raise ValueError(
            f"extract: a layer that is not elastic reads elastic channels ({error}); use ElasticDense, ElasticConv or "
            "ElasticBatchNorm there"
        ) from error
    small = _exchanged(variables, cut)
    return Standalone(fn, _used(fn, small, numbers, kwargs), static)


def _zeros(array: Any) -> Any:
    return np.zeros(array.shape, array.dtype) if isinstance(array, jax.ShapeDtypeStruct) else array


def _exchanged(variables: Any, cut: Any) -> Any:
    """The variables with those that elastic layers left, by the place of the layer."""

    def put(tree: Any, left: Any, collection: str) -> Any:
        if collection in left:  # an elastic layer, which has no modules inside
            return left[collection]
        return {name: put(tree[name], left[name], collection) if name in left else tree[name] for name in tree}

    return {collection: put(tree, cut, collection) for collection, tree in variables.items()}


def _used(fn: Callable[..., Any], variables: Any, inputs: Any, kwargs: Any) -> Any:
    """The variables that a call reads."""
    static, arrays = split_static(fn, (variables, *inputs), kwargs)
    closed, _ = trace(fn, static, arrays)
    count = len(flatten_with_paths(variables)[0])
    read = {v for eqn in closed.jaxpr.eqns for v in eqn.invars if isinstance(v, Var)} | set(closed.jaxpr.outvars)
    names = {
        path for path, var in zip(array_paths(static)[:count], closed.jaxpr.invars[:count], strict=True) if var in read
    }
    return _only(variables, names, "")


def _only(tree: Any, names: set[str], prefix: str) -> Any:
    """A nested dict with the leaves at some paths; dicts without any are left out."""
    kept = {}
    for name, value in tree.items():
        path = f"{prefix}/{name}" if prefix else name
        if isinstance(value, dict):
            value = _only(value, names, path)
            if value:
                kept[name] = value
        elif path in names:
            kept[name] = value
    return kept
