"""Lifted functions leave Python: for every platform, and with a batch size that is not known yet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

from jaxcompress.core.lift import lift
from jaxcompress.core.tree import materialize
from tests.core.kinds import Grouped, Probe, Thin

FUNCTIONS = {
    "dot": (lambda w, x: x @ w, "b, 6"),
    "leading_axes": (lambda w, x: jnp.tanh(x @ w).sum(0), "b, t, 6"),
    "left": (lambda w, x: w.T @ x.T, "b, 6"),
    "heads": (lambda w, x: jnp.einsum("bti,ihd->bhtd", x, w.reshape(6, 2, 4)), "b, t, 6"),
    "flattened": (lambda w, x: (x.reshape(-1, 6) @ w).reshape(*x.shape[:2], 8), "b, t, 6"),
    "copies": (lambda w, x: jnp.matmul(x[:, None], jnp.broadcast_to(w, (x.shape[0], 6, 8))), "b, 6"),
    "copies_reshaped": (lambda w, x: x @ jnp.broadcast_to(w, (x.shape[0], 6, 8)).reshape(-1, 8)[:6], "b, 6"),
    "rows": (lambda w, x: w[jnp.clip(jnp.int32(x), 0, 5)].sum(1), "b, 6"),
    "experts": (lambda w, x: jnp.einsum("bi,bio->bo", x[:, :3], w.reshape(2, 3, 8)[jnp.int32(x[:, 0] > 0)]), "b, 6"),
    "joined": (lambda w, x: x @ jnp.concatenate([w, w], 1), "b, 6"),
    "scan": (lambda w, x: lax.scan(lambda c, _: (jnp.tanh(c @ w @ w.T), None), x, None, length=2)[0], "b, 6"),
    "conv": (
        lambda w, x: lax.conv_general_dilated(x, w.reshape(2, 1, 3, 8), (1, 1), "SAME",
                                              dimension_numbers=("NHWC", "HWIO", "NHWC")),
        "b, 5, 5, 3",
    ),
}  # fmt: skip
LEAVES = {
    "probe": lambda: Probe.of(jnp.sin(jnp.arange(48.0)).reshape(6, 8)),
    "thin": lambda: Thin.random(0, 6, 8),
    "grouped": lambda: Grouped.of(jnp.sin(jnp.arange(48.0)).reshape(6, 8), 3),
}
PAIRS = [(name, "probe") for name in FUNCTIONS] + [("dot", "thin"), ("rows", "thin"), ("heads", "grouped")]


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_symbolic_batch_for_every_platform(name, kind):
    function, dims = FUNCTIONS[name]
    fn = lambda params, x: function(params["w"], x)  # noqa: E731
    params = {"w": LEAVES[kind]()}
    shape = export.symbolic_shape(dims)
    exported = export.export(jax.jit(lift(fn)), platforms=["cpu", "cuda", "tpu"])(
        params, jax.ShapeDtypeStruct(shape, jnp.float32)
    )
    again = export.deserialize(exported.serialize())
    x = jnp.cos(jnp.arange(float(np.prod([d if isinstance(d, int) else 3 for d in shape]))))
    x = x.reshape([d if isinstance(d, int) else 3 for d in shape])
    ours, theirs = again.call(params, x), fn(materialize(params), x)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_statics_are_in_the_program():
    def fn(params, x, *, train):
        return x @ params["w"] if train else x

    call = jax.jit(lambda p, x: lift(fn)(p, x, train=True))
    exported = export.export(call)({"w": LEAVES["thin"]()}, jnp.ones((2, 6)))
    assert exported.call({"w": LEAVES["thin"]()}, jnp.ones((2, 6))).shape == (2, 8)
