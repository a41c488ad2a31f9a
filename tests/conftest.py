"""What tests of every room may ask for: real data, a counter of compilations."""

import os
from pathlib import Path

import jax.monitoring
import pytest


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data: ``JAXCOMPRESS_DATA``, else ``../shared/data`` beside the checkout; skips without one."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("JAXCOMPRESS_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"needs the data folder: set JAXCOMPRESS_DATA ({folder} is not there)")
    return folder


@pytest.fixture
def compilations():
    """``compilations()``: how many programs XLA has compiled since the test began; ``(name)``: of functions so named.

    Not the size of a jitted function's cache: all functions of a process share 8,192 places, and what compiles after
    these are taken is not counted there.
    """
    seen = []

    def listen(event, _, fun_name=None, **__):
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield lambda name=None: len(seen) if name is None else seen.count(f"jit({name})")
    jax.monitoring.unregister_event_duration_listener(listen)
