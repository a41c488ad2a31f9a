"""Real data for the tests that want it."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data: ``JAXCOMPRESS_DATA``, else ``../shared/data`` beside the checkout; skips without one."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("JAXCOMPRESS_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"needs the data folder: set JAXCOMPRESS_DATA ({folder} is not there)")
    return folder
