"""LeNet-300-100 and LeNet-5 at 12 times fewer parameters, as in Han et al. 2015, tables 3 and 4."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import optax

import jaxcompress as jc
from benchmarks.baselines import Baseline, train_baseline
from benchmarks.lenets import LeNet5, LeNet300
from benchmarks.mnist import Images
from benchmarks.results import row
from benchmarks.training import decayed, error_percent, fit, steps_per_epoch

PEER = "Han 2015"


@dataclasses.dataclass(frozen=True)
class LeNetJob:
    """A dense network and how it is pruned: gradually, while it trains on.

    Attributes:
        name: first word of the metrics.
        baseline: the dense network and its training.
        sparsity: fraction dropped of every kernel; biases stay. The published fractions, LeNet-5's first dense layer
            a little sparser so that 12 times fewer parameters are left with the biases counted.
        epochs: of pruning and retraining together; the masks are final after 60 % of them.
        learning_rate: peak of AdamW, which falls along one cosine.
        published: error of the dense and of the pruned network in the paper, in percent.
    """

    name: str
    baseline: Baseline
    sparsity: Mapping[str, float]
    epochs: int
    learning_rate: float
    published: tuple[float, float]


LENET300 = LeNetJob(
    "lenet300",
    Baseline(LeNet300(), epochs=20, shift=1, weight_decay=0.05),
    {"**/fc1/kernel": 0.92, "**/fc2/kernel": 0.91, "**/fc3/kernel": 0.74},
    epochs=40,
    learning_rate=3e-3,
    published=(1.64, 1.59),
)
LENET5 = LeNetJob(
    "lenet5",
    Baseline(LeNet5(), epochs=4, shift=1),
    {"**/conv1/kernel": 0.34, "**/conv2/kernel": 0.88, "**/fc1/kernel": 0.923, "**/fc2/kernel": 0.81},
    epochs=4,
    learning_rate=1.5e-3,
    published=(0.80, 0.77),
)


def lenet_rows(job: LeNetJob, train: Images, test: Images, *, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Error lost, over the seeds; against the dense network, and against one that trained as long."""
    runs = [_run(job, train, test, seed) for seed in seeds]
    dense, longer, pruned = (statistics.mean(run[i] for run in runs) for i in range(3))
    drops = [after - before for before, _, after, _ in runs]
    published = job.published[1] - job.published[0]
    return [
        row(f"{job.name} 12x drop", statistics.mean(drops), "points", PEER, published),
        row(f"{job.name} 12x drop (worst seed)", max(drops), "points", PEER, published),
        row(f"{job.name} 12x error", pruned, "%", "dense", dense),
        row(f"{job.name} 12x error, equal epochs", pruned, "%", "dense trained as long", longer),
        row(f"{job.name} parameters", min(ratio for *_, ratio in runs), "x fewer", PEER, 12.0),
    ]


def _run(job: LeNetJob, train: Images, test: Images, seed: int) -> tuple[float, float, float, float]:
    """Errors of the dense, the longer trained dense and the pruned network, and how many times fewer parameters."""
    start = time.perf_counter()
    apply = job.baseline.model.apply
    dense = train_baseline(job.baseline, train, seed=seed)
    pruned = prune(job, dense, train, seed=seed)
    longer = _trained_on(job, dense, _adamw(job, train), train, seed)[0]
    errors = [error_percent(apply, params, test) for params in (dense, longer, pruned)]
    ratio = parameters(dense) / parameters(pruned)
    print(
        f"{job.name} seed {seed}: error {errors[0]:.2f} % dense, {errors[1]:.2f} % trained on for {job.epochs} epochs, "
        f"{errors[2]:.2f} % pruned {ratio:.2f}x, {time.perf_counter() - start:.0f} s",
        flush=True,
    )
    return errors[0], errors[1], errors[2], ratio


def prune(job: LeNetJob, dense: Any, train: Images, *, seed: int) -> Any:
    """The dense network with masked leaves, retrained."""
    steps = job.epochs * steps_per_epoch(train, job.baseline.batch_size)
    tx = jc.train.gradual_pruning(
        _adamw(job, train), sparsity=job.sparsity, begin_step=0, end_step=round(0.6 * steps), every=50
    )
    return jc.prune.finish(*_trained_on(job, dense, tx, train, seed))


def parameters(params: Any) -> int:
    """Parameters that are left: kept entries of masked leaves, all entries of others."""
    leaves = jax.tree.leaves(params, is_leaf=jc.is_compressed)
    return sum(int(leaf.mask.sum()) if jc.is_compressed(leaf) else leaf.size for leaf in leaves)


def _adamw(job: LeNetJob, train: Images) -> optax.GradientTransformation:
    steps = job.epochs * steps_per_epoch(train, job.baseline.batch_size)
    rate = optax.cosine_decay_schedule(job.learning_rate, steps)
    return optax.adamw(rate, weight_decay=job.baseline.weight_decay, mask=decayed)


def _trained_on(
    job: LeNetJob, params: Any, tx: optax.GradientTransformation, train: Images, seed: int
) -> tuple[Any, Any]:
    key = jax.random.fold_in(jax.random.key(seed), 10)
    baseline = job.baseline
    return fit(
        baseline.model.apply,
        params,
        tx,
        train,
        key=key,
        epochs=job.epochs,
        batch_size=baseline.batch_size,
        shift=baseline.shift,
    )
