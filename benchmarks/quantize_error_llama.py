"""The Llama half of `benchmarks.quantize_error`: perplexity and file bytes of post-training methods."""

from __future__ import annotations

import dataclasses
import functools
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

import jaxcompress as jc
from benchmarks.pruning_llama import BATCH, DENSE, model, perplexity
from benchmarks.results import row
from tests.zoo import llama

Rows = list[dict[str, Any]]
WEIGHTS = ("emb", "layers/**/w*")
CALIBRATION, WINDOWS = 32, 144
REFINE = 8  # rounds of descent of the methods that are called refined
BEST = ("gptq refined", "gptq asymmetric refined", "gptq levels refined")
TARGETS: Mapping[str, float] = {
    "int8 rtn": 5.20,
    "int4 gptq": 5.76,
    "int3 gptq": 9.41,
    "int4 best": 5.6,
    "int3 best": 8.0,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """The trained model with what it is calibrated on and how it is evaluated."""

    fn: Callable[..., Any]
    params: Any
    data: list[Any]
    evaluate: Callable[[Any], float]
    dense: float
    sites: Any
    quick: bool

    @functools.cached_property
    def stats(self) -> Any:
        """What the dense model meets on the calibration windows."""
        what = ("second_moment", "mean_abs")
        return jc.observe(self.fn, self.params, self.data, what=what, where=WEIGHTS)

    def in_turns(self, method: Callable[..., Any], **options: Any) -> Any:
        """The embedding first, then layer after layer, each fitted to what the quantized ones before it let through."""
        if self.quick:
            return self.at_once(method, **options)
        turns: list[Any] = ["emb"]
        for i in range(len(self.params["layers"])):
            at = f"layers/{i}/"
            turns += [[at + "wq", at + "wk", at + "wv"], at + "wo", [at + "w1", at + "w3"], at + "w2"]
        fitted = functools.partial(method, **options)
        return jc.sequential(self.fn, self.params, self.data, fitted, order=turns, where=WEIGHTS)

    def at_once(self, method: Callable[..., Any], **options: Any) -> Any:
        """All matrices, each fitted to what the dense model lets through."""
        return method(self.params, self.stats, **options)

    def rounded(self, **options: Any) -> Any:
        """Round to nearest."""
        return jc.quantize.rtn(self.params, where=WEIGHTS, sites=self.sites, **options)


@functools.cache
def subject(quick: bool) -> Subject:
    calibrating, total = (4, 8) if quick else (CALIBRATION, WINDOWS)
    windows = llama.windows(total)
    fn, params = model()
    batch = min(BATCH, calibrating)
    data = [jnp.asarray(windows[i : i + batch, :-1]) for i in range(0, calibrating, batch)]
    evaluate = perplexity(fn, windows[calibrating:])
    return Subject(
        fn, params, data, evaluate, evaluate(params) if quick else DENSE, jc.sites(fn, params, data[0]), quick
    )


def methods(on: Subject, bits: int) -> dict[str, Callable[[], Any]]:
    """What makes the quantized trees of one width, by name."""
    quantize = jc.quantize
    full = {"bits": bits, "format": "int_full"}
    levels = {"bits": bits, "format": "levels", "ranges": "kmeans"}
    found: dict[str, Callable[[], Any]] = {"rtn": lambda: on.rounded(bits=bits)}
    if bits == 8:
        return found
    found |= {
        "rtn mse": lambda: on.rounded(**full, ranges="mse"),
        "rtn levels": lambda: on.rounded(**levels),
        "gptq": lambda: on.in_turns(quantize.gptq, **full),
        "gptq refined": lambda: on.in_turns(quantize.gptq, **full, refine=REFINE),
        "gptq levels refined": lambda: on.in_turns(quantize.gptq, **levels, refine=REFINE),
    }
    if on.quick:
        return found
    found |= {
        "gptq at once": lambda: on.at_once(quantize.gptq, **full),
        "gptq narrow": lambda: on.in_turns(quantize.gptq, bits=bits),
        "gptq asymmetric refined": lambda: on.in_turns(quantize.gptq, bits=bits, symmetric=False, refine=REFINE),
        "adaround": lambda: on.in_turns(quantize.adaround, bits=bits),
        "awq": lambda: on.at_once(quantize.awq, **full),
    }
    if bits == 4:
        found |= {
            "nf4 rtn": lambda: on.rounded(bits=None, format="nf4"),
            "nf4 gptq": lambda: on.in_turns(quantize.gptq, bits=None, format="nf4"),
        }
    return found


def llama_rows(bits: int, *, quick: bool) -> Rows:
    """Perplexity and file bytes of all methods at one width."""
    on = subject(quick)
    rows, best = [], {}
    dense_bytes = file_bytes(on.params)
    for name, make in methods(on, bits).items():
        start = time.perf_counter()
        params = make()
        value, size = on.evaluate(params), file_bytes(params)
        label = f"int{bits} {name}"
        print(f"llama {label}: {value:.3f}, {size} bytes, {time.perf_counter() - start:.0f} s", flush=True)
        target = TARGETS.get(label)
        against = ("float32", on.dense) if target is None else ("target", target)
        rows += [
            row(f"llama {label} ppl", value, "ppl", *against),
            row(f"llama {label} bytes", size, "bytes", "float32", dense_bytes),
        ]
        if name in BEST:  # a scale or a table per channel
            best[name] = value
    if f"int{bits} best" in TARGETS:
        name = min(best, key=best.__getitem__)
        rows.append(
            row(f"llama int{bits} best ppl", best[name], "ppl", f"target; is {name}", TARGETS[f"int{bits} best"])
        )
    return rows


def file_bytes(params: Any) -> int:
    """Bytes of the artifact."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.jxc"
        jc.save(path, params)
        return os.path.getsize(path)
