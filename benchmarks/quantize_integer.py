"""Integer-only inference: what it costs in accuracy, how large the model is, and how long it takes on this machine.

    python -m benchmarks.quantize_integer [--quick] [--json PATH] [--only NAME ...]

A drop is the accuracy of the float32 network minus that of the integer one, in points on all 10,000 test images (below
zero the integer network is better). The networks are the dense ones of `benchmarks.pruning_accuracy`: LeNet-5 on MNIST
with three seeds, ResNet-20 of width 8 and VGG-small of width 16 on 20,000 images of CIFAR-10. Ranges of activations
come from 1,000 training images, the least and the greatest value of each site; nothing is trained, and nothing was
chosen by the test images.

Bytes are those of files (`jaxcompress.save`). Times are medians on a CPU, beside the float32 network in the same
process, interleaved. XLA is no runtime for integer networks: its int8 products are about as fast as its float32 ones,
and a requantization costs some thirty integer operations where a float network has a multiplication and an addition.
The gain is on hardware that has no float arithmetic, or little of it, and in bytes.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxcompress as jc
from benchmarks import cifar, mnist
from benchmarks.baselines import Baseline, train_baseline
from benchmarks.batchnorm_training import Budget
from benchmarks.pruning_accuracy import RESNET, VGG
from benchmarks.pruning_cifar import Subject
from benchmarks.pruning_lenets import LENET5
from benchmarks.results import interleaved_ms, report, row
from benchmarks.vgg import VGGSmall

CALIBRATION, BATCH = 1000, 250
TIMED = 100  # images in a timed batch
Rows = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A float network and its integer form.

    Attributes:
        accuracies: of both, in percent.
        file_bytes: of both.
        milliseconds: of both, for a batch of `TIMED` images.
    """

    accuracies: tuple[float, float]
    file_bytes: tuple[int, int]
    milliseconds: tuple[float, float]

    @property
    def drop(self) -> float:
        return self.accuracies[0] - self.accuracies[1]


def compared(fn: Callable[..., jax.Array], variables: Any, train: np.ndarray, test: np.ndarray, labels: Any) -> Outcome:
    """Makes the integer form and measures both.

    Args:
        fn: the float network.
        variables: its variables.
        train: inputs to calibrate with, as the network takes them.
        test: inputs to test with.
        labels: of the latter.
    """
    count = min(CALIBRATION, len(train))
    integer = jc.quantize.integer_only(fn, variables, [train[i : i + BATCH] for i in range(0, count, BATCH)])
    if integer.report.tail is not None:
        raise RuntimeError("the integer network computes with floats")
    compiled = jax.jit(fn)
    x = jnp.asarray(test[:TIMED])
    times = interleaved_ms(
        {
            "float": lambda: jax.block_until_ready(compiled(variables, x)),
            "integer": lambda: jax.block_until_ready(integer(x)),
        },
        rounds=15,
    )
    of_float = accuracy_percent(functools.partial(compiled, variables), test, labels)
    of_integer = accuracy_percent(integer, test, labels)
    with tempfile.TemporaryDirectory() as folder:
        sizes = jc.save(Path(folder) / "float.jxc", variables), jc.save(Path(folder) / "integer.jxc", integer.params)
    return Outcome((of_float, of_integer), sizes, (times["float"], times["integer"]))


def accuracy_percent(predict: Callable[[jax.Array], jax.Array], test: np.ndarray, labels: Any) -> float:
    """Share of right predictions, in percent."""
    right = 0
    for start in range(0, len(test), 500):
        logits = predict(jnp.asarray(test[start : start + 500]))
        right += int((np.argmax(np.asarray(logits), -1) == np.asarray(labels[start : start + 500])).sum())
    return 100 * right / len(test)


def lenet5(baseline: Baseline, digits: tuple[mnist.Images, mnist.Images], seeds: Sequence[int]) -> list[Outcome]:
    train, test = digits
    images = np.asarray(train.images[:CALIBRATION]), np.asarray(test.images)
    return [
        compared(baseline.model.apply, train_baseline(baseline, train, seed=seed), *images, test.labels)
        for seed in seeds
    ]


def pictured(subject: Subject, data: cifar.Split) -> list[Outcome]:
    prepare = jax.jit(lambda images: cifar.prepared(images, None))
    images = [np.asarray(prepare(part)) for part in (data.train.images[:CALIBRATION], data.test.images)]
    return [compared(subject.model.apply, subject.dense(data), *images, data.test.labels)]


def rows(name: str, outcomes: Sequence[Outcome]) -> Rows:
    """Means over seeds; the worst one where there are several."""
    first = outcomes[0]
    floats, integers = (statistics.mean(outcome.accuracies[i] for outcome in outcomes) for i in range(2))
    milliseconds = [statistics.mean(outcome.milliseconds[i] for outcome in outcomes) for i in range(2)]
    worst = [
        row(
            f"integer only {name} drop (worst seed)", max(outcome.drop for outcome in outcomes), "points", "target", 0.5
        )
    ]
    return [
        row(
            f"integer only {name} drop", statistics.mean(outcome.drop for outcome in outcomes), "points", "target", 0.5
        ),
        *(worst if len(outcomes) > 1 else []),
        row(f"integer only {name} accuracy", integers, "%", "float32", floats),
        row(f"integer only {name} file", first.file_bytes[1], "bytes", "float32", first.file_bytes[0]),
        row(f"integer only {name} time, batch {TIMED}", milliseconds[1], "ms", "float32", milliseconds[0]),
    ]


def full_jobs() -> dict[str, Callable[[], list[Outcome]]]:
    digits, pictures = functools.cache(mnist.full), functools.cache(cifar.subset)
    return {
        "lenet5": lambda: lenet5(LENET5.baseline, digits(), (0, 1, 2)),
        "resnet20": lambda: pictured(RESNET, pictures()),
        "vgg": lambda: pictured(VGG, pictures()),
    }


def quick_jobs() -> dict[str, Callable[[], list[Outcome]]]:
    """The same code on little data for a few steps: its figures mean nothing."""
    baseline = dataclasses.replace(LENET5.baseline, epochs=1)
    tiny = Subject("vgg", VGGSmall(4, stages=1), Budget(1, batch_size=100))
    return {"lenet5": lambda: lenet5(baseline, mnist.small(), [0]), "vgg": lambda: pictured(tiny, cifar.small())}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.quantize_integer", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two small networks on 5,000 digits, under a minute")
    parser.add_argument("--json", metavar="PATH", help="also write the rows to this file")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these of lenet5, resnet20, vgg")
    options = parser.parse_args(arguments)
    jobs = quick_jobs() if options.quick else full_jobs()
    found: Rows = []
    for name in options.only or jobs:
        if name not in jobs:
            parser.error(f"--only: there is no {name!r}; there are {', '.join(jobs)}")
        start = time.perf_counter()
        lines = rows(name, jobs[name]())
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
        report("quantize_integer", lines, json_path=None, keep=not options.quick, part=name)
        found += lines
    if options.json:
        report("quantize_integer", found, json_path=options.json, keep=False)


if __name__ == "__main__":
    main()
