"""An integer function leaves the process: bit-exact behind `jax.export`, for every platform, and from a file."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

import jaxcompress as jc
from tests.zoo.model import data

NHWC = ("NHWC", "HWIO", "NHWC")
PARAMS = {"k": 0.3 * data(3, 3, 3, 8, seed=1), "b": data(8, seed=2), "d": 0.3 * data(8, 5, seed=3)}
X = data(4, 8, 8, 3)


def network(p, x):
    y = lax.conv_general_dilated(x, p["k"], (2, 2), "SAME", dimension_numbers=NHWC) + p["b"][None, None, None]
    y = jax.nn.relu6(y)
    y = jnp.pad(y + jnp.flip(y, 1), ((0, 0), (0, 0), (0, 1), (0, 0)))
    return lax.reduce_window(y, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID").mean((1, 2)) @ p["d"]


@pytest.fixture(scope="module")
def int_fn():
    return jc.quantize.integer_only(network, PARAMS, [X])


FRESH = """
import sys
import numpy as np
from jax import export
call = export.deserialize(open(sys.argv[1], "rb").read()).call
held = np.load(sys.argv[2])
params = {}
for name in held.files:
    if "/" in name:
        node, field = name.split("/")
        params.setdefault(node, {})[field] = held[name]
for rows in (1, 4):
    out = np.asarray(call(params, held["x"][:rows]))
    assert (out == held["y"][:rows]).all(), (out, held["y"])
print("same bits")
"""


def test_exported_function_gives_the_same_bits_in_a_fresh_process(int_fn, tmp_path):
    """One file for a CPU, CUDA and TPU, any batch size; the loading process knows nothing of this package."""
    (batch,) = export.symbolic_shape("b")
    exported = export.export(jax.jit(int_fn.apply), platforms=["cpu", "cuda", "tpu"])(
        int_fn.params, jax.ShapeDtypeStruct((batch, *X.shape[1:]), jnp.float32)
    )
    (tmp_path / "f.bin").write_bytes(exported.serialize())
    flat = {f"{node}/{name}": value for node, fields in int_fn.params.items() for name, value in fields.items()}
    np.savez(tmp_path / "p.npz", x=X, y=int_fn(X), **flat)
    run = subprocess.run(
        [sys.executable, "-c", FRESH, tmp_path / "f.bin", tmp_path / "p.npz"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout.strip() == "same bits", run.stderr[-2000:]


def test_parameters_in_a_file(int_fn, tmp_path):
    """The parameters are a tree of arrays; the function takes those of a file."""
    written = jc.save(tmp_path / "model.jxc", int_fn.params)
    assert written > 0
    held = jc.load(tmp_path / "model.jxc").params
    again = int_fn.with_params(held)
    np.testing.assert_array_equal(again(X), int_fn(X))
    for ours, theirs in zip(jax.tree.leaves(int_fn.params), jax.tree.leaves(held), strict=True):
        assert ours.dtype == theirs.dtype
