"""What holds for every test and every docstring example: 8 faked devices, strict promotion, fixed examples.

Most of the time of the suite is XLA compiling small programs. So XLA's optimizer is off (what is tested is our
programs, not XLA), its fusion emitters too, which double that time, and what one worker has compiled the other one
loads. ``JAXCOMPRESS_TEST_CACHE`` names a folder in which compiled programs survive from run to run.
"""

import gc
import importlib.metadata
import os
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8 "
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
).strip()
if importlib.metadata.version("jaxlib").startswith("0.10."):  # XLA ends the process at a flag that it does not know
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest

CACHE = "JAXCOMPRESS_TEST_CACHE"
OWN_CACHE = pytest.StashKey[str]()

hypothesis.settings.register_profile("jaxcompress", deadline=None, max_examples=30, derandomize=True)
hypothesis.settings.load_profile("jaxcompress")


def pytest_configure(config):
    """A folder for compiled programs, made by the process that starts the workers and removed with it."""
    if CACHE not in os.environ:
        os.environ[CACHE] = config.stash[OWN_CACHE] = tempfile.mkdtemp(prefix="jaxcompress-tests-")
    jax.config.update("jax_compilation_cache_dir", os.environ[CACHE])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_unconfigure(config):
    if folder := config.stash.get(OWN_CACHE, None):
        del os.environ[CACHE]
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True, scope="module")
def room_for_programs():
    """Lets go of compiled programs before there are too many of them: each maps memory three times.

    Linux allows a process 65,530 mappings, and XLA ends in a segmentation fault when it gets no further one.
    """
    yield
    mappings = Path("/proc/self/maps")
    if mappings.is_file() and mappings.read_bytes().count(b"\n") > 30_000:
        jax.clear_caches()
        gc.collect()


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
