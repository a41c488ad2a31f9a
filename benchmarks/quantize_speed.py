"""Time of calibrated quantization against qwix 0.1.8: GPTQ, AWQ and SmoothQuant of one network, GPTQ of one matrix.

    python -m benchmarks.quantize_speed [--quick] [--json PATH]

The network is an MLP 64-1024-1024-10 that has learned the digits of scikit-learn. Each library calibrates on the same
256 images and quantizes: GPTQ and AWQ to 4 bits in groups of 32, SmoothQuant to 8 bits with 8-bit activations. What is
timed is the whole call that a user makes, calibration included (ours: `jc.observe` and the method). Every library and
method has a process of its own, so that the first call compiles everything; the second call is the same call again.
Rows named ``... over qwix`` are ratios, qwix's seconds over ours: of first calls, or of second calls where they say so.
The errors beside are those of the logits on 500 other images, relative to their norm.

``gptq 512`` is GPTQ of a 512 x 512 matrix with a given second moment, without calibration; the error is that of its
output.

`--quick`: an MLP 32-32-10 on half of the pixels, all methods of a library in one process, no 512 x 512 matrix (qwix
compiles for more than a minute there); keeps no results. The kept run takes qwix about ten minutes.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import digits
from benchmarks.results import report, row

LIBRARIES = ("ours", "qwix")
METHODS = ("gptq", "awq", "smoothquant")
MATRIX = "gptq 512"
WIDTHS = {False: (64, 1024, 1024, 10), True: (32, 32, 10)}  # by quick; the first is that of the input
PEER = "qwix 0.1.8"

Measured = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small network, under a minute; keeps no results")
    parser.add_argument("--json", metavar="PATH", help="also write the rows there")
    parser.add_argument("--measure", nargs="+", metavar=("LIBRARY", "METHOD"), help=argparse.SUPPRESS)
    parser.add_argument("--variables", metavar="PATH", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        library, *methods = options.measure
        print(json.dumps(measure(library, methods, options.variables, quick=options.quick)))
        return
    model, problem = digits.MLP(WIDTHS[options.quick][1:]), digits.load(WIDTHS[options.quick][0])
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "variables.npz")
        digits.store(path, digits.trained(model, problem))
        turns = [METHODS] if options.quick else [(method,) for method in (*METHODS, MATRIX)]
        found = {library: {} for library in LIBRARIES}
        for methods in turns:
            for library in LIBRARIES:
                found[library] |= in_fresh_process(library, methods, path, quick=options.quick)
                print(library, methods, found[library][methods[-1]], flush=True)
    rows = [line for method in found["ours"] for line in compared(method, found["ours"][method], found["qwix"][method])]
    report("quantize_speed", rows, json_path=options.json, keep=not options.quick)


def in_fresh_process(library: str, methods: Sequence[str], variables: str, *, quick: bool) -> dict[str, Measured]:
    """`measure` where nothing is compiled yet."""
    command = [sys.executable, "-m", "benchmarks.quantize_speed", "--variables", variables]
    command += ["--quick"] * quick + ["--measure", library, *methods]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{run.stderr}")
    return json.loads(run.stdout.splitlines()[-1])


def measure(library: str, methods: Sequence[str], variables: str, *, quick: bool) -> dict[str, Measured]:
    """Seconds of the first and second call of every method, and how good the result is."""
    side = importlib.import_module(f"benchmarks.quantize_speed_{library}")
    model, problem = digits.MLP(WIDTHS[quick][1:]), digits.load(WIDTHS[quick][0])
    params = jax.block_until_ready(digits.restored(variables))
    found: dict[str, Measured] = {}
    for method in methods:
        if method == MATRIX:
            found[method] = matrix(side)
            continue
        call = side.run(method, model, params, problem.calibration)
        times, quantized = two_calls(call)
        out = side.logits(method, model, quantized, jnp.asarray(problem.test_images))
        exact = model.apply(params, problem.test_images)
        found[method] = times | digits.quality(out, exact, problem.test_labels)
    return found


def matrix(side: Any, size: int = 512) -> Measured:
    """GPTQ of one random matrix and correlated data."""
    rng = np.random.default_rng(0)
    weight, data = (jnp.asarray(rng.normal(size=(size, size)), jnp.float32) for _ in range(2))
    data = data + 0.5 * jnp.roll(data, 1, axis=0)
    call, dense = side.gptq_matrix(weight, data)
    times, quantized = two_calls(call)
    lost = jnp.linalg.norm((dense(quantized) - weight) @ data) / jnp.linalg.norm(weight @ data)
    return times | {"error": float(lost)}


def two_calls(call: Callable[[], Any]) -> tuple[Measured, Any]:
    """Seconds of a call that compiles, and of the same call again; what it returned."""
    start = time.perf_counter()
    call()
    middle = time.perf_counter()
    result = call()
    return {"first": middle - start, "second": time.perf_counter() - middle}, result


def compared(method: str, ours: Measured, theirs: Measured) -> list[dict[str, Any]]:
    """Rows of one method: ratios of times, times, errors."""
    rows = [
        row(f"{method} over qwix", theirs["first"] / ours["first"], "x", PEER, 1.0),
        row(f"{method} over qwix second call", theirs["second"] / ours["second"], "x", PEER, 1.0),
        row(f"{method} first call", ours["first"], "s", PEER, theirs["first"]),
        row(f"{method} second call", ours["second"], "s", PEER, theirs["second"]),
        row(f"{method} error", ours["error"], "relative", PEER, theirs["error"]),
    ]
    if "accuracy" in ours:
        rows.append(row(f"{method} accuracy", ours["accuracy"], "%", PEER, theirs["accuracy"]))
    return rows


if __name__ == "__main__":
    main()
