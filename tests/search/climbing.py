"""A small problem and a small strategy for tests of the call: cheap to compile, sensitive to every bit.

python tests/search/climbing.py FOLDER       searches with a checkpoint there, slowly, until it is killed
python tests/search/climbing.py PORT I N FOLDER    is process I of N that search together, prints what they found
"""

import dataclasses
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.search import Candidates, Choice, Genes, IntRange, LogFloat, Space, run

SPACE = Space({"width": IntRange(1, 8), "rate": LogFloat(1e-3, 1.0), "kind": Choice(("tanh", "sine"))})
DATA = {"x": np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)}
BATCH = 6


class Climbed(NamedTuple):
    """The state of `Climb`; a typed key in it, as strategies of others may have one."""

    key: jax.Array
    genes: Genes
    rank: jax.Array  # violation, then objective, of the best
    asked: jax.Array


@dataclasses.dataclass(frozen=True)
class Climb:
    """Mutants of the best one so far; the first of each batch is the best itself, so that caches have work."""

    batch: int = BATCH
    multi_fidelity: bool = False
    rate: float = 0.3

    def init(self, space: Space, key: jax.Array, *, objectives: int = 1, seeds: Genes | None = None) -> Climbed:
        first, key = jax.random.split(key)
        genes = space.sample(first, 1) if seeds is None else seeds
        return Climbed(key, jax.tree.map(lambda row: row[0], genes), jnp.full((2,), jnp.inf), jnp.int32(0))

    def ask(self, space: Space, state: Climbed) -> tuple[Candidates, Climbed]:
        of_mutants, key = jax.random.split(state.key)
        same = jax.tree.map(lambda row: jnp.broadcast_to(row, (self.batch, *row.shape)), state.genes)
        mutants = space.mutate(of_mutants, same, rate=self.rate)
        first = jnp.arange(self.batch)[:, None] == 0
        genes = jax.tree.map(lambda a, b: jnp.where(first, a, b), same, mutants)
        effort = jnp.float32(0.5 if self.multi_fidelity else 1.0)
        return Candidates(genes, jnp.full(self.batch, effort)), state._replace(key=key, asked=state.asked + 1)

    def tell(self, space: Space, state: Climbed, candidates: Candidates, fitness: Any) -> Climbed:
        best = jnp.lexsort((fitness.objectives[:, 0], fitness.violation))[0]
        rank = jnp.stack([fitness.violation[best], fitness.objectives[best, 0]])
        better = (rank[0] < state.rank[0]) | ((rank[0] == state.rank[0]) & (rank[1] < state.rank[1]))
        mine = jax.tree.map(lambda rows, row: jnp.where(better, rows[best], row), candidates.genes, state.genes)
        return state._replace(genes=mine, rank=jnp.where(better, rank, state.rank))


def evaluate(genome, key, data):
    """The error of a network of one layer after two steps of training, and its width."""
    x, target = data["x"], jnp.sin(data["x"].sum(axis=1))
    of_in, of_out = jax.random.split(key)
    wide = jnp.where(jnp.arange(8) < genome["width"], 1.0, 0.0)
    weights = (jax.random.normal(of_in, (4, 8)), jax.random.normal(of_out, (8,)))

    def loss(weights):
        h = x @ weights[0]
        h = jnp.where(genome["kind"] == 0, jnp.tanh(h), jnp.sin(h)) * wide[None, :]
        return jnp.mean((h @ weights[1] - target) ** 2)

    for _ in range(2):
        slopes = jax.grad(loss)(weights)
        weights = jax.tree.map(lambda w, g: w - genome["rate"] * g, weights, slopes)
    return {"error": loss(weights), "bytes": 4 * 5 * genome["width"]}


def search(budget: Any = 60, **options: Any):
    """A search of ten generations, alike in every process that does it."""
    settings = {"key": jax.random.key(3), "data": DATA, "executor": "map", "progress": False, **options}
    return run(SPACE, evaluate, Climb(), budget=budget, **settings)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        search(10_000 * BATCH, checkpoint=sys.argv[1], progress=lambda _: time.sleep(0.1))
    else:
        port, process, processes, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
        jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=processes, process_id=process)
        found = search(4 * BATCH, executor="auto", checkpoint=folder, checkpoint_every=2)
        columns = found.archive.columns
        print(
            "FOUND", found.executor.name, columns.metrics["error"].tobytes().hex(), columns.genes.codes.tobytes().hex()
        )
