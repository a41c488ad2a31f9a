"""The Llama half of `benchmarks.quantize_error`: perplexity and file bytes of post-training methods."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import jaxcompress as jc
from benchmarks.results import row
from benchmarks.trained_llama import Subject, file_bytes, subject

Rows = list[dict[str, Any]]
WEIGHTS = ("emb", "layers/**/w*")
REFINE = 8  # rounds of descent of the methods that are called refined
BEST = ("gptq refined", "gptq asymmetric refined", "gptq levels refined")
TARGETS: Mapping[str, float] = {
    "int8 rtn": 5.20,
    "int4 gptq": 5.76,
    "int3 gptq": 9.41,
    "int4 best": 5.6,
    "int3 best": 8.0,
}


def rounded(on: Subject, **options: Any) -> Any:
    """Round to nearest."""
    return jc.quantize.rtn(on.params, where=WEIGHTS, sites=on.sites, **options)


def methods(on: Subject, bits: int) -> dict[str, Callable[[], Any]]:
    """What makes the quantized trees of one width, by name."""
    quantize = jc.quantize
    full = {"bits": bits, "format": "int_full"}
    levels = {"bits": bits, "format": "levels", "ranges": "kmeans"}
    found: dict[str, Callable[[], Any]] = {"rtn": lambda: rounded(on, bits=bits)}
    if bits == 8:
        return found
    found |= {
        "rtn mse": lambda: rounded(on, **full, ranges="mse"),
        "rtn levels": lambda: rounded(on, **levels),
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
            "nf4 rtn": lambda: rounded(on, bits=None, format="nf4"),
            "nf4 gptq": lambda: on.in_turns(quantize.gptq, bits=None, format="nf4"),
        }
    return found


def llama_rows(bits: int, *, quick: bool) -> Rows:
    """Perplexity and file bytes of all methods at one width."""
    on = subject(quick, WEIGHTS)
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
