"""A search for an MNIST network that beats LeNet-5 with a tenth of its parameters; random search beside it.

    python -m benchmarks.nas_mnist [--quick] [--json PATH]

What is searched: widths, windows and number of layers, kind of pooling, batch normalization or none, learning rate,
weight decay, label smoothing (`benchmarks.mnist_networks.space`), with at most 43,108 parameters, a tenth of LeNet-5's.

Budget, for two CPU cores, in all under 30 minutes:

| part | what |
|---|---|
| search | successive halving: 27, 9, 3 candidates of 1/13, 4/13 and all of 700 steps of 64 images: 7.8 full trainings |
| random search | 8 candidates of the same space and constraint with 700 steps each |
| final training | of both winners: 10 epochs of the 60,000 images moved by up to a pixel, AdamW, one cosine |
| LeNet-5 | the same 10 epochs (kept in the user's cache folder) |

What to know before reading the figures:

- Candidates are trained on 55,000 of the training images and judged on the other 5,000, drawn at random. The test
  images are read once for each network, when all is decided and trained.
- All candidates of a search are one compiled program: the genome is an array. Convolutions are matrix products over
  shifted views, which XLA:CPU trains in a loop 18 times faster than `conv_general_dilated`.
- The final training is that of `benchmarks.baselines`, which trains LeNet-5: what differs is the learning rate, weight
  decay and label smoothing, which were searched with the network.
- Parameters are counted with the scales of batch normalization, although they fold into the kernels. Its statistics are
  taken over training images after the training.
- One run with seed 0: on 10,000 test images two networks with errors of about 0.5 % differ by chance by some 0.1
  points.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxcompress as jc
from benchmarks import mnist, mnist_networks
from benchmarks.baselines import Baseline, train_baseline
from benchmarks.lenets import LeNet5
from benchmarks.mnist import Images
from benchmarks.nas_mnist_training import Recipe, error_of, trained
from benchmarks.results import report, row
from benchmarks.training import error_percent
from jaxcompress.search.population import Training

CHUNK = 500


@dataclasses.dataclass(frozen=True)
class Budget:
    """What is spent.

    Attributes:
        candidates: on the first rung of successive halving.
        eta: one of so many climbs.
        batch: candidates at a time.
        steps: of a full short training, of 64 images.
        held_out: training images that judge candidates.
        epochs: of the final training, and of LeNet-5.
    """

    candidates: int = 27
    eta: int = 3
    batch: int = 3
    steps: int = 700
    held_out: int = 5000
    epochs: int = 10

    @property
    def strategy(self) -> Any:
        """Successive halving."""
        return jc.search.SuccessiveHalving(candidates=self.candidates, eta=self.eta, batch=self.batch)

    @property
    def evaluations(self) -> int:
        """Of successive halving: one round."""
        return sum(sum(bracket.sizes) for bracket in self.strategy.brackets)

    @property
    def full_trainings(self) -> float:
        """What one round costs, in trainings of full length: each rung begins anew."""
        bracket = self.strategy.brackets[0]
        return sum(size * part for size, part in zip(bracket.sizes, self.strategy.fidelities, strict=True))


QUICK = Budget(candidates=4, eta=2, batch=2, steps=30, held_out=500, epochs=1)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.nas_mnist", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="4,000 images and a few steps; keeps no results")
    parser.add_argument("--json", metavar="PATH", help="also write the rows to this file")
    options = parser.parse_args(arguments)
    budget = QUICK if options.quick else Budget()
    rows = rows_of(budget, *(mnist.small() if options.quick else mnist.full()), seed=0)
    report("nas_mnist", rows, json_path=options.json, keep=not options.quick)


def rows_of(budget: Budget, train: Images, test: Images, *, seed: int) -> list[dict[str, Any]]:
    """Searches twice, trains both winners and LeNet-5, and reads the test images."""
    began = time.perf_counter()
    search_key, random_key, final_key = jax.random.split(jax.random.key(seed), 3)
    data = search_data(train, budget.held_out, jax.random.fold_in(final_key, 1))
    halving = search(budget, budget.strategy, search_key, data, budget.evaluations)
    drawn = search(budget, jc.search.RandomSearch(batch=1), random_key, data, round(budget.full_trainings))
    found = {
        "nas mnist": final(budget, halving.config, final_key, train),
        "nas mnist random search": final(budget, drawn.config, final_key, train),
    }
    searched = time.perf_counter() - began
    baseline = Baseline(LeNet5(), epochs=budget.epochs, shift=1)
    lenet = train_baseline(baseline, train, seed=seed)
    print(f"LeNet-5 trained or read, {time.perf_counter() - began:.0f} s in all", flush=True)
    lenet_error = error_percent(baseline.model.apply, lenet, test)
    size = mnist_networks.lenet5_parameters()
    rows = []
    for name, (config, params, moments) in found.items():
        error = error_of(params, config, moments, test)
        count = mnist_networks.own_parameters(config)
        rows += [
            row(f"{name} error", error, "%", f"LeNet-5, {budget.epochs} epochs too", lenet_error),
            row(f"{name} parameter fraction", count / size, "", "a tenth", 0.1),
            row(f"{name} parameters", count, "", "LeNet-5", size),
        ]
    return [*rows, row("nas mnist minutes", searched / 60, "min", "two cores", 30.0)]


def search_data(train: Images, held_out: int, key: jax.Array) -> dict[str, Any]:
    """The search split: what candidates train on, and training images that judge them."""
    count = len(train.labels)
    fit, judge = jc.search.split(train._asdict(), (1 - held_out / count, held_out / count), key)
    return {"train": fit, "valid": judge, "moments": fit["images"][:CHUNK]}


def search(budget: Budget, strategy: Any, key: jax.Array, data: Any, evaluations: int) -> Any:
    """The best candidate of a search."""
    run = jc.search.run(
        mnist_networks.space(),
        evaluation(budget.steps),
        strategy,
        key=key,
        budget=evaluations,
        data=data,
        executor="loop",
        progress=lambda now: print(f"{type(strategy).__name__}: {now}, {now.seconds:.0f} s", flush=True),
    )
    best = run.best()
    print(f"{run}\n{best}", flush=True)
    if isinstance(strategy, jc.search.SuccessiveHalving):
        print(strategy.correlation(run.state), flush=True)
    return best


def evaluation(steps: int) -> Any:
    """Trains a candidate for a part of ``steps``, and judges it on images that it has not seen."""
    training = Training(mnist_networks.init, _loss, _optimizer, steps=steps, batch_size=64)

    def evaluate(genome: Any, key: jax.Array, data: Any, fidelity: Any = None) -> dict[str, jax.Array]:
        fitted = training.fit(genome, key, data["train"], fidelity=fidelity)
        _, moments = mnist_networks.apply(fitted.params, genome, data["moments"])
        images, labels = (data["valid"][name] for name in ("images", "labels"))

        def wrong(part: tuple[jax.Array, jax.Array]) -> jax.Array:
            logits, _ = mnist_networks.apply(fitted.params, genome, part[0], moments)
            return jnp.argmax(logits, -1) != part[1]

        parts = (images.reshape(-1, min(CHUNK, len(images)), 28, 28), labels.reshape(-1, min(CHUNK, len(images))))
        error = 100 * jax.lax.map(wrong, parts).mean(dtype=jnp.float32)
        return {
            "error": jnp.where(fitted.finite, error, jnp.nan),
            "parameters": mnist_networks.parameters(genome),
        }

    return evaluate


def final(budget: Budget, config: Any, key: jax.Array, train: Images) -> tuple[Any, Any, Any]:
    """A winner on its own, trained in full: its config, parameters, and moments of its normalizations."""
    start = time.perf_counter()
    recipe = Recipe(config["learning_rate"], config["weight_decay"], config["label_smoothing"], budget.epochs)
    params, moments = trained(config, recipe, train, key=key)
    print(f"final training of {config}: {time.perf_counter() - start:.0f} s", flush=True)
    return config, params, moments


def _loss(params: Any, batch: Any, candidate: Any, key: jax.Array) -> jax.Array:
    images = mnist.shifted(batch["images"], key, 1)
    logits, _ = mnist_networks.apply(params, candidate, images)
    wanted = optax.smooth_labels(jax.nn.one_hot(batch["labels"], mnist.CLASSES), candidate["label_smoothing"])
    return optax.softmax_cross_entropy(logits, wanted).mean()


def _optimizer(candidate: Any, steps: jax.Array) -> optax.GradientTransformation:
    """AdamW; a short warm-up, then one cosine over however many steps this candidate is given."""

    def rate(count: jax.Array) -> jax.Array:
        part = count / steps
        return candidate["learning_rate"] * jnp.minimum(1.0, 10 * part) * (1 + jnp.cos(jnp.pi * part)) / 2

    return optax.chain(
        optax.scale_by_adam(),
        optax.add_decayed_weights(candidate["weight_decay"], mask=_kernels),
        optax.scale_by_learning_rate(rate),
    )


def _kernels(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.ndim > 1, tree)


if __name__ == "__main__":
    main()
