"""Structured pruning: what it brings in time, what its analysis costs, and Torch-Pruning beside it.

    python -m benchmarks.structured [--quick] [--json PATH]

Three parts. A ResNet-20 of width 32 at half of its channels against the dense one. The analysis (`jaxcompress.groups`)
of ResNet-50 and ViT-B/16 shapes against the time of `jax.make_jaxpr` itself. Ten architectures, written in Flax and in
PyTorch: is half of every group really removed, and does what is left compute what masking computes ("exact", 1 or 0),
and how long does finding the groups take (processor time, PyTorch on one thread: it suffers more from a busy machine).
Torch-Pruning runs the network to find its groups and ours traces it, which takes Flax most of the time that is given as
ours; "own analysis" is without that trace. The peer leaves LayerNorm to divide by the kept width, so that a cut of the
residual stream of a transformer is another function; ours divides as the dense network does.
"""

from __future__ import annotations

import argparse
import functools
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxcompress as jc
from benchmarks import structured_flax
from benchmarks.results import interleaved_ms, report, row
from benchmarks.structured_flax import CASES, Case, ResNet20

PEER = "Torch-Pruning 1.6.1"
TARGET_SPEEDUP, TARGET_ANALYSIS = 2.5, 5.0


def abstract(module: Any, x: jax.Array | jax.ShapeDtypeStruct) -> Any:
    """The variables' shapes; nothing is computed."""
    return jax.eval_shape(module.init, jax.random.key(0), x)


def drawn(module: Any, x: jax.Array) -> Any:
    """Variables of sane scales in which nothing is exactly zero or one."""
    random = np.random.RandomState(0)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        noise = random.standard_normal(leaf.shape)
        if leaf.ndim < 2:
            return jnp.asarray(0.1 * noise + (path[-1].key in ("scale", "var")), leaf.dtype)
        return jnp.asarray(noise / np.sqrt(noise.size / noise.shape[-1]), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, abstract(module, x))


def example(case: Case) -> jax.Array:
    if case.tokens:
        return jnp.asarray(np.random.RandomState(1).randint(0, 100, case.shape), jnp.int32)
    return jnp.asarray(np.random.RandomState(1).standard_normal(case.shape), jnp.float32)


def half(groups: jc.Groups) -> dict[tuple[str, int], np.ndarray]:
    """Half of the units of every group, at random."""
    random = np.random.RandomState(0)
    return groups.keep({g.index: np.sort(random.permutation(g.size)[: (g.size + 1) // 2]) for g in groups})


def fresh(module: Any) -> Callable[..., Any]:
    """The model as a function that nobody has traced yet: traces are cached by the identity of functions."""
    return lambda variables, x: module.apply(variables, x)


def speedup(rounds: int) -> list[dict[str, Any]]:
    """Dense, masked, shrunk and shrunk-then-int8 ResNet-20 of width 32, batch 32."""
    module = ResNet20(32)
    x = jnp.asarray(np.random.RandomState(1).standard_normal((32, 32, 32, 3)), jnp.float32)
    variables = drawn(module, x)
    keep = half(jc.groups(module.apply, variables, x))
    small = jc.shrink(module.apply, variables, keep)
    int8 = jc.quantize.rtn(small.params, bits=8, sites=jc.sites(small.fn, small.params, x))
    runs = {
        "dense": (jax.jit(module.apply), variables),
        "masked": (jax.jit(module.apply), jc.core.shrink.masked(variables, keep)),
        "shrunk": (jax.jit(small.fn), small.params),
        "shrunk int8": (jax.jit(jc.lift(small.fn)), int8),
    }
    times = interleaved_ms(
        {name: lambda f=f, p=p: jax.block_until_ready(f(p, x)) for name, (f, p) in runs.items()}, rounds=rounds
    )
    rows = [row("structured resnet20 speedup", times["dense"] / times["shrunk"], "x", "target", TARGET_SPEEDUP)]
    rows += [row(f"resnet20 {name} time", times[name], "ms", "dense", times["dense"]) for name in runs]
    return rows


def analysis(rounds: int) -> list[dict[str, Any]]:
    """Groups of ImageNet's shapes against the trace that they are found in."""
    rows = []
    for name in ("resnet50", "vit-b/16"):
        module, x = CASES[name].module, jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
        variables = abstract(module, x)
        times = interleaved_ms(
            {
                "groups": lambda m=module, v=variables, x=x: jc.groups(fresh(m), v, x),
                "make_jaxpr": lambda m=module, v=variables, x=x: jax.make_jaxpr(fresh(m))(v, x),
            },
            rounds=rounds,
        )
        rows.append(row(f"groups {name} time", times["groups"], "ms", "jax.make_jaxpr", times["make_jaxpr"]))
    return rows


def ours(case: Case) -> tuple[float, str]:
    """1 if half of the units went and the masked network computes the same, and a word on it."""
    x = example(case)
    variables = drawn(case.small, x)
    keep = half(jc.groups(case.small.apply, variables, x))
    if not keep:
        return 0.0, "no groups"
    found = jc.verify(case.small.apply, variables, keep, x)
    return float(found.ok), f"relative difference {found.largest:.1e}"


def peers(names: list[str], rounds: int) -> list[dict[str, Any]]:
    """Exactness and time of analysis of both on the same architectures."""
    import torch

    from benchmarks import structured_peer, structured_torch

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "Unwrapped parameters")  # the peer says so of every bare parameter

    rows, score = [], {"ours": 0.0, PEER: 0.0}
    for name in names:
        case, (full, small) = CASES[name], structured_torch.CASES[name]
        x = torch.from_numpy(np.array(example(case)))
        x = x.long() if case.tokens else x.permute(0, 3, 1, 2).contiguous() if x.ndim == 4 else x
        exact, word = ours(case)
        outcome = structured_peer.half_pruned(small(), x)
        print(f"{name}: ours: {word}; {PEER}: {outcome.problem or f'relative difference {outcome.difference:.1e}'}")
        score["ours"] += exact
        score[PEER] += outcome.exact
        rows.append(row(f"{name} exact", exact, "0/1", PEER, float(outcome.exact)))
        shapes, spec, network = abstract(case.module, example(case)), example(case), full()
        problem = structured_peer.analysis_problem(network, x)
        rivals: dict[str, Callable[[], Any]] = {
            "ours": lambda m=case.module, v=shapes, s=spec: jc.groups(fresh(m), v, s),
            "traced": lambda m=case.module, v=shapes, s=spec: jax.make_jaxpr(fresh(m))(v, s),
        }
        if problem:
            print(f"{name}: {PEER} cannot analyse it: {problem}")
        else:
            rivals[PEER] = functools.partial(structured_peer.count_groups, network, x)
        times = interleaved_ms(rivals, rounds=rounds, clock=time.process_time)
        for metric, value in (("analysis", times["ours"]), ("own analysis", times["ours"] - times["traced"])):
            rows.append(row(f"{name} {metric} time", value, "CPU ms", PEER, times.get(PEER, float("nan"))))
    return [row("cases exact", score["ours"], f"of {len(names)}", PEER, score[PEER]), *rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds and cases, under a minute; keeps no results")
    parser.add_argument("--json", metavar="PATH", help="also write the rows there")
    options = parser.parse_args()
    small = ["lstm", "raw matmul", "x + flip(x)", "channel shuffle"]
    rows = speedup(3 if options.quick else 15)
    rows += analysis(1 if options.quick else 3)
    rows += peers(small if options.quick else list(structured_flax.CASES), 1 if options.quick else 3)
    report("structured", rows, json_path=options.json, keep=not options.quick)


if __name__ == "__main__":
    main()
