"""What pruning costs in accuracy: MNIST in full and a part of CIFAR-10, against dense networks trained here.

    python -m benchmarks.pruning_accuracy [--quick] [--json PATH] [--only NAME ...]

TODO
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks import cifar, mnist
from benchmarks.batchnorm_training import Budget
from benchmarks.pruning_cifar import CifarJob, FromScratch, Gradual, SparseTraining, Structured, Subject, TrainedOn
from benchmarks.pruning_lenets import LENET5, LENET300, LeNetJob, lenet_rows
from benchmarks.pruning_slimming import SLIMMING, SlimmingJob, slimming_rows
from benchmarks.resnet import ResNet20
from benchmarks.results import report
from benchmarks.vgg import VGGSmall

SEEDS = (0, 1, 2)  # of the MNIST jobs; those of CIFAR-10 run once
LENETS = (LENET300, LENET5)

RESNET = Subject("resnet20", ResNet20(8), Budget(24))
VGG = Subject("vgg", VGGSmall(16), Budget(14))
INNER = "params/Block_*/BatchNorm_0/*"  # the channels between the two convolutions of a block
_RESNET_2X = Structured(RESNET, Budget(16), where=INNER)
_VGG_2X = Structured(VGG, Budget(9))
CIFAR: Mapping[str, CifarJob] = {
    "resnet20-2x": _RESNET_2X,
    "resnet20-80": Gradual(RESNET, Budget(12, learning_rate=0.05)),
    "resnet20-90": SparseTraining(RESNET, Budget(10)),
    "vgg-2x": _VGG_2X,
    "resnet20-scratch": FromScratch(_RESNET_2X),
    "vgg-scratch": FromScratch(_VGG_2X),
    "resnet20-longer": TrainedOn(RESNET, _RESNET_2X.tune),
}
NAMES = [*(job.name for job in LENETS), "slimming", *CIFAR]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.pruning_accuracy", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few epochs on 5,000 digits, under a minute")
    parser.add_argument("--json", metavar="PATH", help="also write the rows to this file")
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", help=f"only these of {', '.join(NAMES)}")
    options = parser.parse_args(arguments)
    jobs = quick_jobs() if options.quick else full_jobs()
    rows = []
    for name in options.only or [name for name in NAMES if name in jobs]:
        start = time.perf_counter()
        found = jobs[name]()
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
        report("pruning_accuracy", found, json_path=None, keep=not options.quick, part=name)
        rows += found
    report("pruning_accuracy", rows, json_path=options.json, keep=False)


def full_jobs() -> dict[str, Callable[[], list[dict[str, Any]]]]:
    digits, pictures = functools.cache(mnist.full), functools.cache(cifar.subset)
    return _jobs(digits, pictures, LENETS, SLIMMING, CIFAR, SEEDS)


def quick_jobs() -> dict[str, Callable[[], list[dict[str, Any]]]]:
    """The same code on little data for a few steps: its figures mean nothing."""
    digits, pictures = functools.cache(mnist.small), functools.cache(cifar.small)
    lenet = dataclasses.replace(LENET300, baseline=dataclasses.replace(LENET300.baseline, epochs=3), epochs=3)
    once = Budget(1, batch_size=100)
    tiny = Subject("vgg", VGGSmall(4), once)
    structured = Structured(tiny, once)
    networks: dict[str, CifarJob] = {
        "vgg-2x": structured,
        "vgg-scratch": FromScratch(structured),
        "resnet20-80": Gradual(tiny, once),
        "resnet20-90": SparseTraining(tiny, once, every=5),
    }
    return _jobs(
        digits, pictures, [lenet], dataclasses.replace(SLIMMING, baseline=once, sparse=once, tune=once), networks, [0]
    )


def _jobs(
    digits: Callable[[], tuple[mnist.Images, mnist.Images]],
    pictures: Callable[[], cifar.Split],
    lenets: Sequence[LeNetJob],
    slimming: SlimmingJob,
    networks: Mapping[str, CifarJob],
    seeds: Sequence[int],
) -> dict[str, Callable[[], list[dict[str, Any]]]]:
    return {
        **{job.name: functools.partial(lambda job: lenet_rows(job, *digits(), seeds=seeds), job) for job in lenets},
        "slimming": lambda: slimming_rows(slimming, *digits(), seeds=seeds),
        **{name: functools.partial(lambda job: job.rows(pictures(), seed=0), job) for name, job in networks.items()},
    }


if __name__ == "__main__":
    main()
