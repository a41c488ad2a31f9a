"""What `lift` costs a model: the program, its tracing and an eager call with dense leaves, tracing with int8 leaves.

    python -m benchmarks.lift_overhead [--quick] [--json PATH]

On a Llama of 260 k parameters (a plain function) and a ResNet-20 (Flax Linen). Times are medians of interleaved rounds;
tracing uses fresh function objects, since JAX caches traces by identity. A call without a compressed leaf is a call of
the function itself: only the int8 rows measure the evaluator.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxcompress as jc
from benchmarks.resnet import ResNet20
from benchmarks.results import interleaved_ms, report, row
from tests.zoo import llama

SIZES = dict(dim=64, hidden=172, layers=5, heads=8, kv_heads=4, vocab=512)
Model = tuple[Callable[..., Any], Any, jax.Array]


def models() -> dict[str, Model]:
    """``(fn, params, inputs)`` by name; values do not matter here."""
    config, params = llama.random(SIZES)
    tokens = jnp.asarray(np.random.RandomState(0).randint(0, 512, (1, 64)), jnp.int32)
    fn = functools.partial(llama.apply, heads=config["heads"], kv_heads=config["kv_heads"])
    images = jnp.ones((8, 32, 32, 3))
    resnet = ResNet20()
    variables = jax.jit(resnet.init)(jax.random.key(0), images)
    return {"llama": (fn, params, tokens), "resnet20": (resnet.apply, variables, images)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds; keeps no results")
    parser.add_argument("--json", metavar="PATH", help="also write the rows there")
    options = parser.parse_args()
    rows = []
    for name, model in models().items():
        rows += program_rows(name, model)
        rows += time_rows(name, model, rounds=5 if options.quick else 25)
    report("lift_overhead", rows, json_path=options.json, keep=not options.quick)


def program_rows(name: str, model: Model) -> list[dict[str, Any]]:
    """Flops and bytes of the two compiled programs, as XLA counts them."""
    fn, params, inputs = model
    ours, theirs = (jax.jit(f).lower(params, inputs).compile().cost_analysis() for f in (jc.lift(fn), fn))
    return [
        row(f"{name} {metric}", ours[key], unit, "jit(fn)", theirs[key])
        for metric, key, unit in (("HLO flops", "flops", "flops"), ("HLO bytes", "bytes accessed", "bytes"))
    ]


def time_rows(name: str, model: Model, *, rounds: int) -> list[dict[str, Any]]:
    """Tracing with fresh functions, and eager calls after the first, against `fn` eager and compiled."""
    fn, params, inputs = model
    lifted, compiled = jc.lift(fn), jax.jit(fn)
    packed = jc.quantize.rtn(params, bits=8, sites=jc.sites(fn, params, inputs))
    contests = {
        "fresh tracing": ({"lift": tracing(jc.lift, model), "fn": tracing(lambda f: f, model)}, "jit(fn)"),
        "fresh tracing, int8 leaves": (
            {"lift": tracing(jc.lift, (fn, packed, inputs)), "fn": tracing(lambda f: f, model)},
            "jit(fn), dense",
        ),
        "eager call": ({"lift": calling(lifted, params, inputs), "fn": calling(fn, params, inputs)}, "fn"),
        "eager call, against compiled": (
            {"lift": calling(lifted, params, inputs), "fn": calling(compiled, params, inputs)},
            "jit(fn)",
        ),
    }
    rows = []
    for metric, (rivals, peer) in contests.items():
        times = interleaved_ms(rivals, rounds=rounds)
        rows.append(row(f"{name} {metric}", times["lift"], "ms", peer, times["fn"]))
    return rows


def tracing(transform: Callable[..., Any], model: Model) -> Callable[[], Any]:
    """Traces a function that JAX has not seen before."""
    fn, params, inputs = model

    def run() -> Any:
        def fresh(params: Any, inputs: Any) -> Any:
            return fn(params, inputs)

        return jax.jit(transform(fresh)).trace(params, inputs)

    return run


def calling(fn: Callable[..., Any], params: Any, inputs: Any) -> Callable[[], Any]:
    """Calls and waits."""
    return lambda: jax.block_until_ready(fn(params, inputs))


if __name__ == "__main__":
    main()
