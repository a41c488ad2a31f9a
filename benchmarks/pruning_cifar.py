"""The CIFAR-10 half of `benchmarks.pruning_accuracy`: structured, gradual and sparse training, with their controls."""

from __future__ import annotations

import dataclasses
import time
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxcompress as jc
from benchmarks.batchnorm_training import Budget, Network, accuracy_percent, dense, fit
from benchmarks.cifar import Split
from benchmarks.results import row

Rows = list[dict[str, Any]]
KERNELS = "**/kernel"


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network, and how its dense baseline trains."""

    name: str
    model: nn.Module
    budget: Budget

    def dense(self, data: Split) -> Any:
        return dense(self.model, data.train, self.budget, seed=0, log=f"{self.name} dense")


class CifarJob(Protocol):
    """Something to train and measure."""

    def rows(self, data: Split, *, seed: int) -> Rows: ...


@dataclasses.dataclass(frozen=True)
class Structured:
    """Whole channels go until half of the FLOPs are left; the shrunk network is fine-tuned.

    Attributes:
        subject: the network.
        tune: budget of the fine-tuning.
        where: which groups lose channels: globs over the paths of their members.
        flops: fraction that remains.
        scores: what ranks channels.
        taught: fine-tunes with the dense network as teacher.
        note: behind the names of the metrics.
    """

    subject: Subject
    tune: Budget
    where: str | None = None
    flops: float = 0.5
    scores: str = "l2"
    taught: bool = False
    note: str = ""

    def keep(self, variables: Any) -> Any:
        """The kept indices."""
        image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
        groups = jc.groups(Network.of(self.subject.model).train, variables, image, state="1/**")
        return jc.prune.channels(
            groups, variables, scores=self.scores, flops=self.flops, round_to=1, floors=0.25, where=self.where
        )

    def rows(self, data: Split, *, seed: int) -> Rows:
        subject, network = self.subject, Network.of(self.subject.model)
        before = subject.dense(data)
        keep = self.keep(before)
        small, variables = shrunk(network, before, keep)
        name = f"{subject.name} 2x"
        variables = trained(
            small,
            variables,
            data,
            self.tune,
            seed=seed,
            log=name,
            teacher=(network.predict, before) if self.taught else None,
        )
        accuracy = accuracy_percent(network, before, data.test)
        after = accuracy_percent(small, variables, data.test)
        image = jnp.zeros((1, 32, 32, 3))
        ratio = flops(network, before, image) / flops(small, variables, image)
        sizes = parameters(before) / parameters(variables)
        return [
            row(f"{name} drop{self.note}", accuracy - after, "points", "target", 0.5),
            row(f"{name} accuracy{self.note}", after, "%", "dense", accuracy),
            row(f"{name} FLOPs{self.note}", ratio, "x fewer", "target", 2.0),
            row(f"{name} parameters{self.note}", sizes, "x fewer", "dense", 1.0),
        ]


@dataclasses.dataclass(frozen=True)
class FromScratch:
    """The control of `Structured`: the same small network, its weights drawn anew, trained as long as both together."""

    structured: Structured

    @property
    def subject(self) -> Subject:
        return self.structured.subject

    def rows(self, data: Split, *, seed: int) -> Rows:
        subject, network = self.subject, Network.of(self.subject.model)
        before = subject.dense(data)
        small, variables = shrunk(network, before, self.structured.keep(before))
        budget = dataclasses.replace(subject.budget, epochs=subject.budget.epochs + self.structured.tune.epochs)
        variables = redrawn(variables, jax.random.key(seed + 7))
        variables = trained(small, variables, data, budget, seed=seed, log=f"{subject.name} 2x from scratch")
        after, accuracy = (accuracy_percent(*pair, data.test) for pair in ((small, variables), (network, before)))
        return [row(f"{subject.name} 2x, small from scratch", after, "%", "dense", accuracy)]


@dataclasses.dataclass(frozen=True)
class Gradual:
    """Gradual magnitude pruning of all kernels on one scale, from the dense network on."""

    subject: Subject
    tune: Budget
    sparsity: float = 0.8

    def rows(self, data: Split, *, seed: int) -> Rows:
        network, before = Network.of(self.subject.model), self.subject.dense(data)
        name = f"{self.subject.name} {self.sparsity:.0%}"
        tx = jc.train.gradual_pruning(
            self.tune.optimizer(data.train),
            sparsity=self.sparsity,
            begin_step=0,
            end_step=round(0.6 * self.tune.steps(data.train)),
            every=50,
            scope="global",
            where=KERNELS,
        )
        variables, state = fit_from(network, before, tx, data, self.tune, seed=seed, log=name)
        pruned = variables | {"params": jc.prune.finish(variables["params"], state)}
        accuracy = accuracy_percent(network, before, data.test)
        after = accuracy_percent(network, jc.materialize(pruned), data.test)
        return [
            row(f"{name} drop", accuracy - after, "points", "target", 1.0),
            row(f"{name} accuracy", after, "%", "dense", accuracy),
            row(f"{name} zeros in kernels", zeros(pruned), "fraction", "target", self.sparsity),
        ]


@dataclasses.dataclass(frozen=True)
class SparseTraining:
    """RigL, SET and static random masks from the same first masks and weights, for the same number of steps."""

    subject: Subject
    budget: Budget
    sparsity: float = 0.9
    every: int = 100

    def rows(self, data: Split, *, seed: int) -> Rows:
        name = f"{self.subject.name} {self.sparsity:.0%}"
        static = self._accuracy("static", data, seed)
        evolved = self._accuracy("set", data, seed)
        rigged = self._accuracy("rigl", data, seed)
        return [
            row(f"{name} rigl accuracy", rigged, "%", "SET", evolved),
            row(f"{name} set accuracy", evolved, "%", "static random", static),
            row(f"{name} rigl accuracy, over static", rigged, "%", "static random", static),
        ]

    def _accuracy(self, method: str, data: Split, seed: int) -> float:
        network, key = Network.of(self.subject.model), jax.random.key(seed)
        steps = self.budget.steps(data.train)
        given = {"sparsity": self.sparsity, "key": jax.random.fold_in(key, 3), "where": KERNELS}
        moving = {"end_step": round(0.75 * steps), "every": self.every, "drop_fraction": 0.3, "schedule": "cosine"}
        tx = self.budget.optimizer(data.train)
        if method == "static":
            tx = jc.train.static_sparse(tx, **given)
        else:
            wrap = {"rigl": jc.train.rigl, "set": jc.train.sparse_evolutionary}[method]
            tx = wrap(tx, **given, **moving)
        variables = self.subject.model.init(key, jnp.zeros((1, 32, 32, 3)))
        log = f"{self.subject.name} {method}"
        variables, state = fit_from(network, variables, tx, data, self.budget, seed=seed, log=log)
        pruned = variables | {"params": jc.prune.finish(variables["params"], state)}
        accuracy = accuracy_percent(network, jc.materialize(pruned), data.test)
        print(f"{log}: {accuracy:.2f} %, {zeros(pruned):.4f} zeros", flush=True)
        return accuracy


def shrunk(network: Network, variables: Any, keep: Any) -> tuple[Network, Any]:
    """The smaller network in both of its forms, and its variables."""
    small = jc.shrink(network.predict, variables, keep)
    train = jc.shrink(network.train, variables, keep).fn
    return dataclasses.replace(network, predict=small.fn, train=train), small.params


def redrawn(variables: Any, key: jax.Array) -> Any:
    """New weights of the same shapes, as Flax draws them: LeCun's normal kernels, scales one, the rest zero."""

    def draw(path: Any, leaf: jax.Array) -> jax.Array:
        name = path[-1].key
        if name == "kernel":
            return nn.initializers.lecun_normal()(_folded(key, path), leaf.shape, leaf.dtype)
        return jnp.full_like(leaf, 1 if name in ("scale", "var") else 0)

    return jax.tree_util.tree_map_with_path(draw, variables)


def _folded(key: jax.Array, path: Any) -> jax.Array:
    for byte in jax.tree_util.keystr(path).encode():
        key = jax.random.fold_in(key, byte)
    return key


def fit_from(
    network: Network,
    variables: Any,
    tx: optax.GradientTransformation,
    data: Split,
    budget: Budget,
    *,
    seed: int,
    log: str,
    teacher: Any = None,
) -> tuple[Any, Any]:
    """`fit`, then the accuracy on the validation images, which is what recipes are chosen by."""
    key, start = jax.random.fold_in(jax.random.key(seed), 20), time.perf_counter()
    variables, state = fit(network, variables, tx, data.train, budget, key=key, log=log, teacher=teacher)
    held_out = accuracy_percent(network, variables, data.validation)
    print(f"{log}: validation {held_out:.2f} %, {time.perf_counter() - start:.0f} s", flush=True)
    return variables, state


def trained(network: Network, variables: Any, data: Split, budget: Budget, **told: Any) -> Any:
    return fit_from(network, variables, budget.optimizer(data.train), data, budget, **told)[0]


def flops(network: Network, variables: Any, image: jax.Array) -> int:
    """Of one image, counted from the trace of the function as it is: what was shrunk is counted as shrunk."""
    return jc.groups(network.predict, variables, image).flops()


def parameters(variables: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def zeros(variables: Any) -> float:
    """Fraction of the masked leaves that is dropped."""
    masks = [np.asarray(leaf.mask) for leaf in jax.tree.leaves(variables, is_leaf=jc.is_compressed) if _masked(leaf)]
    return 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.size for mask in masks)


def _masked(leaf: Any) -> bool:
    return isinstance(leaf, jc.prune.Masked)
