"""Every leaf kind obeys the laws of leaves."""

import jax.numpy as jnp
import pytest

from tests.laws import leaf_battery as laws
from tests.laws.compressors import KINDS, RELATED, ROUNDING_DATA

ALL = KINDS | RELATED | ROUNDING_DATA
every_kind = pytest.mark.parametrize("compress", ALL.values(), ids=ALL)


@every_kind
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=lambda dtype: dtype.__name__)
def test_shape_and_dtype(compress, dtype):
    laws.shape_and_dtype(compress, dtype)


@every_kind
def test_jit_is_eager(compress):
    laws.jit_is_eager(compress)


@every_kind
def test_pytree(compress):
    laws.pytree(compress)


@every_kind
def test_stacks(compress):
    laws.stacks(compress)


@pytest.mark.parametrize("compress", (KINDS | RELATED).values(), ids=KINDS | RELATED)
def test_scanned_product(compress):
    laws.scanned_product(compress)


@every_kind
def test_placement(compress):
    laws.placement(compress)


@every_kind
def test_training(compress):
    laws.training(compress)


@every_kind
def test_export(compress):
    laws.exported(compress)


@every_kind
@pytest.mark.parametrize("coder", ["zstd", "constriction"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=lambda dtype: dtype.__name__)
def test_artifact(compress, dtype, coder, tmp_path):
    laws.stored(compress, tmp_path, dtype, coder)
