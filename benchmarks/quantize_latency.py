"""Latency of quantized products: every form against floats and against qwix, interleaved.

    python -m benchmarks.quantize_latency [--quick] [--json PATH]

An MLP 1024-4096-1024 (Flax Linen), batches of 1, 64 and 512. `int8`, `int4`: weight-only, in the form that
`jaxcompress.quantize.forms` names and in each form by hand; `int8 dynamic`, `int4 dynamic`: 8-bit activations by the
row; `int8 static`: calibrated ones. The peer of a row is float32 on the same machine in the same rounds, or qwix 0.1.8
at the same widths. Beside every time stands the error of the output, relative to float32. `forms` rows: the time of the
form that the table chooses over that of the fastest one, mean and worst over kernels and rows; the table is made
from the times that are printed.

On an accelerator the kernels are those of large language models, in bfloat16, weight-only, against bfloat16.

`--quick`: fewer rounds, batches of 1 and 64, no table; keeps no results.
"""

from __future__ import annotations

import argparse
import functools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import jaxcompress as jc
from benchmarks.results import interleaved_ms, report, row
from jaxcompress.quantize.forms import Call, takes_integers, weight_form

FEATURES = (1024, 4096, 1024)
WEIGHT_FORMS = ("scale_after", "blocks", "materialize")
TABLE_KERNELS = ((512, 512), (1024, 1024), (1024, 4096), (4096, 1024))
TABLE_ROWS = (1, 4, 8, 16, 32, 64, 256)
ACCELERATOR_KERNELS = ((4096, 4096), (4096, 14336), (8192, 8192), (8192, 28672))
ACCELERATOR_ROWS = (1, 4, 16, 64)


class MLP(nn.Module):
    """Dense, ReLU, dense."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(FEATURES[2])(nn.relu(nn.Dense(FEATURES[1])(x)))


def variants(model: nn.Module, variables: Any, x: jax.Array) -> dict[str, Any]:
    """Our compressed trees by name."""
    sites = jc.sites(model.apply, variables, x)
    stats = jc.observe(model.apply, variables, [x], what=("min", "max"))
    int8 = jc.quantize.rtn(variables, bits=8, ranges="mse", sites=sites)
    int4 = jc.quantize.rtn(variables, bits=4, ranges="mse", sites=sites)
    named = {"int8": int8, "int4": int4} | {f"int8 {form}": jc.quantize.with_form(int8, form) for form in WEIGHT_FORMS}
    named["int4 groups of 128"] = jc.quantize.rtn(variables, bits=4, group_size=128, ranges="mse", sites=sites)
    named |= {f"{name} dynamic": jc.quantize.activations(tree) for name, tree in (("int8", int8), ("int4", int4))}
    named["int8 static"] = jc.quantize.activations(int8, stats)
    named["int8 dynamic fake"] = jc.quantize.with_form(named["int8 dynamic"], "fake")
    return named


def of_qwix(model: nn.Module, variables: Any, x: jax.Array) -> dict[str, tuple[Callable[..., Any], Any]]:
    """The peer's models and parameters by the name of ours."""
    import qwix

    rules = {
        "int8": {"weight_qtype": "int8"},
        "int4": {"weight_qtype": "int4"},
        "int8 dynamic": {"weight_qtype": "int8", "act_qtype": "int8"},
        "int4 dynamic": {"weight_qtype": "int4", "act_qtype": "int8"},
    }
    made = {}
    for name, rule in rules.items():
        provider = qwix.PtqProvider([qwix.QuantizationRule(module_path=".*", **rule)])
        quantized = qwix.quantize_model(model, provider)
        shapes = jax.eval_shape(quantized.init, jax.random.key(0), x)["params"]
        params = qwix.quantize_params(variables["params"], shapes)
        made[name] = (jax.jit(quantized.apply), {"params": params})
    return made


def mlp_rows(batches: tuple[int, ...], rounds: int) -> Iterator[dict[str, Any]]:
    """The rows of the MLP."""
    model = MLP()
    data = jax.random.normal(jax.random.key(1), (max(batches), FEATURES[0]))
    variables = model.init(jax.random.key(0), data[:1])
    plain, lifted = jax.jit(model.apply), jax.jit(jc.lift(model.apply))
    ours, theirs = variants(model, variables, data), of_qwix(model, variables, data)
    for batch in batches:
        x = data[:batch]
        y = plain(variables, x)

        def run(fn: Callable[..., Any], params: Any, x: jax.Array = x) -> Callable[[], Any]:
            return lambda: jax.block_until_ready(fn(params, x))

        calls = {"float32": run(plain, variables)}
        calls |= {name: run(lifted, tree) for name, tree in ours.items()}
        calls |= {f"qwix {name}": run(*pair) for name, pair in theirs.items()}
        times = interleaved_ms(calls, rounds=rounds)
        errors = {name: float(jnp.linalg.norm(call() - y) / jnp.linalg.norm(y)) for name, call in calls.items()}
        for name in ours:
            metric = f"{name} time batch {batch}"
            yield row(metric, times[name], "ms", "float32", times["float32"])
            yield row(f"{name} error batch {batch}", errors[name], "relative", "float32", 0.0)
            if name in theirs:
                peer = f"qwix {name}"
                yield row(f"{metric} over qwix", times[name], "ms", peer, times[peer])
                yield row(f"{name} error batch {batch} over qwix", errors[name], "relative", peer, errors[peer])
        ratio = times["int8 dynamic"] / times["float32"]
        yield row(f"int8 dynamic time ratio batch {batch}", ratio, "x float32", "target at most", 1.05)


def table_rows(rounds: int) -> Iterator[dict[str, Any]]:
    """How far the table's choices are from the fastest forms."""
    platform = jax.default_backend()
    found: dict[str, dict[str, float]] = {"weight-only": {}, "8-bit activations": {}}
    fn = jax.jit(jc.lift(lambda w, x: x @ w))
    for summed, outputs in TABLE_KERNELS:
        packed = jc.quantize.rtn({"w": jax.random.normal(jax.random.key(0), (summed, outputs))}, bits=8)
        data = jc.quantize.activations(packed)
        for rows in TABLE_ROWS:
            x, call = jax.random.normal(jax.random.key(1), (rows, summed)), Call(rows, summed, outputs)
            trees = {form: jc.quantize.with_form(packed, form)["w"] for form in WEIGHT_FORMS}
            trees |= {form: jc.quantize.with_form(data, form)["w"] for form in ("integer", "fake")}
            times = interleaved_ms(
                {form: functools.partial(_wait, fn, tree, x) for form, tree in trees.items()}, rounds=rounds
            )
            print(summed, outputs, rows, {form: round(time, 3) for form, time in times.items()}, flush=True)
            at = f"{summed} x {outputs}, {rows} rows"
            weights = [times[form] for form in WEIGHT_FORMS]
            found["weight-only"][at] = times[weight_form(platform, call)] / min(weights)
            chosen = "integer" if takes_integers(platform, call) else "fake"
            found["8-bit activations"][at] = times[chosen] / min(times["integer"], times["fake"])
    for name, ratios in found.items():
        worst = max(ratios, key=lambda at: ratios[at])
        mean = math.exp(sum(map(math.log, ratios.values())) / len(ratios))
        yield row(f"forms chosen, {name}", mean, "x fastest", f"worst, {worst}", ratios[worst])


def _wait(fn: Callable[..., Any], *args: Any) -> None:
    jax.block_until_ready(fn(*args))


def accelerator_rows(rounds: int) -> Iterator[dict[str, Any]]:
    """Weight-only products of large kernels against bfloat16."""
    plain, lifted = jax.jit(lambda w, x: x @ w), jax.jit(jc.lift(lambda w, x: x @ w))
    for summed, outputs in ACCELERATOR_KERNELS:
        w = jax.random.normal(jax.random.key(0), (summed, outputs), jnp.bfloat16)
        trees: Mapping[str, Any] = {
            "int8": jc.quantize.rtn({"w": w}, bits=8)["w"],
            "int4": jc.quantize.rtn({"w": w}, bits=4)["w"],
            "int4 groups of 128": jc.quantize.rtn({"w": w}, bits=4, group_size=128)["w"],
        }
        for rows in ACCELERATOR_ROWS:
            x = jax.random.normal(jax.random.key(1), (rows, summed), jnp.bfloat16)
            calls = {"bfloat16": functools.partial(_wait, plain, w, x)}
            calls |= {name: functools.partial(_wait, lifted, tree, x) for name, tree in trees.items()}
            times = interleaved_ms(calls, rounds=rounds)
            for name in trees:
                metric = f"{name} time {summed} x {outputs} batch {rows}"
                yield row(metric, times[name], "ms", "bfloat16", times["bfloat16"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under a minute; keeps no results")
    parser.add_argument("--json", metavar="PATH", help="also write the rows there")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="qwix")
    rounds = 9 if options.quick else 41
    if jax.default_backend() == "cpu":
        rows = list(mlp_rows((1, 64) if options.quick else (1, 64, 512), rounds))
        rows += [] if options.quick else list(table_rows(rounds))
        name = "quantize_latency"
    else:
        rows, name = list(accelerator_rows(rounds)), f"quantize_latency_{jax.default_backend()}"
    report(name, rows, json_path=options.json, keep=not options.quick)


if __name__ == "__main__":
    main()
