"""Counting compilations."""

import jax.monitoring
import pytest


@pytest.fixture
def compilations():
    """A function that returns how many programs XLA has compiled since the test began."""
    seen = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield lambda: len(seen)
    jax.monitoring.unregister_event_duration_listener(listen)
