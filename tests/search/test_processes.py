"""A search of two processes with two devices each: the same fitness as on one device, and one checkpoint for both."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.search import climbing

ROOT = Path(__file__).resolve().parents[2]


def free_port():
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def test_two_processes_find_what_one_device_finds(tmp_path):
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=2")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags}
    command = [sys.executable, str(ROOT / "tests/search/climbing.py"), str(free_port())]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment, "cwd": ROOT}
    processes = [subprocess.Popen([*command, str(i), "2", str(tmp_path)], **pipes) for i in range(2)]
    try:
        told = [process.communicate(timeout=150) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for process, (_, errors) in zip(processes, told, strict=True):
        assert process.returncode == 0, errors[-3000:]
    columns = climbing.search(4 * climbing.BATCH).archive.columns
    error, codes = columns.metrics["error"].tobytes().hex(), columns.genes.codes.tobytes().hex()
    for out, _ in told:
        assert f"FOUND sharded {error} {codes}" in out
    # What they wrote together is the state of the search of one process, too.
    resumed = climbing.search(5 * climbing.BATCH, checkpoint=tmp_path)
    assert resumed.archive.columns.metrics["error"].tobytes().hex().startswith(error)
    assert len(resumed.archive) == 5 * climbing.BATCH
