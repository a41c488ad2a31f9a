"""Predictions of a file in a fresh process: `python -m jaxcompress.cli.fresh FILE IMAGES.npy LOGITS.npy`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from jaxcompress.artifact import load
from jaxcompress.cli.lenets import MODELS
from jaxcompress.cli.problem import logits
from jaxcompress.core.lift import lift


def fresh_logits(file: Path, images: np.ndarray) -> np.ndarray:
    """The outputs that a new process computes from a file alone.

    Raises:
        ChildProcessError: if the process fails; with what it wrote on standard error.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, returned = Path(folder) / "images.npy", Path(folder) / "logits.npy"
        np.save(given, images)
        command = [sys.executable, "-m", "jaxcompress.cli.fresh", str(file), str(given), str(returned)]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        if process.returncode:
            raise ChildProcessError(f"a fresh process could not run {file}:\n{process.stderr}")
        return np.load(returned)


def predict(file: str, given: str, returned: str) -> None:
    """Loads a file that the demo saved, and writes the outputs for the given images."""
    artifact = load(file)
    apply = lift(MODELS[artifact.meta["model"]].fn)
    np.save(returned, logits(apply, artifact.params, np.load(given)))


if __name__ == "__main__":
    predict(*sys.argv[1:])
