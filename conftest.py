"""What holds for every test and every docstring example: 8 faked devices, strict promotion, fixed examples."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest

if cache := os.environ.get("JAXCOMPRESS_TEST_CACHE"):  # a folder: compiled programs survive there from run to run
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

hypothesis.settings.register_profile("jaxcompress", deadline=None, max_examples=30, derandomize=True)
hypothesis.settings.load_profile("jaxcompress")


@pytest.fixture(autouse=True)
def promotion(request):
    """Strict, so that our own arithmetic names its dtypes; standard where a third party's does not.

    Docstring examples run as a user would run them; so do tests marked ``standard_promotion``. Ranks are strict always.
    """
    relaxed = isinstance(request.node, pytest.DoctestItem) or request.node.get_closest_marker("standard_promotion")
    with jax.numpy_dtype_promotion("standard" if relaxed else "strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(autouse=True)
def names_in_docstrings(doctest_namespace):
    import jaxcompress as jc

    doctest_namespace.update(jax=jax, jnp=jnp, np=np, jc=jc)
