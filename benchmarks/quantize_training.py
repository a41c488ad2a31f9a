"""What quantization-aware training costs in accuracy: LeNet-5 on MNIST in full, ResNet-20 on a part of CIFAR-10.

    python -m benchmarks.quantize_training [--quick] [--json PATH] [--only NAME ...]

A drop is the accuracy of the dense float32 network minus that of the converted one (integer leaves, not the ones that
trained), in points on the test images; below zero the quantized one is better. Every row starts from the same dense
network and trains it on, with plain cross-entropy and no teacher. Budgets, in epochs of the training images:

| part | weights | activations | epochs |
|---|---|---|---|
| lsq-int4, lsq-int2 | LSQ, every layer at 4 or 2 bits | LSQ at the same bits, every layer | 5 |
| dorefa-int4 | DoReFa at 4 bits, rescaled: the network has no normalization | DoReFa's [0, 1] at 4 bits | 3 |
| pact-int4 | LSQ+ at 4 bits | PACT at 4 bits | 3 |
| ternary-twn, ternary-bitnet | TWN, BitNet b1.58 | float | 3 |
| binary-xnor, binary-connect | XNOR with scales, BinaryConnect | float | 3 |
| annealed-int2 | from 8 bits down to 2 in two thirds of the steps | float | 3 |
| discrete-int4, discrete-ternary | on the grid after every step: no float copy | float | 3 |
| resnet20-lsq-int4 | LSQ at 4 bits, first and last layer at 8 | the same | 3 |

What to know before reading the figures:

- A scale for each output channel; DoReFa has one per layer. Biases and batch norm stay float.
- The dense LeNet-5 has trained for 4 epochs, the quantized ones train on for longer, so that a drop below zero is no
  merit of quantization: `dense trained on` is what the same epochs give the float network.
- ResNet-20 is that of `benchmarks.pruning_accuracy`: width 8, 20,000 images, 24 epochs, not converged.
- BinaryConnect has no scales, only signs, which a network without normalization hardly bears: it is here to be seen.
- One seed. On 10,000 test images with an error of 1 % two networks differ by chance by 0.1 points.

Dense networks and results are kept in the user's cache folder; with `--only` parts run one by one.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import optax

import jaxcompress as jc
from benchmarks import cifar, mnist
from benchmarks.baselines import Baseline, cache_folder, train_baseline
from benchmarks.batchnorm_training import Budget, Network, accuracy_percent
from benchmarks.batchnorm_training import dense as dense_with_batchnorm
from benchmarks.batchnorm_training import fit as fit_with_batchnorm
from benchmarks.cifar import Split
from benchmarks.lenets import LeNet5
from benchmarks.mnist import Images
from benchmarks.resnet import ResNet20
from benchmarks.results import report, row
from benchmarks.training import error_percent, fit, steps_per_epoch
from jaxcompress.quantize import QAT, Activations

Rows = list[dict[str, Any]]
LENET5 = Baseline(LeNet5(), epochs=4, shift=1)
RESNET20, RESNET20_DENSE = ResNet20(8), Budget(24)
_ENDS = {"params/Conv_0/kernel": 8, "params/Dense_0/kernel": 8, "**": 4}


@dataclasses.dataclass(frozen=True)
class Job:
    """How one quantized network is made.

    Attributes:
        spec: what is quantized, and how.
        epochs: of training.
        learning_rate: peak of AdamW (of SGD with momentum for ResNet-20), which falls along one cosine.
        discrete: weights move from grid point to grid point.
        anneal_to: width in the end, reached after two thirds of the steps; None: it does not change.
        metric: name of the drop; by default that of the part.
        limit: of the drop, in points, that was set as the target.
    """

    spec: QAT
    epochs: int = 3
    learning_rate: float = 1e-3
    discrete: bool = False
    anneal_to: int | None = None
    metric: str | None = None
    limit: float = 0.0


JOBS: Mapping[str, Job] = {
    "lsq-int4": Job(QAT(4, activations=Activations(4)), 5, metric="lenet5 lsq int4 drop", limit=0.3),
    "lsq-int2": Job(QAT(2, activations=Activations(2)), 5, metric="lenet5 lsq int2 drop", limit=1.0),
    "dorefa-int4": Job(QAT(4, "dorefa", rescaled=True, activations=Activations(4, "dorefa"))),
    "pact-int4": Job(QAT(4, "lsq+", activations=Activations(4, "pact"))),
    "ternary-twn": Job(QAT(method="twn")),
    "ternary-bitnet": Job(QAT(method="bitnet")),
    "binary-xnor": Job(QAT(method="xnor")),
    "binary-connect": Job(QAT(method="binary_connect")),
    "annealed-int2": Job(QAT(8, "annealed"), anneal_to=2),
    "discrete-int4": Job(QAT(4, "on_grid"), discrete=True),
    "discrete-ternary": Job(QAT(2, "on_grid"), discrete=True),
}
RESNET_JOB = Job(QAT(_ENDS, activations=Activations(_ENDS)), 3, 0.01)


def lenet_rows(name: str, job: Job, baseline: Baseline, train: Images, test: Images, seed: int = 0) -> Rows:
    """Error lost, and bytes of the file."""

    def run() -> dict[str, float]:
        apply, start = baseline.model.apply, time.perf_counter()
        dense = train_baseline(baseline, train, seed=seed)
        params = prepared(job, apply, dense, train.images[: baseline.batch_size])
        trained = _trained_on(job, params, baseline, train, seed)
        packed = jc.quantize.convert(trained)
        found = {
            "dense": error_percent(apply, dense, test),
            "error": error_percent(apply, packed, test),
            "fake": error_percent(apply, trained, test),
            "bytes": file_bytes(packed),
            "dense_bytes": file_bytes(dense),
        }
        print(
            f"{name}: error {found['dense']:.2f} % dense, {found['error']:.2f} % converted, {found['fake']:.2f} % as "
            f"it trained, {time.perf_counter() - start:.0f} s",
            flush=True,
        )
        return found

    found = _kept(f"{name} {job} {baseline} {train.images.shape} {seed}", run)
    metric = job.metric or f"lenet5 {name} drop"
    return [
        row(metric, found["error"] - found["dense"], "points", "limit" if job.limit else "fp32", job.limit),
        row(f"lenet5 {name} error", found["error"], "%", "fp32", found["dense"]),
        row(f"lenet5 {name} file", found["bytes"], "bytes", "fp32", found["dense_bytes"]),
    ]


def control_rows(epochs: int, baseline: Baseline, train: Images, test: Images, seed: int = 0) -> Rows:
    """The dense network, trained on for as many epochs with the same optimizer."""

    def run() -> dict[str, float]:
        dense = train_baseline(baseline, train, seed=seed)
        longer = _trained_on(Job(QAT(), epochs), dense, baseline, train, seed)
        return {name: error_percent(baseline.model.apply, p, test) for name, p in (("dense", dense), ("on", longer))}

    found = _kept(f"control {epochs} {baseline} {train.images.shape} {seed}", run)
    return [row("lenet5 dense trained on, error", found["on"], "%", "fp32", found["dense"])]


def prepared(job: Job, apply: Callable[..., Any], params: Any, images: jax.Array) -> Any:
    """The dense network with fake-quantized leaves; ranges start from one batch."""
    stats = jc.observe(apply, params, [images], what="histogram") if job.spec.activations else None
    return jc.quantize.prepare(params, job.spec, sites=whole_kernels(jc.sites(apply, params, images)), stats=stats)


def whole_kernels(sites: jc.Sites) -> jc.Sites:
    """Sites in which the rows of a kernel that a model slices, to convolve by products, are no layers of their own."""
    joined = [
        dataclasses.replace(site, contracting=tuple(sorted((*site.stack, *site.contracting))), stack=())
        for site in sites
    ]
    return jc.Sites(joined, sites.unused)


def _trained_on(job: Job, params: Any, baseline: Baseline, train: Images, seed: int) -> Any:
    steps = job.epochs * steps_per_epoch(train, baseline.batch_size)
    rate = optax.cosine_decay_schedule(job.learning_rate, steps)
    decay = 0.0 if job.discrete else baseline.weight_decay
    tx = optax.adamw(rate, weight_decay=decay, mask=jc.train.decay_mask(params))
    if job.discrete:
        tx = jc.train.discrete(tx, key=jax.random.key(seed + 30))
    if job.anneal_to is not None:
        tx = jc.train.anneal_bits(tx, optax.linear_schedule(8, job.anneal_to, 2 * steps // 3))
    key, options = jax.random.fold_in(jax.random.key(seed), 20), (baseline.batch_size, baseline.shift)
    told = {"key": key, "epochs": job.epochs, "batch_size": options[0], "shift": options[1]}
    return fit(baseline.model.apply, params, tx, train, **told)[0]


def resnet_rows(job: Job, model: Any, budget: Budget, data: Split, seed: int = 0) -> Rows:
    """Accuracy lost by ResNet-20."""

    def run() -> dict[str, float]:
        start, network = time.perf_counter(), Network.of(model)
        before = dense_with_batchnorm(model, data.train, budget, seed=seed, log="resnet20 dense")
        params = prepared(job, network.predict, before, network.prepare(data.train.images[:256], None))
        tune = Budget(job.epochs, learning_rate=job.learning_rate)
        decay = optax.add_decayed_weights(tune.weight_decay, mask=jc.train.decay_mask(params["params"]))
        tx = optax.chain(decay, optax.sgd(tune.rate(data.train), momentum=0.9, nesterov=True))
        lifted = dataclasses.replace(network, predict=jc.lift(network.predict), train=jc.lift(network.train))
        key = jax.random.fold_in(jax.random.key(seed), 20)
        trained, _ = fit_with_batchnorm(lifted, params, tx, data.train, tune, key=key, log="resnet20 lsq int4")
        packed = jc.quantize.convert(trained)
        found = {
            "dense": accuracy_percent(network, before, data.test),
            "accuracy": accuracy_percent(lifted, packed, data.test),
            "bytes": file_bytes(packed),
            "dense_bytes": file_bytes(before),
        }
        print(f"resnet20-lsq-int4: {found}, {time.perf_counter() - start:.0f} s", flush=True)
        return found

    found = _kept(f"resnet20 {job} {model!r} {budget} {data.train.images.shape} {seed}", run)
    return [
        row("resnet20 lsq int4 drop", found["dense"] - found["accuracy"], "points", "fp32", 0.0),
        row("resnet20 lsq int4 accuracy", found["accuracy"], "%", "fp32", found["dense"]),
        row("resnet20 lsq int4 file", found["bytes"], "bytes", "fp32", found["dense_bytes"]),
    ]


def file_bytes(params: Any) -> int:
    with tempfile.TemporaryDirectory() as folder:
        return jc.save(Path(folder) / "model.jxc", params)


def _kept(told: str, run: Callable[[], dict[str, float]]) -> dict[str, float]:
    """The figures of a training, from the cache folder if it ran before."""
    path = cache_folder() / f"quantize_training-{hashlib.sha256(told.encode()).hexdigest()[:16]}.json"
    if path.is_file():
        return json.loads(path.read_text())
    found = run()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found))
    return found


def full_jobs() -> dict[str, Callable[[], Rows]]:
    digits, pictures = functools.cache(mnist.full), functools.cache(cifar.subset)
    lenet = lambda name, job: lambda: lenet_rows(name, job, LENET5, *digits())  # noqa: E731
    return {
        **{name: lenet(name, job) for name, job in JOBS.items()},
        "control": lambda: control_rows(5, LENET5, *digits()),
        "resnet20-lsq-int4": lambda: resnet_rows(RESNET_JOB, RESNET20, RESNET20_DENSE, pictures()),
    }


def quick_jobs() -> dict[str, Callable[[], Rows]]:
    """The same code on little data for an epoch or two: its figures mean little."""
    digits = functools.cache(mnist.small)
    baseline = dataclasses.replace(LENET5, epochs=4)
    short = {name: dataclasses.replace(JOBS[name], epochs=1) for name in ("lsq-int4", "ternary-twn", "discrete-int4")}
    lenet = lambda name, job: lambda: lenet_rows(name, job, baseline, *digits())  # noqa: E731
    return {name: lenet(name, job) for name, job in short.items()}


NAMES = [*JOBS, "control", "resnet20-lsq-int4"]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.quantize_training", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few epochs on 4,000 digits, under a minute")
    parser.add_argument("--json", metavar="PATH", help="also write the rows to this file")
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", help=f"only these of {', '.join(NAMES)}")
    options = parser.parse_args(arguments)
    jobs, rows = quick_jobs() if options.quick else full_jobs(), []
    for name in options.only or jobs:
        found = jobs[name]()
        report("quantize_training", found, json_path=None, keep=not options.quick, part=name)
        rows += found
    if options.json:
        report("quantize_training", rows, json_path=options.json, keep=False)


if __name__ == "__main__":
    main()
