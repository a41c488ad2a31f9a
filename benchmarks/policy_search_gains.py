"""The gain half of `benchmarks.policy_search`: a searched policy against one setting for all layers.

The dense networks of the other benchmarks, nothing trained further. For each of three seeds `jaxcompress.search.policy`
looks for the smallest file whose loss on a search split is at most so many times the dense one's; bits and sparsity of
every weight are chosen jointly. The seed draws the search split, the reporting split and the evolution: of the images
both are parts of the test images that share none (the networks have seen all training images), of the stories windows
0-31 and 32-143.

The gain is the fraction of bytes saved against the smallest *uniform* policy, of the same settings, whose error on the
reporting split is no larger than the searched policy's there. That uniform policy is chosen with the reporting split in
sight, the searched one without. Bytes are those of files. Sizes of uniform policies lie far apart (4 bits, 5 bits), so
a part of the gain is that a policy falls between them; the rows "uniform interpolated" are the gain against the line
between the two uniform policies around its error, which is what remains if any size could be had uniformly.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import cifar, mnist
from benchmarks.baselines import train_baseline
from benchmarks.batchnorm_training import Budget, Network
from benchmarks.pruning_cifar import Subject as Pruned
from benchmarks.pruning_lenets import LENET5
from benchmarks.pruning_llama import MATRICES, model
from benchmarks.resnet import ResNet20
from benchmarks.results import row
from jaxcompress.search.policies import Evaluation, VariantTable, policy, settings
from jaxcompress.search.policies.sizes import file_bytes
from tests.zoo import llama

Rows = list[dict[str, Any]]
SEEDS, TARGET = 3, 0.2


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A trained network and how policies of it are searched.

    Attributes:
        name: in the metrics.
        fn: the function, ``fn(params, inputs)``.
        params: the dense parameters.
        loss: mean loss and mean error of outputs, ``(outputs, targets)``.
        splits: the search and the reporting split of a seed, each with ``inputs`` and ``targets``.
        choices: settings by glob.
        slack: how many times the dense loss a policy may have.
        evaluations: of iterated allocations and evolution.
    """

    name: str
    fn: Callable[..., Any]
    params: Any
    loss: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
    splits: Callable[[int], tuple[Any, Any]]
    choices: Mapping[str, Sequence[Any]]
    slack: float
    evaluations: int

    def evaluate(self, apply: Callable[..., Any], params: Any, data: Any) -> dict[str, jax.Array]:
        """Loss and error of parameters."""
        loss, error = self.loss(apply(params, data["inputs"]), data["targets"])
        return {"loss": loss, "error": error}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One seed: bytes and error on the reporting split of the searched policy and of the uniform one.

    ``between``: the bytes on the line between the uniform policies next to the searched one's error.
    """

    policy_bytes: float
    policy_error: float
    uniform_bytes: float
    uniform_error: float
    between: float
    dense_error: float
    dense_bytes: float
    seconds: float

    @property
    def gain(self) -> float:
        """Fraction of bytes saved."""
        return 1 - self.policy_bytes / self.uniform_bytes

    @property
    def strict(self) -> float:
        """The same against a uniform policy of just this error, if there were one between those that there are."""
        return 1 - self.policy_bytes / self.between


def gain_rows(subject: Subject, *, seeds: int) -> Rows:
    """All seeds of a network: the mean gain, the least one, and what stands behind it."""
    found, table = [], None
    for seed in range(seeds):
        outcome, table = search(subject, seed, table)
        found.append(outcome)
        print(f"{subject.name} seed {seed}: {found[-1]}, gain {found[-1].gain:.3f}", flush=True)
    mean = lambda name: statistics.fmean(getattr(one, name) for one in found)  # noqa: E731
    name, best = subject.name, "best uniform of no larger error"
    return [
        row(f"policy bytes gain {name}", mean("gain"), "fraction", "target", TARGET),
        row(f"policy bytes gain {name}, worst seed", min(one.gain for one in found), "fraction", "target", TARGET),
        row(f"policy bytes gain {name}, uniform interpolated", mean("strict"), "fraction", "gain", mean("gain")),
        row(f"policy {name} bytes", mean("policy_bytes"), "bytes", best, mean("uniform_bytes")),
        row(f"policy {name} held-out error", mean("policy_error"), "%", best, mean("uniform_error")),
        row(f"policy {name} dense held-out error", mean("dense_error"), "%", "policy", mean("policy_error")),
        row(f"policy {name} seconds", mean("seconds"), "s", "seeds", seeds),
    ]


def search(subject: Subject, seed: int, table: VariantTable | None) -> tuple[Outcome, VariantTable]:
    """One seed, and the table of variants, which all seeds share: the first one makes it."""
    start = time.perf_counter()
    data, report = subject.splits(seed)
    dense = float(jax.jit(lambda p, d: subject.evaluate(subject.fn, p, d))(subject.params, data)["loss"])
    found = policy(
        subject.fn,
        subject.params,
        subject.evaluate,
        choices=subject.choices if table is None else table,
        budget={"loss": subject.slack * dense},
        key=jax.random.key(seed),
        data=data,
        report_data=report,
        inputs=(data["inputs"][:1],),
        minimize="bytes",
        evaluations=subject.evaluations,
        executor="map",
        finalists=3,
    )
    print(found, flush=True)
    seconds = time.perf_counter() - start
    assert found.report is not None
    assert found.dense.report is not None
    size, error, between = best_uniform(subject, found.table, report, found.report["error"])
    outcome = Outcome(
        found.real["bytes"],
        100 * found.report["error"],
        size,
        100 * error,
        between,
        100 * found.dense.report["error"],
        found.dense.real["bytes"] if found.dense.real else 0.0,
        seconds,
    )
    return outcome, found.table


def best_uniform(subject: Subject, table: Any, report: Any, error: float) -> tuple[float, float, float]:
    """Bytes and error of the smallest uniform policy whose error on ``report`` is at most ``error``.

    And the bytes at that error on the line from it to the best smaller one: sizes of uniform policies lie far apart,
    so that a searched policy also gains by falling between them.
    """
    rows = table.uniform_rows()
    errors = Evaluation(table, subject.evaluate, data=report, executor="loop")(rows)["error"]
    fits = [i for i in range(len(rows)) if errors[i] <= error + 1e-9] or [int(np.argmin(errors))]
    sizes = [file_bytes(table.tree(row), table.coder) for row in rows]
    best = min(fits, key=lambda i: (sizes[i], errors[i]))
    slopes = [
        (sizes[best] - sizes[i]) / (errors[i] - errors[best])
        for i in range(len(rows))
        if sizes[i] < sizes[best] and errors[i] > errors[best]
    ]
    between = sizes[best] - max(slopes, default=0.0) * max(0.0, error - errors[best])
    return float(sizes[best]), float(errors[best]), float(between)


def classified(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy and the fraction that is wrong."""
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return loss, (logits.argmax(-1) != labels).mean(dtype=jnp.float32)


def lenet5(*, quick: bool) -> Rows:
    """LeNet-5 on MNIST: search on 2,500 test images, report on 5,000 others."""
    train, test = mnist.small() if quick else mnist.full()
    searched, reported = (300, 500) if quick else (2_500, 5_000)
    apply: Any = LENET5.baseline.model.apply
    params = train_baseline(dataclasses.replace(LENET5.baseline, epochs=1) if quick else LENET5.baseline, train, seed=0)
    grid = settings(bits=(2, 3, 4, 5, 6, 8), sparsity=(0, 0.5, 0.7, 0.8, 0.9, 0.95))
    subject = Subject(
        "lenet5",
        apply,
        params,
        classified,
        lambda seed: parts(np.asarray(test.images), np.asarray(test.labels), (searched, reported), seed),
        {"**/kernel": grid[::6] if quick else grid},
        1.25,
        40 if quick else 400,
    )
    return gain_rows(subject, seeds=1 if quick else SEEDS)


def resnet20(*, quick: bool) -> Rows:
    """ResNet-20 of width 8 on CIFAR-10: search on 1,000 test images, report on 4,000 others."""
    data = cifar.small() if quick else cifar.subset()
    network = Network.of(ResNet20(8))
    variables = Pruned("resnet20", ResNet20(8), Budget(1 if quick else 24)).dense(data)
    images = np.asarray(jax.jit(lambda images: network.prepare(images, None))(jnp.asarray(data.test.images)))
    searched, reported = (100, 200) if quick else (1_000, 4_000)
    grid = settings(bits=(2, 3, 4, 5, 6, 8), sparsity=(0, 0.3, 0.5))
    subject = Subject(
        "resnet20",
        network.predict,
        variables,
        classified,
        lambda seed: parts(images, np.asarray(data.test.labels), (searched, reported), seed),
        {"**/kernel": grid[::6] if quick else grid},
        1.1,
        20 if quick else 300,
    )
    return gain_rows(subject, seeds=1 if quick else SEEDS)


def language(logits: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of the next token, and the fraction of next tokens that are not the likeliest one."""
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, tokens).mean()
    return loss, (logits.argmax(-1) != tokens).mean(dtype=jnp.float32)


def trained_llama(*, quick: bool) -> Rows:
    """The trained Llama: search on 8 of the windows 0-31, report on 48 of the windows 32-143."""
    windows = np.asarray(llama.windows(144))
    fn, params = model()
    searched, reported = (2, 4) if quick else (8, 48)

    def splits(seed: int) -> tuple[Any, Any]:
        draw = np.random.default_rng(seed)
        rows = draw.permutation(32)[:searched], 32 + draw.permutation(112)[:reported]
        return tuple({"inputs": jnp.asarray(windows[r, :-1]), "targets": jnp.asarray(windows[r, 1:])} for r in rows)  # type: ignore[return-value]  # two

    grid = settings(bits=(2, 3, 4, 5, 6, 8), sparsity=(0, 0.3))
    subject = Subject(
        "llama",
        fn,
        params,
        language,
        splits,
        {"emb": grid[::6] if quick else grid, MATRICES: grid[::6] if quick else grid},
        1.08,
        20 if quick else 600,
    )
    return gain_rows(subject, seeds=1 if quick else SEEDS)


def parts(images: np.ndarray, labels: np.ndarray, sizes: tuple[int, int], seed: int) -> tuple[Any, Any]:
    """Two parts that share no image."""
    order = np.random.default_rng(seed).permutation(len(labels))
    cuts = order[: sizes[0]], order[sizes[0] : sum(sizes)]
    return tuple({"inputs": jnp.asarray(images[cut]), "targets": jnp.asarray(labels[cut])} for cut in cuts)  # type: ignore[return-value]  # two


GAINS = {"lenet5": lenet5, "resnet20": resnet20, "llama": trained_llama}
