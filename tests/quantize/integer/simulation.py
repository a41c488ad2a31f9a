"""The float function with the roundings of an integer one: weights on their grids, values rounded at every site."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.interpreter import bind
from jaxcompress.core.tree import materialize
from jaxcompress.quantize.integer.build import known_arrays
from jaxcompress.quantize.integer.sums import Contract
from jaxcompress.quantize.integer.values import product


def simulated(int_fn, params, *inputs):
    """Results in floats: the same flat list of equations, with no integer arithmetic and no fixed point."""
    plan, entering, treedef = int_fn._trace(inputs)
    leaves = jax.tree.leaves(materialize(params))
    weights = _weights(plan, int_fn, leaves)
    grids = {site.value: int_fn.report.grids[name] for name, site in plan.sites.items()}

    @jax.jit
    def run(leaves, entering):
        env = dict(plan.flat.constants)

        def define(value, array):
            if value in weights:
                array = jnp.asarray(weights[value], jnp.float32)
            env[value] = _rounded(array, grids[value]) if value in grids else array

        for value, array in zip(plan.flat.inputs, [*leaves, *entering], strict=True):
            define(value, array)
        for step in plan.flat.steps:
            for value, array in zip(step.outputs, bind(step.eqn, [env[v] for v in step.inputs]), strict=True):
                define(value, array)
        return [env[value] for value in plan.flat.outputs]

    return jax.tree.unflatten(treedef, run(leaves, list(entering)))


def _rounded(x, grid):
    codes = jnp.clip(jnp.round(x / grid.scale) + grid.zero_point, grid.smallest, grid.largest)
    return ((codes - grid.zero_point) * grid.scale).astype(x.dtype)


def _weights(plan, int_fn, leaves):
    """What the int8 weights stand for, before factors and grids went into them."""
    arrays = known_arrays(plan, leaves)
    found = {}
    for node in plan.nodes:
        if not isinstance(node, Contract):
            continue
        held = {name: np.asarray(value, np.float64) for name, value in int_fn.params[node.name].items()}
        scale = held["multiplier"] * 2.0 ** (held["shift"] - 31) * int_fn.report.grids[node.grid].scale
        for at, part in enumerate(node.value.products):
            own = scale / (int_fn.report.grids[part.source.grid].scale * product(part.factors, arrays))
            codes = held[f"weight_{at}"]
            axes = part.op.channel_axes(codes.ndim)
            per_channel = own.reshape([codes.shape[axis] for axis in axes])
            shape = [codes.shape[axis] if axis in axes else 1 for axis in range(codes.ndim)]
            found[part.weight] = codes * np.transpose(per_channel, np.argsort(np.argsort(axes))).reshape(shape)
    return found
