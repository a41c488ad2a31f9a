"""A leaf kind that the package has never heard of, written as a third party would: one dataclass, here.

It goes through `lift`, the file format and every law without a line of the core knowing it.
"""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcompress.artifact import ArtifactError, load, save
from jaxcompress.core.explain import explain
from jaxcompress.core.leaf import CompressedArray, kind_class, leaf_kind
from jaxcompress.core.lift import lift
from tests.laws import leaf_battery as laws

ROOT = Path(__file__).resolve().parents[2]


@leaf_kind("thirdparty.signs", trainable=("rows", "cols"))
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Signs(CompressedArray):
    """Signs times a scale for each row and one for each column: ``rows * where(positive, 1, -1) * cols``."""

    positive: jax.Array  # bool, stack + (m, n)
    rows: jax.Array  # stack + (m, 1)
    cols: jax.Array  # stack + (1, n)

    @property
    def dtype(self) -> np.dtype:
        return self.rows.dtype

    def alignment(self) -> Any:
        axes = tuple(range(len(self.positive.shape)))
        return {"positive": axes, "rows": axes, "cols": axes}

    def signs(self) -> jax.Array:
        return jnp.where(self.positive, jnp.ones((), self.dtype), -jnp.ones((), self.dtype))

    def materialize(self) -> jax.Array:
        return self.rows * self.signs() * self.cols

    def matmul(self, x: Any, *, contract: Any, batch: Any, **options: Any) -> jax.Array | None:
        """Serves ``x @ w`` for a single matrix."""
        if self.ndim != 2 or contract[1] != (0,) or batch[1]:
            return None
        scaled = x * lax.broadcast_in_dim(self.rows[:, 0], x.shape, contract[0])
        out = lax.dot_general(scaled, self.signs(), (contract, batch), **options)
        return out * lax.broadcast_in_dim(self.cols[0], out.shape, (out.ndim - 1,)).astype(out.dtype)


def signs(w, stack):
    """The rank-one fit of the magnitudes."""
    del stack
    size = np.abs(np.asarray(w, np.float64))
    rows, cols = size.mean(-1, keepdims=True), size.mean(-2, keepdims=True)
    return Signs(w > 0, jnp.asarray(rows, w.dtype), jnp.asarray(cols / cols.mean(-1, keepdims=True), w.dtype))


@pytest.mark.parametrize(
    "law",
    [laws.jit_is_eager, laws.pytree, laws.stacks, laws.placement, laws.training, laws.exported],
    ids=lambda law: law.__name__,
)
def test_laws(law):
    law(signs)


def test_shape_and_dtype():
    laws.shape_and_dtype(signs, jnp.float32)
    leaf = signs(laws.matrix(), 0)
    assert leaf.stored_bits == 8 * 6 + 32 * (8 + 6)


def test_artifact(tmp_path):
    laws.stored(signs, tmp_path, jnp.float32, "zstd")


def test_lift_serves_it():
    """Its own product is used where it has one; elsewhere it is made dense, and that is told."""
    params, x = {"w": signs(laws.matrix(), 0)}, jnp.ones((4, 8))

    def fn(params, x):
        return (x @ params["w"]) @ params["w"].T

    found = explain(fn, params, x)
    assert [line.served for line in found] == [True, False]
    assert "thirdparty.signs" in found[1].how
    dense = {"w": params["w"].materialize()}
    np.testing.assert_allclose(lift(fn)(params, x), fn(dense, x), rtol=1e-5)


def test_an_unregistered_kind_is_refused_by_name(tmp_path):
    """A process that has not imported the kind's module is told what is missing."""
    path = tmp_path / "model.jxc"
    save(path, {"w": signs(laws.matrix(), 0)})
    assert load(path).params["w"].kind == "thirdparty.signs"
    code = (
        "import sys\n"
        "from jaxcompress.artifact import ArtifactError, load\n"
        "try:\n    load(sys.argv[1])\n"
        "except ArtifactError as error:\n    print(error)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True, env=environment
    )
    assert "thirdparty.signs" in run.stdout
    assert issubclass(ArtifactError, ValueError)


def test_a_name_belongs_to_one_class():
    """The name is written into files: a second class may not take it; defining the same class again may."""

    def again():
        @leaf_kind("thirdparty.signs")
        @dataclasses.dataclass(frozen=True, eq=False, repr=False)
        class Other(Signs):
            pass

        return Other

    with pytest.raises(ValueError, match=r"thirdparty\.signs.*Signs"):
        again()
    assert kind_class("thirdparty.signs") is Signs
    with pytest.raises(KeyError, match="no_such_kind"):
        kind_class("no_such_kind")
