"""The recipes of `benchmarks.deep_compression`: every number that was chosen."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from benchmarks.baselines import Baseline
from benchmarks.lenets import LeNet5, LeNet300


@dataclasses.dataclass(frozen=True)
class Point:
    """One operating point: how far a network is pruned and how its weights are shared.

    Attributes:
        prefix: of its metrics: empty, or ``"record "``.
        sparsity: of all parameters together, or by layer.
        initial_sparsity: where pruning begins.
        epochs: of gradual pruning.
        tune_epochs: under fixed masks.
        share_epochs: of the codebooks.
        bits: of a code.
        learning_rate: of pruning.
        tune_learning_rate: of the two after it.
    """

    prefix: str
    sparsity: float | Mapping[str, float]
    epochs: int
    tune_epochs: int
    share_epochs: int
    initial_sparsity: float = 0.0
    bits: int = 4
    learning_rate: float = 1e-3
    tune_learning_rate: float = 3e-4


@dataclasses.dataclass(frozen=True)
class Job:
    """One network: its dense training, its operating points, and what Han et al. 2016 report.

    Attributes:
        name: of its metrics.
        baseline: the dense network.
        layers: names of its layers, in order.
        points: one after the other, each goes on from the file of the one before.
        peers: metric to (unit, value of the peer).
        trust: part of the loss that the teacher has.
        group_strength: of `benchmarks.training.shrink_groups`.
    """

    name: str
    baseline: Baseline
    layers: tuple[str, ...]
    points: tuple[Point, ...]
    peers: Mapping[str, tuple[str, float]]
    trust: float = 0.7
    group_strength: float = 1e-2


def _peers(ratio: float, error: float, dense: float) -> dict[str, tuple[str, float]]:
    return {
        "ratio": ("x", ratio),
        "error": ("%", error),
        "dense error": ("%", dense),
        "record ratio": ("x", ratio),
        "record error": ("%", error),
    }


_LENET300 = Job(
    "lenet300",
    Baseline(LeNet300(), epochs=20, shift=1, weight_decay=0.05),
    layers=("fc1", "fc2", "fc3"),
    points=(
        Point(
            "",
            sparsity=1 - 24_000 / 266_610,
            epochs=30,
            tune_epochs=8,
            share_epochs=5,
            learning_rate=1.5e-3,
            tune_learning_rate=5e-4,
        ),
        Point(
            "record ",
            sparsity=1 - 8_700 / 266_610,
            initial_sparsity=0.91,
            epochs=20,
            tune_epochs=6,
            share_epochs=5,
            tune_learning_rate=5e-4,
        ),
    ),
    peers=_peers(40.0, 1.58, 1.64),
)

_LENET5 = Job(
    "lenet5",
    Baseline(LeNet5(), epochs=4, shift=1),
    layers=("conv1", "conv2", "fc1", "fc2"),
    points=(
        Point(
            "",
            sparsity={
                "**/conv1/kernel": 0.1,
                "**/conv2/kernel": 0.6,
                "**/fc1/kernel": 0.95,
                "**/fc2/kernel": 0.5,
                "**/fc1/bias": 0.3,
            },
            epochs=3,
            tune_epochs=2,
            share_epochs=1,
            tune_learning_rate=5e-4,
        ),
        Point(
            "record ",
            sparsity={
                "**/conv1/kernel": 0.34,
                "**/conv2/kernel": 0.944,
                "**/fc1/kernel": 0.9955,
                "**/fc2/kernel": 0.81,
                "**/fc1/bias": 0.8,
            },
            initial_sparsity=0.34,
            epochs=5,
            tune_epochs=2,
            share_epochs=1,
            tune_learning_rate=5e-4,
        ),
    ),
    peers=_peers(39.0, 0.74, 0.80),
    trust=0.0,
)

JOBS = (_LENET300, _LENET5)


def _quick(job: Job) -> Job:
    """The first operating point with a few epochs for few images: it runs, its figures mean little."""
    point = dataclasses.replace(job.points[0], epochs=3, tune_epochs=1, share_epochs=1)
    peers = {metric: peer for metric, peer in job.peers.items() if "record" not in metric}
    return dataclasses.replace(job, baseline=dataclasses.replace(job.baseline, epochs=4), points=(point,), peers=peers)


QUICK = tuple(_quick(job) for job in JOBS)
