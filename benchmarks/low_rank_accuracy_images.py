"""The image half of `benchmarks.low_rank_accuracy`: size, speed and error of factorized networks.

Each method gets the same part of the entries of each kernel that it factorizes: all convolutions but the first, and
LeNet-5's large dense layer (that one always by SVD, so that methods differ in how they treat convolutions alone).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxcompress as jc
from benchmarks import cifar, mnist
from benchmarks.baselines import Baseline, cache_folder, stored, train_baseline
from benchmarks.batchnorm_training import Budget, Network, accuracy_percent, fit
from benchmarks.batchnorm_training import dense as trained_dense
from benchmarks.lenets import LeNet5Convolutions
from benchmarks.pruning_accuracy import RESNET
from benchmarks.pruning_lenets import LENET5, LENET300
from benchmarks.results import interleaved_ms, row
from benchmarks.training import decayed, error_percent, steps_per_epoch
from benchmarks.training import fit as fit_scanned

Rows = list[dict[str, Any]]
BATCHES = (1, 32)
HALF_POINT = 0.5
TT_LAYER: Mapping[str, Any] = {"rank": 6, "digits": ((4, 7, 4, 7), (5, 5, 4, 3))}


@dataclasses.dataclass(frozen=True)
class Data:
    """Images to train on and to test with; each has ``images`` and ``labels``."""

    train: Any
    test: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A trained network, and how it is tuned once it is factorized.

    Attributes:
        name: first word of the metrics.
        network: its functions.
        variables: the dense ones.
        data: what it is tuned and tested on.
        tune: budget of the tuning.
        optimizer: makes the optimizer of a budget.
        kernels: paths of the kernels that are factorized: convolutions, and what else is large.
    """

    name: str
    network: Network
    variables: Any
    data: Data
    tune: Budget
    optimizer: Callable[[Budget, Any], optax.GradientTransformation]
    kernels: Sequence[str]

    @functools.cached_property
    def dense_error(self) -> float:
        return 100 - accuracy_percent(self.network, self.variables, self.data.test)

    @functools.cached_property
    def sites(self) -> Any:
        return jc.sites(self.network.predict, self.variables, self.images(1))

    def images(self, count: int) -> jax.Array:
        return self.network.prepare(jnp.asarray(self.data.test.images[:count]), None)

    def shape(self, path: str) -> tuple[int, ...]:
        return functools.reduce(lambda tree, name: tree[name], path.split("/"), self.variables).shape


def lenet5(data: Data, *, epochs: int = 2, baseline: Baseline = LENET5.baseline) -> Subject:
    variables = train_baseline(baseline, data.train, seed=0)
    model = LeNet5Convolutions()
    network = Network(model.apply, lambda variables, images: (model.apply(variables, images), {}), _moved)
    budget = Budget(epochs, learning_rate=1e-3, batch_size=128)
    return Subject("lenet5", network, variables, data, budget, _adamw, ("params/conv2/kernel", "params/fc1/kernel"))


def resnet20(data: cifar.Split, model: nn.Module, budget: Budget, *, epochs: int = 4) -> Subject:
    variables = trained_dense(model, data.train, budget, seed=0, log="resnet20 dense")
    kernels = [f"params/Block_{block}/Conv_{conv}/kernel" for block in range(9) for conv in range(2)]
    tune = dataclasses.replace(budget, epochs=epochs, learning_rate=0.02)
    return Subject(
        "resnet20", Network.of(model), variables, Data(data.train, data.test), tune, Budget.optimizer, kernels
    )


def _moved(images: jax.Array, key: jax.Array | None) -> jax.Array:
    return images if key is None else mnist.shifted(images, key, 1)


def _adamw(budget: Budget, data: Any) -> optax.GradientTransformation:
    return optax.adamw(budget.rate(data), weight_decay=LENET5.baseline.weight_decay, mask=decayed)


Setting = int | tuple[int, ...]
Sized = Callable[[tuple[int, ...], float], tuple[Setting, int]]  # (shape, 0 to 1) -> (setting, entries of the factors)


def _svd_size(shape: tuple[int, ...], at: float) -> tuple[int, int]:
    rows, cols = math.prod(shape[:-1]), shape[-1]
    rank = max(1, round(at * min(rows, cols)))
    return rank, rank * (rows + cols)


def _spatial_size(shape: tuple[int, ...], at: float) -> tuple[int, int]:
    height, width, inputs, outputs = shape
    rank = max(1, round(at * min(height * inputs, width * outputs)))
    return rank, rank * (height * inputs + width * outputs)


def _tucker_size(shape: tuple[int, ...], at: float) -> tuple[tuple[int, int], int]:
    *window, inputs, outputs = shape
    first, last = (max(1, round(at * size)) for size in (inputs, outputs))
    return (first, last), inputs * first + math.prod(window) * first * last + last * outputs


def _cp_size(shape: tuple[int, ...], at: float) -> tuple[int, int]:
    *window, inputs, outputs = shape
    rank = max(1, round(at * math.prod(shape) / max(shape)))
    return rank, rank * (math.prod(window) + inputs + outputs)


def _tt_size(shape: tuple[int, ...], at: float) -> tuple[int, int]:
    """Of a chain from the input features over height and width to the output features at one rank."""
    height, width, inputs, outputs = shape
    rank = max(1, round(at * math.prod(shape) / max(shape)))
    bonds = (1, min(rank, inputs), min(rank, inputs * height, width * outputs), min(rank, outputs), 1)
    return rank, sum(
        a * size * b for a, size, b in zip(bonds[:-1], (inputs, height, width, outputs), bonds[1:], strict=True)
    )


def settings(subject: Subject, size_of: Sized, part: float, *, windows: bool) -> dict[str, Setting]:
    """For each kernel with (or without) a window the largest setting whose factors hold ``part`` of its entries."""
    found = {}
    for path in subject.kernels:
        shape = subject.shape(path)
        if (len(shape) > 2) == windows:
            allowed = (size_of(shape, at) for at in np.linspace(1, 0, 400))
            found[path] = next(setting for setting, size in allowed if size <= part * math.prod(shape))
    return found


def _in_two(subject: Subject, part: float, of_windows: Callable[..., Any], size_of: Sized) -> Any:
    """Convolutions by one method; what has no window by SVD."""
    small = of_windows(subject.variables, rank=settings(subject, size_of, part, windows=True), sites=subject.sites)
    others = settings(subject, _svd_size, part, windows=False)
    return jc.factorize.svd(small, rank=others, sites=subject.sites) if others else small


METHODS: Mapping[str, Callable[[Subject, float], Any]] = {
    "svd": lambda subject, part: _in_two(subject, part, jc.factorize.svd, _svd_size),
    "spatial svd": lambda subject, part: _in_two(subject, part, jc.factorize.spatial_svd, _spatial_size),
    "tucker-2": lambda subject, part: _in_two(subject, part, jc.factorize.tucker, _tucker_size),
    "cp": lambda subject, part: _in_two(subject, part, functools.partial(jc.factorize.cp, stable=True), _cp_size),
    "tt": lambda subject, part: _in_two(subject, part, jc.factorize.tt, _tt_size),
}


def images_rows(subject: Subject, parts: Sequence[float], *, names: Sequence[str] = (), seed: int = 0) -> Rows:
    """Every method at every part of the entries, and the dense network tuned as long."""
    longer = tuned(subject, subject.variables, seed=seed, log=f"{subject.name} dense")
    error = 100 - accuracy_percent(subject.network, longer, subject.data.test)
    rows = [row(f"{subject.name} dense trained on, error", error, "%", "dense", subject.dense_error)]
    for part in parts:
        for method in names or METHODS:
            rows += method_rows(subject, method, METHODS[method](subject, part), part, seed=seed)
    return rows


def method_rows(subject: Subject, method: str, small: Any, part: float, *, seed: int) -> Rows:
    """Size, FLOPs, time, and the error before and after tuning of one factorized network."""
    name = f"{subject.name} {method} {1 / part:g}x"
    began = time.perf_counter()
    apart = _lifted(subject.network)
    before = 100 - accuracy_percent(apart, small, subject.data.test)
    after = tuned(subject, small, seed=seed, log=name)
    error = 100 - accuracy_percent(apart, after, subject.data.test)
    rows = [
        row(f"{name} error before tuning", before, "%", "dense", subject.dense_error),
        row(f"{name} error", error, "%", "dense", subject.dense_error),
        row(f"{name} parameters", entries(subject.variables) / entries(small), "x fewer", "dense", 1.0),
        row(f"{name} FLOPs", flops(subject, subject.variables) / flops(subject, small), "x fewer", "dense", 1.0),
    ]
    for batch in BATCHES:
        ours, dense = times_ms(subject, small, batch)
        rows.append(row(f"{name} time batch {batch}", ours, "ms", "dense", dense))
    print(f"{name}: {before:.2f} -> {error:.2f} %, {time.perf_counter() - began:.0f} s", flush=True)
    return rows


def best_speedup(rows: Rows) -> dict[str, Any]:
    """The most that a network gained in time while it lost at most half a point, over methods, sizes and batches."""
    errors = {line["metric"].removesuffix(" error"): line for line in rows if line["metric"].endswith("x error")}
    near = {name for name, line in errors.items() if line["value"] - line["peer_value"] <= HALF_POINT}
    gains = [
        (line["peer_value"] / line["value"], line["metric"])
        for line in rows
        if " time batch " in line["metric"] and line["metric"].split(" time batch ")[0] in near
    ]
    gain, metric = max(gains, default=(0.0, "none"))
    print(f"best: {metric}")
    return row("best speedup within half point", gain, "x faster", "target", 2.0)


def tuned(subject: Subject, variables: Any, *, seed: int, log: str) -> Any:
    """Trained on, through the dense kernels that the factors stand for: the same function, with faster gradients.

    What the same start and budget gave before comes from the cache folder.
    """
    arrays, structure = jax.tree.flatten(variables)
    told = hashlib.sha256(
        f"{subject.name} {subject.tune} {subject.data.train.images.shape} {seed} {structure}".encode()
    )
    for array in arrays:
        told.update(np.asarray(array).tobytes())

    def make() -> dict[str, Any]:
        network = _materialized(subject.network)
        tx = subject.optimizer(subject.tune, subject.data.train)
        key = jax.random.key(seed + 11)
        after = fit(network, variables, tx, subject.data.train, subject.tune, key=key, log=log)[0]
        return {f"{i:03}": array for i, array in enumerate(jax.tree.leaves(after))}

    kept = stored(cache_folder() / f"tuned-{subject.name}-{told.hexdigest()[:16]}.npz", make)
    return jax.tree.unflatten(structure, [kept[name] for name in sorted(kept)])


def _materialized(network: Network) -> Network:
    return dataclasses.replace(
        network,
        predict=lambda variables, images: network.predict(jc.materialize(variables), images),
        train=lambda variables, images: network.train(jc.materialize(variables), images),
    )


def _lifted(network: Network) -> Network:
    return dataclasses.replace(network, predict=jc.lift(network.predict))


def entries(variables: Any) -> int:
    """Numbers that the parameters hold, those of the factors where there are factors."""
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def flops(subject: Subject, variables: Any) -> int:
    """Of one image, counted from the trace of the lifted function."""
    arrays, structure = jax.tree.flatten(variables)
    predict = jc.lift(subject.network.predict)
    fn = lambda arrays, images: predict(jax.tree.unflatten(structure, arrays), images)  # noqa: E731
    return jc.groups(fn, arrays, subject.images(1)).flops()


def times_ms(subject: Subject, small: Any, batch: int) -> tuple[float, float]:
    """Milliseconds of the factorized and of the dense network, in turn."""
    images = subject.images(batch)
    predict, lifted = jax.jit(subject.network.predict), jax.jit(jc.lift(subject.network.predict))
    found = interleaved_ms(
        {
            "small": lambda: lifted(small, images).block_until_ready(),
            "dense": lambda: predict(subject.variables, images).block_until_ready(),
        },
        rounds=101,
    )
    return found["small"], found["dense"]


def tt_rows(train: mnist.Images, test: mnist.Images, *, epochs: int, seed: int = 0) -> Rows:
    """LeNet-300-100 whose first layer is a tensor train from the first step on (Novikov et al. 2015)."""
    baseline = dataclasses.replace(LENET300.baseline, epochs=epochs)
    apply = baseline.model.apply
    dense = train_baseline(baseline, train, seed=seed)
    keys = jax.random.split(jax.random.key(seed + 5), 2)
    first = jc.factorize.TensorTrain.init(keys[0], (784, 300), **TT_LAYER)
    variables = baseline.model.init(keys[1], train.images[:1])
    variables["params"]["fc1"]["kernel"] = first
    rate = optax.cosine_decay_schedule(3e-3, epochs * steps_per_epoch(train, baseline.batch_size))
    tx = optax.adamw(rate, weight_decay=1e-4, mask=decayed)
    options = {"epochs": epochs, "batch_size": baseline.batch_size, "shift": baseline.shift}
    trained = fit_scanned(apply, variables, tx, train, key=keys[0], **options)[0]
    held = sum(core.size for core in jax.tree.leaves(first))
    return [
        row("lenet300 tt first layer", 784 * 300 / held, "x fewer", "target", 100.0),
        row("lenet300 tt error", error_percent(apply, trained, test), "%", "dense", error_percent(apply, dense, test)),
    ]


def rows(*, quick: bool) -> Rows:
    """All of the image half; the quick form is the same code on little data, and its figures mean nothing."""
    if quick:
        digits = Data(*(mnist.Images(part.images[:1000], part.labels[:1000]) for part in mnist.small()))
        tiny = lenet5(digits, epochs=1, baseline=dataclasses.replace(LENET5.baseline, epochs=1))
        found = images_rows(tiny, [1 / 4], names=("svd", "tucker-2"))
        return [*found, best_speedup(found)]
    train, test = mnist.full()
    pictures = cifar.subset()
    found = images_rows(lenet5(Data(train, test)), [1 / 4, 1 / 8])
    found += images_rows(resnet20(pictures, RESNET.model, RESNET.budget), [1 / 2])
    return [*found, best_speedup(found), *tt_rows(train, test, epochs=20)]
