"""Post-training pruning of a trained Llama (260,032 parameters): perplexity at 50 % and at 2:4.

    python -m benchmarks.pruning_llama [--quick] [--json PATH]

Needs the data folder (`JAXCOMPRESS_DATA`). All matrices of the layers are pruned (wq wk wv wo w1 w2 w3), the tied
embedding stays dense. Methods calibrate on windows 0-31 of TinyStories, the perplexity is that of windows 32-143 (512
tokens each); float32 has 5.187 there, the value of the peer column. Wanda, SparseGPT and sparse sensing go layer by
layer, each observing the data that the pruned layers before it let through; `at once` observes the dense model once.
`seconds` is the time of the method on its statistics, all layers, after a first call that compiles.

`--quick`: 4 windows to calibrate, 8 to evaluate, everything at once; keeps no results.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxcompress as jc
from benchmarks.results import report, row
from tests.zoo import llama

MATRICES = "layers/**/w*"
DENSE = 5.187
PATTERNS: dict[str, Mapping[str, Any]] = {"": {"sparsity": 0.5}, " 2:4": {"n": 2, "m": 4}}
BATCH = 8  # windows


def model() -> tuple[Callable[..., jax.Array], Any]:
    """The trained model with a leaf for every matrix, kernels as (in, out)."""
    config, flat = llama.trained()

    def layer(i: int) -> dict[str, jax.Array]:
        return {name: flat[name][i].T if name in llama.MATRICES else flat[name][i] for name in llama.LAYERED}

    params = {"emb": flat["emb"], "norm": flat["norm"], "layers": [layer(i) for i in range(config["layers"])]}
    return functools.partial(apply, heads=config["heads"], kv_heads=config["kv_heads"]), params


def apply(params: Any, tokens: jax.Array, *, heads: int, kv_heads: int) -> jax.Array:
    """Logits: tokens (batch, length) -> (batch, length, vocab). Layers may have biases: ``b_wq`` beside ``wq``."""
    x = params["emb"][tokens]
    for at in params["layers"]:
        h = llama.rms_norm(x, at["att_norm"])
        split = (("wq", heads), ("wk", kv_heads), ("wv", kv_heads))
        q, k, v = (llama.split_heads(linear(at, name, h), n) for name, n in split)
        x = x + linear(at, "wo", llama.attend(q, k, v).reshape(x.shape))
        h = llama.rms_norm(x, at["ffn_norm"])
        x = x + linear(at, "w2", jax.nn.silu(linear(at, "w1", h)) * linear(at, "w3", h))
    return llama.rms_norm(x, params["norm"]) @ params["emb"].T


def linear(at: Mapping[str, jax.Array], name: str, x: jax.Array) -> jax.Array:
    """The product with a matrix of a layer, and its bias where it has one."""
    y, bias = x @ at[name], at.get(f"b_{name}")
    return y if bias is None else y + bias[None, None]


def perplexity(fn: Callable[..., jax.Array], windows: np.ndarray) -> Callable[[Any], float]:
    """``params -> exp`` of the mean cross-entropy over windows; one program for every set of masks."""

    @jax.jit
    def loss(params: Any, tokens: jax.Array) -> jax.Array:
        scores = jax.nn.log_softmax(fn(params, tokens[:, :-1]))
        return -jnp.take_along_axis(scores, tokens[:, 1:, None], axis=2).mean()

    def of(params: Any) -> float:
        dense = jc.materialize(params)
        batches = [jnp.asarray(windows[i : i + BATCH]) for i in range(0, len(windows), BATCH)]
        return float(np.exp(np.mean([float(loss(dense, batch)) for batch in batches])))

    return of


def seconds(run: Callable[[], Any], rounds: int = 3) -> float:
    """Median time of a call, the first one not counted."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few windows, under a minute; keeps no results")
    parser.add_argument("--json", metavar="PATH", help="also write the rows there")
    options = parser.parse_args()
    calibrating, total = (4, 12) if options.quick else (32, 144)
    order = "together" if options.quick else "depth"

    windows = llama.windows(total)
    fn, params = model()
    evaluate = perplexity(fn, windows[calibrating:])
    batch = min(BATCH, calibrating)
    data = [jnp.asarray(windows[i : i + batch, :-1]) for i in range(0, calibrating, batch)]
    sites = jc.sites(fn, params, data[0])
    stats = jc.observe(fn, params, data, what="second_moment", where=MATRICES)
    dense = evaluate(params) if options.quick else DENSE
    rows = [row("llama dense ppl", evaluate(params), "ppl", "float32", dense)]

    def add(name: str, pruned: Any) -> None:
        rows.append(row(name, evaluate(pruned), "ppl", "float32", dense))
        print(f"{name}: {rows[-1]['value']:.3f}", flush=True)

    fitted = {"wanda": jc.prune.wanda, "sparsegpt": jc.prune.sparsegpt, "sparse sensing": jc.prune.sparse_sensing}
    for label, pattern in PATTERNS.items():
        add(f"llama magnitude{label} ppl", by_magnitude(params, sites, pattern))
        for name, method in fitted.items():
            prune = functools.partial(method, **pattern)
            if not options.quick:
                add(f"llama {name}{label} at once ppl", prune(params, stats))
            add(f"llama {name}{label} ppl", jc.prune.sequential(fn, params, data, prune, where=MATRICES, order=order))
    plain = seconds(functools.partial(by_magnitude, params, sites, PATTERNS[""]))
    for name, method in fitted.items():
        taken = seconds(functools.partial(method, params, stats, sparsity=0.5))
        rows.append(row(f"llama {name} seconds", taken, "s", "magnitude", plain))
    if not options.quick:
        int4 = functools.partial(jc.prune.sparsegpt, sparsity=0.5, quantizer=jc.quantize.RTN(bits=4))
        add("llama sparsegpt int4 ppl", jc.prune.sequential(fn, params, data, int4, where=MATRICES, order=order))
    report("pruning_llama", rows, json_path=options.json, keep=not options.quick)


def by_magnitude(params: Any, sites: Any, pattern: Mapping[str, Any]) -> Any:
    """Magnitude pruning in the same pattern, 2:4 along the input features as the others."""
    if "sparsity" in pattern:
        return jc.prune.magnitude(params, **pattern, where=MATRICES, sites=sites)
    layers = [
        {
            name: jc.prune.Masked.create(leaf, jc.prune.nm_mask(jnp.abs(leaf), **pattern, axis=0))
            if name in llama.MATRICES
            else leaf
            for name, leaf in layer.items()
        }
        for layer in params["layers"]
    ]
    return params | {"layers": layers}


if __name__ == "__main__":
    main()
