"""The law: ``lift(fn)(params, x) == fn(materialize(params), x)`` up to rounding, for kinds x models.

Eager, under `jit`, its gradient with respect to what trains, and under `vmap` over the inputs. Pairs in the normal run,
the full product in the slow one.
"""

import jax
import numpy as np
import pytest

from jaxcompress.core.lift import lift
from jaxcompress.core.tree import materialize, merge, split_trainable
from tests.laws.pairs import assert_close, call, compress, loss_of, pairs, product, tolerance
from tests.zoo import ZOO

# Saves some of the time XLA takes; what is compared is our program, not XLA's optimizer.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def check_law(name, kind):
    entry = ZOO[name]
    model = entry.model
    with entry.context():
        params = compress(model, kind)
        dense, lifted = call(model), call(model, lift)
        several = jax.tree.map(lambda x: np.stack([x, np.flip(x, 0)]), model.inputs)

        def run(trainable, frozen, inputs, several):
            """Pairs (ours, theirs) of all that the law speaks of; one program, since compiling is what takes time."""
            params = merge(trainable, frozen)
            pairs = {"jit": (lifted(params, inputs), dense(materialize(params), inputs))}
            if "no_grad" not in entry.tags:
                pairs["gradient"] = (
                    jax.grad(lambda t: loss_of(lifted)(merge(t, frozen), inputs))(trainable),
                    jax.grad(lambda t: loss_of(dense)(materialize(merge(t, frozen)), inputs))(trainable),
                )
            if "no_vmap" not in entry.tags:
                pairs["vmap"] = (
                    jax.vmap(lifted, in_axes=(None, 0))(params, several),
                    jax.vmap(dense, in_axes=(None, 0))(materialize(params), several),
                )
            return pairs

        found = jax.jit(run, compiler_options=QUICK)(*split_trainable(params), model.inputs, several)
        if (
            kind == "masked"
        ):  # `lift` compiles what it runs eagerly: one kind per model shows that it is the same program
            found["eager"] = (lifted(params, model.inputs), found["jit"][1])
    tol = tolerance(found["jit"][1])
    for mode, (ours, theirs) in found.items():
        # A gradient passes every layer twice.
        assert_close(ours, theirs, tol=4 * tol if mode == "gradient" else tol, what=mode)


def parametrized(chosen):
    return pytest.mark.parametrize(("name", "kind"), chosen, ids=lambda value: value)


@parametrized(pairs())
def test_pairs(name, kind, request):
    if "data" in ZOO[name].tags:
        request.getfixturevalue("data_folder")
    check_law(name, kind)


@pytest.mark.slow
@parametrized(product())
def test_product(name, kind, request):
    if "data" in ZOO[name].tags:
        request.getfixturevalue("data_folder")
    check_law(name, kind)
