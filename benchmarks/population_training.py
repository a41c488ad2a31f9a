"""Candidates trained per second by one program, against one at a time with a compilation for each.

    python -m benchmarks.population_training [--quick] [--only PART ...] [--json PATH]

Candidates are small networks for the digits of scikit-learn (1,297 images to learn from, 500 held out), sampled from a
space: perceptrons of 1 to 3 layers of 4 to 32 units (200 AdamW steps of 32 images), convolutional ones of 1 to 3 layers
of 4 to 12 channels and 1 x 1 or 3 x 3 windows (100 steps); each with a learning rate, weight decay, label smoothing and
order of the data of its own. Ours is `jaxcompress.search.population`: padded and masked, one compiled program; its time
includes the compilation. One at a time is what a loop over trials does: the network of the candidate's own shapes, its
hyperparameters as constants, a jitted step that is compiled, called for every batch, and forgotten. It is timed on some
of the same candidates, from the same initial weights in the same order, so that errors can be compared one by one.

``population training speedup`` is the smaller of the two ratios of candidates per second (wall time of everything). The
processor's time beside it is not disturbed by what else the machine does. The part ``device`` runs where a GPU or TPU
is: candidates per second against their number, 1 to 4,096, side by side (``vmap``).

Full run (1,024 perceptrons, 4,096 convolutional networks, 12 of each alone): about 3 minutes on two idle cores; quick
(256, 512, 4): under one. The speedup grows with the number of candidates that share the compilation: it was 49 with
2,048 convolutional networks. What one alone takes varies: medians of 0.53 to 0.84 s were seen, idle machine, so the
same run of ours is 55 to 86. Many of these, of one layer or with a small learning rate, learn little in 100 steps; the
errors of both sides stand beside the speed.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import digits
from benchmarks.parts import Rows, run_parts
from benchmarks.results import row
from jaxcompress import search
from jaxcompress.search import population
from jaxcompress.search.minibatches import minibatch_rows, take_rows

ALONE = "one at a time, recompiled"


@dataclasses.dataclass(frozen=True)
class Problem:
    """A masked network, the space of its candidates, and how they are trained."""

    network: Any
    space: search.Space
    training: population.Training
    flat: bool

    def data(self) -> dict[str, Any]:
        """Train and valid, as arrays of the network's input shape."""
        split = digits.load()
        shape = (-1, 64) if self.flat else (-1, 8, 8, 1)
        parts = {"train": (split.train_images, split.train_labels), "valid": (split.test_images, split.test_labels)}
        return {
            name: {"x": jnp.asarray(x, jnp.float32).reshape(shape), "y": jnp.asarray(y, jnp.int32)}
            for name, (x, y) in parts.items()
        }

    def candidates(self, n: int) -> tuple[Any, jax.Array]:
        """The first ``n`` of an endless row of candidates, and their keys."""
        genes = self.space.sample(jax.random.key(0), 4096)
        keys = jax.random.split(jax.random.key(1), 4096)
        return jax.tree.map(lambda x: x[:n], self.space.decode(genes)), keys[:n]

    def error(self, params: Any, candidate: Any, data: Any) -> dict[str, jax.Array]:
        """Part of the held-out images that are taken for another digit."""
        logits = self.network.apply(params, candidate["layers"], data["x"])
        return {"error": (logits.argmax(-1) != data["y"]).mean(dtype=jnp.float32)}


def smoothed(logits: jax.Array, labels: jax.Array, smoothing: Any) -> jax.Array:
    """Cross-entropy with label smoothing."""
    targets = jax.nn.one_hot(labels, 10) * (1.0 - smoothing) + smoothing / 10.0
    return optax.softmax_cross_entropy(logits, targets).mean()


def init(network: Any, candidate: Any, key: jax.Array) -> Any:
    return network.init(candidate["layers"], key)


def loss(network: Any, params: Any, batch: Any, candidate: Any, key: jax.Array) -> jax.Array:
    del key
    return smoothed(network.apply(params, candidate["layers"], batch["x"]), batch["y"], candidate["smoothing"])


def problem(network: Any, layer: dict[str, Any], *, steps: int, flat: bool) -> Problem:
    """Any masked network on the digits."""
    space = search.Space(
        {
            "layers": search.Repeated(layer, times=search.IntRange(1, 3)),
            "rate": search.LogFloat(1e-3, 3e-2),
            "decay": search.LogFloat(1e-6, 1e-2),
            "smoothing": search.Float(0.0, 0.2),
        }
    )
    optimizer = population.from_candidate(optax.adamw, learning_rate="rate", weight_decay="decay")
    training = population.Training(
        init=partial(init, network), loss=partial(loss, network), optimizer=optimizer, steps=steps, batch_size=32
    )
    return Problem(network, space, training, flat)


def mlps() -> Problem:
    network = population.MaskedMLP(inputs=64, outputs=10, width=32, depth=3)
    return problem(network, {"width": search.Choice((4, 8, 16, 32))}, steps=200, flat=True)


def cnns() -> Problem:
    network = population.MaskedCNN(image=(8, 8, 1), outputs=10, width=12, depth=3, kernel=3, pools=(0, 1))
    layer = {"width": search.Choice((4, 8, 12)), "kernel": search.Choice((1, 3))}
    return problem(network, layer, steps=100, flat=False)


def timed(run: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds, seconds of the processor in all threads, and the results."""
    wall, processor = time.perf_counter(), time.process_time()
    results = jax.block_until_ready(run())
    return time.perf_counter() - wall, time.process_time() - processor, results


def alone(task: Problem, candidate: Any, key: jax.Array, start: Any, data: Any) -> tuple[float, float, float]:
    """Seconds, the processor's seconds and the error of one candidate that is compiled for, trained and measured alone.

    ``start`` is its initial weights, padded; cutting them, and the order of the data, is not timed.
    """
    candidate = jax.tree.map(np.asarray, candidate)
    params = jax.tree.map(np.asarray, task.network.extract(start, candidate["layers"]))
    rows, size, steps = len(data["train"]["y"]), task.training.batch_size, task.training.steps
    order = np.asarray(minibatch_rows(jax.random.split(key, 3)[1], rows, batch_size=size, steps=steps))
    rate, decay, smoothing = (float(candidate[name]) for name in ("rate", "decay", "smoothing"))

    def run() -> jax.Array:
        optimizer = optax.adamw(rate, weight_decay=decay)

        @jax.jit
        def step(params: Any, state: Any, rows: jax.Array) -> tuple[Any, Any]:
            batch = take_rows(data["train"], rows)
            grads = jax.grad(lambda p: smoothed(task.network.dense(p, batch["x"]), batch["y"], smoothing))(params)
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        @jax.jit
        def error(params: Any) -> jax.Array:
            return (task.network.dense(params, data["valid"]["x"]).argmax(-1) != data["valid"]["y"]).mean()

        now, state = params, jax.jit(optimizer.init)(params)
        for rows in order:
            now, state = step(now, state, rows)
        return error(now)

    seconds, processor, found = timed(run)
    return seconds, processor, float(found)


def contest(name: str, task: Problem, *, n: int, peers: int) -> Rows:
    """A population of ``n`` against ``peers`` of its candidates one at a time."""
    data = task.data()
    candidates, keys = task.candidates(n)
    evaluation = population.Evaluation(task.training, task.error)
    many = search.population_evaluator(evaluation, "sharded" if jax.device_count() > 1 else "map")
    cold, processor, metrics = timed(lambda: many(candidates, keys, data))
    warm, _, _ = timed(lambda: many(candidates, keys, data))
    begin = jax.jit(jax.vmap(lambda candidate, key: task.training.init(candidate, jax.random.split(key, 3)[0])))
    first = jax.tree.map(lambda x: x[:peers], (candidates, keys))
    starts = begin(*first)
    found = [alone(task, *jax.tree.map(lambda x, i=i: x[i], (*first, starts)), data) for i in range(peers)]
    slow, slow_processor = (statistics.median(times) for times in list(zip(*found, strict=True))[:2])
    errors, theirs = np.asarray(metrics["error"]), [error for _, _, error in found]
    grouped = group(task, candidates, programs=4)
    print(f"{name}: compiled and trained {n} in {cold:.1f} s, again in {warm:.1f} s\n{grouped}", flush=True)
    return [
        row(f"{name} candidates per second", n / cold, "1/s", ALONE, 1 / slow),
        row(f"{name} candidates per second, compiled", n / warm, "1/s", ALONE, 1 / slow),
        row(f"{name} processor time of a candidate", 1e3 * processor / n, "ms", ALONE, 1e3 * slow_processor),
        row(f"{name} mean error", float(errors[:peers].mean()), "fraction", ALONE, statistics.mean(theirs)),
        row(f"{name} best error of all", float(errors.min()), "fraction", "best of those alone", min(theirs)),
        row(f"{name} padding", group(task, candidates, programs=1).waste, "fraction", "in 4 programs", grouped.waste),
    ]


def group(task: Problem, candidates: Any, *, programs: int) -> population.Grouping:
    """How the candidates would fall into programs, and what each would pad side by side.

    One after another, as they are run on a CPU, layers that are not there and the rest of small windows cost nothing:
    then only widths are padded.
    """
    layers = candidates["layers"]

    def padded(shape: tuple[int, ...]) -> float:
        full = {name: jnp.full(shape[1], size) for name, size in zip(("width", "kernel"), shape[::2], strict=False)}
        return float(task.network.padded_to(shape).flops(full))

    shapes, flops = (jax.jit(jax.vmap(f))(layers) for f in (task.network.shape, task.network.flops))
    return population.group_by_shape(shapes, flops, padded, programs=programs)


def training_rows(*, quick: bool) -> Rows:
    """Both kinds of candidates on a CPU, and the figure of this benchmark."""
    rows = contest("mlp", mlps(), n=256 if quick else 1024, peers=4 if quick else 12)
    rows += contest("cnn", cnns(), n=512 if quick else 4096, peers=4 if quick else 12)
    ratios = [line["ratio"] for line in rows if line["metric"].endswith("candidates per second")]
    return [*rows, row("population training speedup", min(ratios), "times", ALONE, 1.0)]


def device_rows(*, quick: bool) -> Rows:
    """Candidates per second against their number, side by side on one device."""
    if jax.default_backend() == "cpu":
        print("device: no GPU or TPU here, left out", flush=True)
        return []
    rows = []
    for name, task in (("mlp", mlps()), ("cnn", cnns())):
        data = task.data()
        many = search.population_evaluator(population.Evaluation(task.training, task.error), "vmap")
        single = 0.0
        for n in (1, 16, 256) if quick else (1, 4, 16, 64, 256, 1024, 4096):
            candidates, keys = task.candidates(n)
            timed(lambda: many(candidates, keys, data))  # noqa: B023 called at once
            seconds, _, _ = timed(lambda: many(candidates, keys, data))  # noqa: B023 called at once
            single = single or n / seconds
            rows.append(row(f"{name} device, {n} candidates", n / seconds, "1/s", "1 candidate", single))
    return rows


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", os.cpu_count())  # a device for every core: `Sharded` gives each a loop
    run_parts("population_training", __doc__, {"cpu": training_rows, "device": device_rows}, quick=["cpu", "device"])
