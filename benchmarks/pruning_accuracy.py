"""What pruning costs in accuracy: MNIST in full and a part of CIFAR-10, against dense networks trained here.

    python -m benchmarks.pruning_accuracy [--quick] [--json PATH] [--only NAME ...]

A drop is the accuracy of the dense network minus that of the pruned one, in points on the test images; below zero the
pruned one is better. Budgets, in epochs of the training images:

| part | dense | then | data |
|---|---|---|---|
| lenet300, lenet5 | 20, 4 | 40, 4 of gradual pruning and retraining | MNIST, 60,000; 3 seeds |
| slimming | 20 | 20 from new weights with the penalty, 80 of fine-tuning | MNIST, 60,000; 3 seeds |
| lenet300-98 | - | 15 of sparse training, each of the three | MNIST, 60,000; 3 seeds |
| resnet20-2x | 24 | 20 of fine-tuning, the dense network as teacher | CIFAR-10, 20,000 |
| resnet20-2x-plain | 24 | 16 of fine-tuning, no teacher | CIFAR-10, 20,000 |
| resnet20-scratch | - | 40: the control of resnet20-2x-plain, its small network from new weights | CIFAR-10, 20,000 |
| resnet20-80 | 24 | 12 of gradual pruning and retraining | CIFAR-10, 20,000 |
| resnet20-90 | - | 10 of sparse training, each of the three | CIFAR-10, 20,000 |
| vgg-2x | 12 | 8 of fine-tuning, no teacher | CIFAR-10, 20,000 |
| vgg-scratch | - | 20: the control of vgg-2x | CIFAR-10, 20,000 |

What to know before reading the figures:

- A pruned network has trained longer than the dense one it is compared with. For the LeNets the dense network trains on
  as long too (`equal epochs`); for the structured networks the control trains from scratch for both budgets together.
- The budgets are those of one CPU core, not of the papers: ResNet-20 of width 8 (69 thousand parameters) and VGG-small
  of width 16 on 20,000 of the 50,000 images have not converged after so few epochs, so that further training helps
  whatever trains. CIFAR-10 is a JPEG copy: its accuracies compare only with one another.
- CIFAR-10 jobs run once, with seed 0. On 10,000 test images two networks of about 79 % differ by chance by some 0.4
  points, and by more between seeds of their training; on MNIST, with errors about 1 %, by some 0.1.
- Recipes were chosen on held-out training images: the last 10,000 of MNIST; 5,000 others of the 50,000 of CIFAR-10,
  where "l2" on the channels inside of blocks left the highest accuracy of ten choices before fine-tuning. There is one
  exception: resnet20-2x-plain was the first recipe of that network, and the teacher came when its test accuracy had
  been seen. The MNIST figures are of networks trained on all 60,000 images.
- The MLP is slimmed with images moved by up to a pixel and a teacher, which the paper has not; its dense network is
  trained with the same images and is better than the paper's.
- RigL and SET differ in where connections grow and in nothing else: the same first masks and weights, ERK, 30 % moved
  every 100 steps, annealed by a cosine to zero at 75 % of the training. The static network keeps the first masks.
- The FLOPs of shrunk networks are counted from the trace of the shrunk function (`jaxcompress.groups`).

Dense networks are kept in the user's cache folder. With `--only`, parts run one by one: the kept results exchange the
rows of the part and say for each part when and on what it ran.
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
from benchmarks.pruning_cifar import CifarJob, FromScratch, Gradual, SparseTraining, Structured, Subject
from benchmarks.pruning_lenets import LENET5, LENET300, LeNetJob, lenet_rows
from benchmarks.pruning_slimming import SLIMMING, SlimmingJob, slimming_rows
from benchmarks.pruning_sparse_mnist import SPARSE, SparseJob, sparse_rows
from benchmarks.resnet import ResNet20
from benchmarks.results import report
from benchmarks.vgg import VGGSmall

SEEDS = (0, 1, 2)  # of the MNIST jobs; those of CIFAR-10 run once
LENETS = (LENET300, LENET5)

RESNET = Subject("resnet20", ResNet20(8), Budget(24))
VGG = Subject("vgg", VGGSmall(16), Budget(12))
INNER = "params/Block_*/BatchNorm_0/*"  # the channels between the two convolutions of a block
_RESNET_2X = Structured(RESNET, Budget(16), where=INNER, note=", no teacher")
_VGG_2X = Structured(VGG, Budget(8))
CIFAR: Mapping[str, CifarJob] = {
    "resnet20-2x": Structured(RESNET, Budget(20), where=INNER, taught=True),
    "resnet20-2x-plain": _RESNET_2X,
    "resnet20-80": Gradual(RESNET, Budget(12, learning_rate=0.05)),
    "resnet20-90": SparseTraining(RESNET, Budget(10)),
    "vgg-2x": _VGG_2X,
    "resnet20-scratch": FromScratch(_RESNET_2X),
    "vgg-scratch": FromScratch(_VGG_2X),
}
NAMES = [*(job.name for job in LENETS), "slimming", "lenet300-98", *CIFAR]


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
    if options.json:
        report("pruning_accuracy", rows, json_path=options.json, keep=False)


def full_jobs() -> dict[str, Callable[[], list[dict[str, Any]]]]:
    digits, pictures = functools.cache(mnist.full), functools.cache(cifar.subset)
    return _jobs(digits, pictures, LENETS, SLIMMING, SPARSE, CIFAR, SEEDS)


def quick_jobs() -> dict[str, Callable[[], list[dict[str, Any]]]]:
    """The same code on little data for a few steps: its figures mean nothing."""
    digits, pictures = functools.cache(mnist.small), functools.cache(cifar.small)
    lenet = dataclasses.replace(LENET300, baseline=dataclasses.replace(LENET300.baseline, epochs=3), epochs=3)
    once = Budget(1, batch_size=100)
    tiny = Subject("vgg", VGGSmall(4, stages=1), once)
    structured = Structured(tiny, once)
    networks: dict[str, CifarJob] = {
        "vgg-2x": structured,
        "vgg-scratch": FromScratch(structured),
        "resnet20-80": Gradual(tiny, once),
        "resnet20-90": SparseTraining(tiny, once, every=5),
    }
    slimming = dataclasses.replace(SLIMMING, baseline=once, sparse=once, tune=once)
    sparse = dataclasses.replace(SPARSE, epochs=2, every=10)
    return _jobs(digits, pictures, [lenet], slimming, sparse, networks, [0])


def _jobs(
    digits: Callable[[], tuple[mnist.Images, mnist.Images]],
    pictures: Callable[[], cifar.Split],
    lenets: Sequence[LeNetJob],
    slimming: SlimmingJob,
    sparse: SparseJob,
    networks: Mapping[str, CifarJob],
    seeds: Sequence[int],
) -> dict[str, Callable[[], list[dict[str, Any]]]]:
    return {
        **{job.name: functools.partial(lambda job: lenet_rows(job, *digits(), seeds=seeds), job) for job in lenets},
        "slimming": lambda: slimming_rows(slimming, *digits(), seeds=seeds),
        "lenet300-98": lambda: sparse_rows(sparse, *digits(), seeds=seeds),
        **{name: functools.partial(lambda job: job.rows(pictures(), seed=0), job) for name, job in networks.items()},
    }


if __name__ == "__main__":
    main()
