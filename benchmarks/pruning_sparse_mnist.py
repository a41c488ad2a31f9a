"""Sparse training of LeNet-300-100 on MNIST: RigL, SET and static random masks over several seeds."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Sequence
from typing import Any

import jax
import optax

import jaxcompress as jc
from benchmarks.lenets import LeNet300
from benchmarks.mnist import Images
from benchmarks.results import row
from benchmarks.training import error_percent, fit, steps_per_epoch

METHODS = ("static", "set", "rigl")


@dataclasses.dataclass(frozen=True)
class SparseJob:
    """Nesterov momentum under one cosine; masks and weights of one seed are the same for every method.

    Attributes:
        sparsity: of all kernels together, shared by ERK.
        epochs: of each run.
        every: steps between two rewirings, of 30 % of the weights at first, none in the last quarter.
        learning_rate: peak.
        batch_size: images in a step.
    """

    sparsity: float = 0.98
    epochs: int = 15
    every: int = 100
    learning_rate: float = 0.1
    batch_size: int = 128


SPARSE = SparseJob()


def sparse_rows(job: SparseJob, train: Images, test: Images, *, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Mean accuracies over the seeds."""
    found = {method: [_accuracy(job, method, train, test, seed) for seed in seeds] for method in METHODS}
    static, evolved, rigged = (statistics.mean(found[method]) for method in METHODS)
    name = f"lenet300 {job.sparsity:.0%}"
    return [
        row(f"{name} rigl accuracy", rigged, "%", "SET", evolved),
        row(f"{name} set accuracy", evolved, "%", "static random", static),
        row(f"{name} rigl accuracy, over static", rigged, "%", "static random", static),
    ]


def _accuracy(job: SparseJob, method: str, train: Images, test: Images, seed: int) -> float:
    model, key, start = LeNet300(), jax.random.key(seed), time.perf_counter()
    steps = job.epochs * steps_per_epoch(train, job.batch_size)
    given = {"sparsity": job.sparsity, "key": jax.random.fold_in(key, 3)}
    moving = given | {"end_step": round(0.75 * steps), "every": job.every, "drop_fraction": 0.3, "schedule": "cosine"}
    tx = optax.sgd(optax.cosine_decay_schedule(job.learning_rate, steps), momentum=0.9, nesterov=True)
    tx = {
        "static": lambda: jc.train.static_sparse(tx, **given),
        "set": lambda: jc.train.sparse_evolutionary(tx, **moving),
        "rigl": lambda: jc.train.rigl(tx, **moving),
    }[method]()
    params, state = fit(
        model.apply,
        model.init(key, train.images[:1]),
        tx,
        train,
        key=jax.random.fold_in(key, 1),
        epochs=job.epochs,
        batch_size=job.batch_size,
        shift=1,
    )
    accuracy = 100 - error_percent(model.apply, jc.prune.finish(params, state), test)
    print(f"lenet300 {method} seed {seed}: {accuracy:.2f} %, {time.perf_counter() - start:.0f} s", flush=True)
    return accuracy
