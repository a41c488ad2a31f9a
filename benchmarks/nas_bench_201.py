"""Regret of the default search strategy on NAS-Bench-201: all three data sets, 500 seeds, one program for each.

    python -m benchmarks.nas_bench_201 [--quick] [--json PATH] [--only PART ...]

Parts: ``c10``, ``c100``, ``in16``. A query trains one network: it is answered with the validation accuracy of one of
the 2 or 3 trainings in the table, drawn at random. The regret after n queries is how far the *mean* accuracy of the
network with the best answer among the first n lies below the best mean accuracy there is (percentage points, mean over
seeds). Every candidate a strategy asks for counts as a query.

The peer of ``regret ... 200`` is the regret of regularized evolution with a population of 20 and samples
of 5, one child at a time, which asks for some cells twice (ANCHORS section 5); that strategy run here stands beside it.
So do random search, and no search at all: the networks in the order of their parameter count, the largest first
(equals by chance). That the last is so good is a property of this space, whose best cells are among the largest.

``--quick``: 50 seeds; keeps no results. Needs ``nb201.npz`` of the data folder (`JAXCOMPRESS_DATA`).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.parts import run_parts
from benchmarks.results import row
from jaxcompress.search import AgingEvolution, RandomSearch, Strategy, default_strategy, scan
from jaxcompress.search.spaces import NasBench201

_DEFAULT = Path(__file__).resolve().parents[2] / "shared" / "data"
SETS = {"c10": "cifar10", "c100": "cifar100", "in16": "imagenet"}
SEEDS, QUICK_SEEDS = 500, 50
QUERIES = 200
PEER = "regularized evolution P20 S5"
PEERS = {"c10": 0.099, "c100": 0.332, "in16": 0.515}
PEER_RANDOM = {"c10": 0.471, "c100": 1.777, "in16": 1.216}
PEER_STRATEGY = AgingEvolution(population=20, sample=5, memory=1, attempts=0)


class Table(NamedTuple):
    """What is known of all networks of one data set.

    Attributes:
        accuracy: ``[networks, 3]``, percent, one for each training; the last is 0 where there were two.
        trainings: int32 ``[networks]``.
        mean: ``[networks]``.
        parameters: int32 ``[networks]``.
    """

    accuracy: jax.Array
    trainings: jax.Array
    mean: jax.Array
    parameters: jax.Array


def table(part: str) -> Table:
    """One data set of ``nb201.npz``, in the order of ``NasBench201().space().enumerate()``."""
    path = Path(os.environ.get("JAXCOMPRESS_DATA", _DEFAULT)) / "nb201.npz"
    if not path.is_file():
        raise SystemExit(f"{path} does not exist: set JAXCOMPRESS_DATA to a folder that holds it")
    with np.load(path) as arrays:
        accuracy = arrays[f"{SETS[part]}_val"]
    known = np.isfinite(accuracy)
    assert known[:, :2].all()
    benchmark = NasBench201()
    space = benchmark.space()
    cells = space.decode(space.enumerate())
    return Table(
        jnp.asarray(np.nan_to_num(accuracy)),
        jnp.asarray(known.sum(1), jnp.int32),
        jnp.asarray(np.nanmean(accuracy, 1)),
        jax.vmap(benchmark.costs)(cells).parameters,
    )


def answered(genome: Any, key: jax.Array, known: Table) -> dict[str, jax.Array]:
    """The error of one training, and which network it was."""
    network = NasBench201().row(genome)
    training = jax.random.randint(key, (), 0, known.trainings[network], jnp.int32)
    return {"error": 100 - known.accuracy[network, training], "network": network}


def searched(strategy: Strategy, key: jax.Array, known: Table) -> jax.Array:
    """Regret after each of the queries, ``[QUERIES]``."""
    generations = -(-QUERIES // strategy.batch)
    _, history = scan(NasBench201().space(), answered, strategy, key, generations=generations, data=known)
    error, network = (history.metrics[name].reshape(-1)[:QUERIES] for name in ("error", "network"))
    return regrets(error, known.mean[network], known)


def by_parameters(key: jax.Array, known: Table) -> jax.Array:
    """Regret after each of the queries where the largest networks are asked for first, equals by chance."""
    of_ties, of_answers = jax.random.split(key)
    ties = jax.random.uniform(of_ties, known.parameters.shape)
    networks = jnp.lexsort((ties, -known.parameters))[:QUERIES]
    training = jax.random.randint(of_answers, (QUERIES,), 0, known.trainings[networks], jnp.int32)
    return regrets(100 - known.accuracy[networks, training], known.mean[networks], known)


def regrets(error: jax.Array, mean: jax.Array, known: Table) -> jax.Array:
    """Of the one with the least error so far (the first of equals): how far its mean accuracy is from the best."""

    def better(old: tuple[jax.Array, jax.Array], new: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        wins = new[0] < old[0]
        return jnp.where(wins, new[0], old[0]), jnp.where(wins, new[1], old[1])

    return known.mean.max() - jax.lax.associative_scan(better, (error, mean))[1]


def over_seeds(search: Callable[[jax.Array, Table], jax.Array], known: Table, seeds: int) -> np.ndarray:
    """Regrets ``[seeds, QUERIES]`` of one program."""
    keys = jax.random.split(jax.random.key(0), seeds)
    return np.asarray(jax.jit(jax.vmap(search, in_axes=(0, None)))(keys, known))


def mean_regret(regret: np.ndarray, queries: int) -> float:
    """Over the seeds, after so many queries."""
    return float(regret[:, queries - 1].mean())


def standard_error(regret: np.ndarray, queries: int) -> float:
    """Of the mean regret over the seeds."""
    return float(regret[:, queries - 1].std(ddof=1) / len(regret) ** 0.5)


def rows_of(part: str, *, quick: bool) -> list[dict[str, Any]]:
    """The rows of one data set."""
    known, seeds = table(part), QUICK_SEEDS if quick else SEEDS
    ours = over_seeds(functools.partial(searched, default_strategy()), known, seeds)
    random = over_seeds(functools.partial(searched, RandomSearch(batch=10)), known, seeds)
    parameters = over_seeds(by_parameters, known, seeds)
    peers = over_seeds(functools.partial(searched, PEER_STRATEGY), known, seeds)
    compared = [
        ("regret", ours, QUERIES, PEER, PEERS[part]),
        ("regret", ours, 50, "random search, here", mean_regret(random, 50)),
        ("random regret", random, QUERIES, "random search of the peers", PEER_RANDOM[part]),
        ("regularized evolution regret", peers, QUERIES, PEER, PEERS[part]),
        ("parameter count regret", parameters, QUERIES, "default strategy, here", mean_regret(ours, QUERIES)),
        ("parameter count regret", parameters, 50, "default strategy, here", mean_regret(ours, 50)),
    ]
    return [
        row(f"{name} {part} {queries}", mean_regret(regret, queries), "points", peer, value)
        | {"standard_error": standard_error(regret, queries), "seeds": seeds}
        for name, regret, queries, peer, value in compared
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parts = {part: functools.partial(rows_of, part) for part in SETS}
    run_parts("nas_bench_201", __doc__, parts, quick=list(SETS), arguments=arguments)


if __name__ == "__main__":
    main()
