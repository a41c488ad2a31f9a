"""A search for a network for CIFAR-10 that beats a ResNet of as many multiply-adds; random search beside it.

    python -m benchmarks.nas_cifar [--quick] [--json PATH]

The one to beat is the ResNet of He et al. (2016, section 4.2) with one block a stage, 8 layers, and half of their
width: 3.17 million multiply-adds for an image. What is searched, with at most as many (and at least 80 % of them): at
which sizes of the image there are blocks, how many, how wide, plain or inverted ones (a convolution of each channel
between an expansion by 2 or 4 and a projection), the window of the first convolution, learning rate, weight decay,
label smoothing (`benchmarks.cifar_networks.space`). The ResNet is in the space, and its learning rate, weight decay and
label smoothing are searched too.

Budget, meant for at most 30 minutes on two idle CPU cores for all of it (not measured idle: the kept run took
62 minutes beside other jobs, and 38 minutes of the processor's time):

| part | what |
|---|---|
| images | 20,000 to train on, 5,000 other training images to judge by; the 10,000 test images |
| search | successive halving: 10 candidates of 208 steps of 64 images, 2 of 1,250: as much as 3.7 full trainings |
| random search | beside it: 4 candidates of the same space and constraint with 1,250 steps each |
| recipe of the ResNet | successive halving: 8 recipes of 250 steps, 2 of 1,250 |
| final training | all three networks, 2 seeds: 6 epochs of 128 images, moved and mirrored, AdamW, one cosine |

What to know before reading the figures:

- Everything is chosen on training images. The test images are read once for each network, when all is decided and
  trained. The images are a JPEG copy of CIFAR-10, and a part of it: errors compare only with one another.
- Six epochs of 20,000 images are few, so networks that learn fast have an advantage, in the search and in the end.
- Each candidate is compiled in its own shapes, two side by side (`jaxcompress.search.python` with ``workers=2``), other
  than in `benchmarks.nas_mnist`. In one masked program for all candidates (built for comparison, not kept) a step took
  0.14 to 0.21 s of the processor's time, on its own 0.04 to 0.10 s and 15 s to compile: by that the 16 trainings of
  both searches, some 9,600 steps, are half an hour of one core against a quarter of an hour.
- Multiply-adds are those of convolutions and of the last layer. The scales and offsets of batch normalization are
  counted as parameters. Its statistics are taken over training images after the training.
- The network that was found begins with a stride of 2, and has twice the parameters of the ResNet.
- One search of either kind; errors are means of two final trainings.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

import jaxcompress as jc
from benchmarks import cifar, cifar_networks
from benchmarks.cifar import Pictures, Split
from benchmarks.nas_searching import own_evaluation, search
from benchmarks.nas_training import CHUNK, Networks, error_of, final
from benchmarks.results import report, row

NETWORKS = Networks(cifar_networks.init, cifar_networks.apply, cifar.prepared)
MULTIPLY_ADDS = 3_170_624  # of the ResNet
LEAST = 0.8
WORKERS = 2


@dataclasses.dataclass(frozen=True)
class Budget:
    """What is spent.

    Attributes:
        candidates: on the first rung of successive halving.
        recipes: the same, for the ResNet.
        drawn: candidates of random search; 0 for none.
        eta: one of so many climbs.
        steps: of a full short training, of 64 images.
        epochs: of the final training.
        seeds: of the final training.
    """

    candidates: int = 10
    recipes: int = 8
    drawn: int = 4
    eta: int = 4
    steps: int = 1250
    epochs: int = 6
    seeds: tuple[int, ...] = (0, 1)

    def halving(self, candidates: int) -> tuple[Any, int]:
        """Successive halving, and how many evaluations one round takes: a question is a whole rung."""
        strategy = jc.search.SuccessiveHalving(candidates=candidates, eta=self.eta, batch=candidates)
        return strategy, candidates * len(strategy.brackets[0].sizes)


QUICK = Budget(candidates=2, recipes=2, drawn=0, eta=2, steps=4, epochs=1, seeds=(0,))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.nas_cifar", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few steps, no random search; keeps no results")
    parser.add_argument("--json", metavar="PATH", help="also write the rows to this file")
    options = parser.parse_args(arguments)
    if options.quick:
        jax.config.update("jax_disable_most_optimizations", True)  # a few steps: nearly all of it is compilation
    budget, split = (QUICK, cifar.small(training=500, held_out=500)) if options.quick else (Budget(), cifar.subset())
    report("nas_cifar", rows_of(budget, split), json_path=options.json, keep=not options.quick)


def rows_of(budget: Budget, split: Split) -> list[dict[str, Any]]:
    """Searches, trains what was found and the ResNet for every seed, and reads the test images."""
    began, processor = time.perf_counter(), time.process_time()
    train, held_out, test = (Pictures(*map(jnp.asarray, part)) for part in split)
    data = {"train": train._asdict(), "valid": held_out._asdict(), "moments": train.images[:CHUNK]}
    found, minutes = {}, {}
    ways = {"nas cifar": searched, "nas cifar random search": drawn, "resnet8": tuned}
    for name, choose in ways.items():
        if choose is drawn and not budget.drawn:
            continue
        start = time.perf_counter()
        config = choose(budget, data)
        networks = final(NETWORKS, config, budget.epochs, train, budget.seeds, workers=WORKERS)
        found[name], minutes[name] = (config, networks), (time.perf_counter() - start) / 60
    errors = {
        name: [error_of(NETWORKS, params, config, moments, test) for params, moments in networks]
        for name, (config, networks) in found.items()
    }
    print("\n".join(f"{name}: {wrong} % wrong" for name, wrong in errors.items()), flush=True)
    resnet, peer = errors.pop("resnet8"), "ResNet-8, width 8"
    rows = []
    for name, wrong in errors.items():
        config = found[name][0]
        counts = multiply_adds(config), cifar_networks.parameters(config)
        rows += [
            row(f"{name} error", statistics.mean(wrong), "%", peer, statistics.mean(resnet)),
            row(f"{name} error (worst seed)", max(wrong), "%", peer, max(resnet)),
            row(f"{name} flops", 2 * counts[0], "", peer, 2 * MULTIPLY_ADDS),
            row(f"{name} parameters", counts[1], "", peer, cifar_networks.parameters(cifar_networks.RESNET8)),
            row(f"{name} minutes", minutes[name], "min", "two idle cores", 30.0),
        ]
    spent, cores = (time.perf_counter() - began) / 60, (time.process_time() - processor) / 60
    return [
        *rows,
        row("nas cifar minutes in all", spent, "min", "two idle cores", 30.0),
        row("nas cifar processor minutes in all", cores, "min", "two idle cores", 60.0),
    ]


def searched(budget: Budget, data: Any) -> Any:
    """What successive halving finds."""
    strategy, evaluations = budget.halving(budget.candidates)
    return search(
        space(), own_evaluation(NETWORKS, budget.steps, workers=WORKERS), strategy, _key(0), data, evaluations
    ).config


def drawn(budget: Budget, data: Any) -> Any:
    """What random search finds with as many steps."""
    strategy = jc.search.RandomSearch(batch=budget.drawn)
    return search(
        space(), own_evaluation(NETWORKS, budget.steps, workers=WORKERS), strategy, _key(1), data, budget.drawn
    ).config


def tuned(budget: Budget, data: Any) -> Any:
    """The ResNet, with the best recipe that successive halving finds for it."""
    strategy, evaluations = budget.halving(budget.recipes)
    evaluate = own_evaluation(NETWORKS, budget.steps, workers=WORKERS, beside=cifar_networks.RESNET8)
    recipes = jc.search.Space(cifar_networks.recipes())
    return cifar_networks.RESNET8 | search(recipes, evaluate, strategy, _key(2), data, evaluations).config


def space() -> Any:
    """Networks of as many multiply-adds as the ResNet has, or up to a fifth less."""
    return cifar_networks.space(MULTIPLY_ADDS, LEAST * MULTIPLY_ADDS)


def multiply_adds(config: Any) -> int:
    """Of a config."""
    whole = space()
    return round(float(cifar_networks.multiply_adds(whole.decode(whole.encode(config)))))


def _key(number: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(0), number)


if __name__ == "__main__":
    main()
