"""Network slimming of the MLP 784-500-300-10 on MNIST, as in Liu et al. 2017, section 4.4."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import jaxcompress as jc
from benchmarks import mnist
from benchmarks.batchnorm_training import Budget, Network, accuracy_percent, dense, fit
from benchmarks.cifar import Pictures
from benchmarks.results import row

PEER = "Liu 2017"


class SlimMLP(nn.Module):
    """784-500-300-10 with batch norm before each ReLU."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:  # [N, 28, 28] -> [N, 10]
        x = images.reshape(len(images), -1)
        for features in (500, 300):
            x = nn.Dense(features, use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        return nn.Dense(10)(x)


@dataclasses.dataclass(frozen=True)
class SlimmingJob:
    """Trained from scratch with an L1 penalty on the scales, cut by one threshold, fine-tuned.

    Attributes:
        baseline: budget of the dense network that is compared with.
        sparse: budget of the training with the penalty.
        tune: budget of the fine-tuning.
        penalty: weight of the sum of ``|scale|`` in the loss. The paper has 1e-4, inside a momentum of 0.9, over more
            steps, and for scales that begin at 0.5.
        sparsity: fraction of the hidden units that goes: 800 -> 160, as in the paper (500-300 -> 100-60).
    """

    baseline: Budget
    sparse: Budget
    tune: Budget
    penalty: float = 1.2e-2
    sparsity: float = 0.8


SLIMMING = SlimmingJob(
    baseline=Budget(20, batch_size=128),
    sparse=Budget(20, batch_size=128),
    tune=Budget(80, batch_size=128),
)


def slimming_rows(job: SlimmingJob, train: mnist.Images, test: mnist.Images, *, seeds: Sequence[int]) -> list[Any]:
    """Error lost and parameters saved, over the seeds."""
    data, held_out = (Pictures(np.asarray(part.images), np.asarray(part.labels)) for part in (train, test))
    runs = [_run(job, data, held_out, seed) for seed in seeds]
    dense_error, slim_error, saved = (statistics.mean(run[i] for run in runs) for i in range(3))
    drops = [after - before for before, after, _ in runs]
    return [
        row("slimming drop", statistics.mean(drops), "points", PEER, 1.49 - 1.43),
        row("slimming drop (worst seed)", max(drops), "points", PEER, 1.49 - 1.43),
        row("slimming error", slim_error, "%", "dense", dense_error),
        row("slimming parameters saved", saved, "%", PEER, 84.4),
    ]


def _run(job: SlimmingJob, train: Pictures, test: Pictures, seed: int) -> tuple[float, float, float]:
    """Errors of the dense and of the slim network, and the percentage of the parameters that went."""
    start, network = time.perf_counter(), Network.of(SlimMLP(), moved)
    before = dense(SlimMLP(), train, job.baseline, seed=seed, prepare=moved)
    small, variables = slim(job, network, before, train, seed=seed)
    errors = [100 - accuracy_percent(*pair, test) for pair in ((network, before), (small, variables))]
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(tree["params"])) for tree in (before, variables)]
    widths = [variables["params"][f"Dense_{i}"]["kernel"].shape[1] for i in range(2)]
    saved = 100 * (1 - sizes[1] / sizes[0])
    print(
        f"slimming seed {seed}: error {errors[0]:.2f} % dense, {errors[1]:.2f} % slim, 784-{widths[0]}-{widths[1]}-10, "
        f"-{saved:.1f} % parameters, {time.perf_counter() - start:.0f} s",
        flush=True,
    )
    return errors[0], errors[1], saved


def slim(job: SlimmingJob, network: Network, before: Any, train: Pictures, *, seed: int) -> tuple[Network, Any]:
    """The shrunk network, fine-tuned with the dense one as teacher."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 30), 3)
    images = jnp.zeros((1, *train.images.shape[1:]))
    variables = SlimMLP().init(keys[0], images)
    tx = jc.train.network_slimming(
        job.sparse.optimizer(train), strength=job.penalty, learning_rate=job.sparse.rate(train)
    )
    variables, _ = fit(network, variables, tx, train, job.sparse, key=keys[1])
    groups = jc.groups(network.train, variables, images, state="1/**")
    keep = jc.prune.slimming(groups, variables, sparsity=job.sparsity)
    small = jc.shrink(network.predict, variables, keep)
    shrunk = dataclasses.replace(network, predict=small.fn, train=jc.shrink(network.train, variables, keep).fn)
    tx = job.tune.optimizer(train)
    return shrunk, fit(shrunk, small.params, tx, train, job.tune, key=keys[2], teacher=(network.predict, before))[0]


def moved(images: jax.Array, key: jax.Array | None) -> jax.Array:
    """With a key, moved by up to a pixel."""
    return images if key is None else mnist.shifted(images, key, 1)
