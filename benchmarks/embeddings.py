"""Text classifiers with compressed tables of words: accuracy on SST-2 and TREC at equal bytes.

    python -m benchmarks.embeddings [--quick] [--json PATH] [--only sst2|trec]

The model is the mean and the maximum over the words of a sentence, of vectors of 32 numbers, and one dense layer:
nearly all of its parameters are the table. Words are those of the training sentences, most frequent first; others are
one unknown word. Two ways to a small table:

- *trained*: the small table trains from random numbers, as long as the dense one did;
- *fitted*: the trained dense table is replaced by the method's best approximation, rows weighted by how often they come
  in training (`row_frequencies`), and measured at once; *tuned*: the whole model then trains on for a quarter of the
  epochs.

Every small table takes about a tenth of the dense one (subwords 12 %, product codes 6 %). Bytes are those of a file
with the table alone (`jc.save`), the spelling of the words for subwords included. Two tables without a method are there
to be beaten: `narrow` has shorter vectors, `frequent` vectors for the most frequent words alone, the others being
unknown.

What to know before reading the figures: means over seeds of the initialization (one with --quick). No sentence of the
test sets was used to choose anything, and the settings are the same for all. SST-2 has 1,821 test sentences, TREC 500:
by chance alone an accuracy of 80 % is uncertain by 0.9 and 1.8 points. There are no pretrained vectors, so that words
that never come in training say nothing.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxcompress as jc
from benchmarks.results import report, row
from jaxcompress.cluster import Hashed
from jaxcompress.cluster import embeddings as rows

DIM, RATIO = 32, 10
Rows = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Task:
    """Sentences as rows of word numbers: 0 fills up, 1 is the unknown word, then words from the most frequent on."""

    name: str
    words: tuple[str, ...]
    classes: int
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Budget:
    """Of training."""

    epochs: int = 8
    batch_size: int = 64
    learning_rate: float = 5e-3
    seeds: int = 2


def load(name: str, folder: Path) -> Task:
    """``sst2`` or ``trec`` from the data folder."""
    if not (folder / "realdata.py").is_file():
        raise SystemExit(f"{folder}/realdata.py does not exist: set JAXCOMPRESS_DATA to a folder that holds it")
    spec = importlib.util.spec_from_file_location("realdata", folder / "realdata.py")
    assert spec is not None
    assert spec.loader is not None
    realdata = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(realdata)
    files = {"sst2": ("stsa.binary.train", "stsa.binary.test"), "trec": ("TREC.train.all", "TREC.test.all")}[name]
    (texts, labels), (test_texts, test_labels) = (realdata.sentences(file) for file in files)
    counts = collections.Counter(word for text in texts for word in text.split())
    words = ("<pad>", "<unknown>", *(word for word, _ in counts.most_common()))
    number = {word: i for i, word in enumerate(words)}
    length = 40

    def coded(texts: Sequence[str]) -> np.ndarray:
        out = np.zeros((len(texts), length), np.int32)
        for i, text in enumerate(texts):
            ids = [number.get(word, 1) for word in text.split()][:length]
            out[i, : len(ids)] = ids
        return out

    classes = int(labels.max()) + 1
    return Task(name, words, classes, (coded(texts), labels), (coded(test_texts), test_labels))


def classify(params: Any, ids: jax.Array) -> jax.Array:
    """Logits of sentences."""
    vectors = params["table"][ids]
    there = (ids > 0)[:, :, None]
    mean = jnp.sum(jnp.where(there, vectors, 0), 1) / jnp.maximum(jnp.sum(there, 1), 1).astype(vectors.dtype)
    top = jnp.max(jnp.where(there, vectors, -10), axis=1)
    return jnp.concatenate([mean, top], axis=1) @ params["kernel"] + params["bias"][None]


def frequent_only(params: Any, ids: jax.Array) -> jax.Array:
    """The same with all words beyond the table unknown."""
    return classify(params, jnp.where(ids < params["table"].shape[0], ids, 1))


def train(fn: Callable[..., jax.Array], params: Any, task: Task, budget: Budget, epochs: int, seed: int) -> Any:
    """Cross-entropy, Adam, the learning rate falls to 0 along a cosine."""
    ids, labels = map(jnp.asarray, task.train)
    trainable, frozen = jc.split_trainable(params)
    state = (trainable, optimizer(len(labels), budget, epochs).init(trainable))
    for key in jax.random.split(jax.random.key(seed), epochs):
        state = epoch(state, frozen, key, ids, labels, fn=fn, budget=budget, epochs=epochs)
    return jc.merge(state[0], frozen)


def optimizer(count: int, budget: Budget, epochs: int) -> optax.GradientTransformation:
    """Adam for so many sentences."""
    steps = count // budget.batch_size * epochs
    return optax.adam(optax.cosine_decay_schedule(budget.learning_rate, steps))


@functools.partial(jax.jit, static_argnames=("fn", "budget", "epochs"))
def epoch(
    state: Any,
    frozen: Any,
    key: jax.Array,
    ids: jax.Array,
    labels: jax.Array,
    *,
    fn: Callable[..., jax.Array],
    budget: Budget,
    epochs: int,
) -> Any:
    """One pass over the training sentences: ``(trainable, opt_state)`` after it."""
    tx, lifted = optimizer(len(labels), budget, epochs), jc.lift(fn)

    def loss(trainable: Any, ids: jax.Array, labels: jax.Array) -> jax.Array:
        logits = lifted(jc.merge(trainable, frozen), ids)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def step(state: Any, chosen: jax.Array) -> tuple[Any, None]:
        trainable, opt_state = state
        updates, opt_state = tx.update(jax.grad(loss)(trainable, ids[chosen], labels[chosen]), opt_state, trainable)
        return (optax.apply_updates(trainable, updates), opt_state), None

    steps = len(labels) // budget.batch_size
    order = jax.random.permutation(key, len(labels))[: steps * budget.batch_size]
    return jax.lax.scan(step, state, order.reshape(steps, budget.batch_size))[0]


def accuracy(fn: Callable[..., jax.Array], params: Any, task: Task) -> float:
    """In percent of the test sentences."""
    ids, labels = task.test
    guessed = jax.jit(jc.lift(fn))(params, jnp.asarray(ids)).argmax(1)
    return 100 * float((np.asarray(guessed) == labels).mean())


def start(task: Task, table: Any, seed: int) -> Any:
    """The model with some table."""
    kernel = jax.random.normal(jax.random.key(seed + 100), (2 * DIM, task.classes)) * (2 * DIM) ** -0.5
    return {"table": table, "kernel": kernel, "bias": jnp.zeros(task.classes)}


def small_tables(task: Task) -> Mapping[str, Callable[[jax.Array], Any]]:
    """Tables of about a tenth of the dense one's numbers, from a key."""
    count = len(task.words)
    tenth = count * DIM // RATIO
    narrow, frequent = max(1, DIM // RATIO), count // RATIO
    edges, widths = bands(count)
    return {
        "narrow": lambda key: _narrow(key, count, narrow),
        "frequent": lambda key: jax.random.normal(key, (frequent, DIM)) * DIM**-0.5,
        "hashed weights": lambda key: Hashed.init(key, (count, DIM), buckets=tenth, fan_in=DIM),
        "hashing trick": lambda key: rows.HashedRows.init(key, count, DIM, buckets=count // RATIO),
        "hash embedding": lambda key: rows.HashedRows.init(
            key, count, DIM, buckets=(tenth - count * 2) // DIM, hashes=2, importance=True
        ),
        "quotient remainder": lambda key: rows.ComposedRows.init(key, count, DIM, remainders=RATIO + 1),
        "adaptive": lambda key: rows.BandedRows.init(key, count, DIM, cutoffs=edges, widths=widths),
        "subword": lambda key: rows.SubwordRows.init(
            key, task.words, DIM, buckets=subword_buckets(task), max_n=5, combine="mean"
        ),
    }


def _narrow(key: jax.Array, count: int, width: int) -> Any:
    """One band of all words: vectors of a few numbers, and a projection."""
    return rows.BandedRows.init(key, count, DIM, cutoffs=(), widths=(width,))


def fitted_tables(task: Task) -> Mapping[str, Callable[..., Any]]:
    """Methods with settings of a tenth."""
    count = len(task.words)
    tenth = count * DIM // RATIO
    edges, widths = bands(count)
    return {
        "hashed weights": lambda p, weights: jc.cluster.hashed(p, buckets=tenth, where="table"),
        "hashing trick": functools.partial(rows.hash_embedding, buckets=count // RATIO, where="table"),
        "hash embedding": functools.partial(
            rows.hash_embedding, buckets=(tenth - count * 2) // DIM, hashes=2, importance=True, where="table"
        ),
        "quotient remainder": functools.partial(rows.quotient_remainder, remainders=RATIO + 1, where="table"),
        "adaptive": functools.partial(rows.adaptive_embedding, cutoffs=edges, widths=widths, where="table"),
        "subword": functools.partial(
            rows.subword_embedding, words=task.words, buckets=subword_buckets(task), max_n=5, where="table"
        ),
        "product codes": functools.partial(rows.product_codes, runs=8, levels=64, iterations=15, where="table"),
    }


def bands(count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A twentieth of the words in full, a tenth in four numbers, the others in one."""
    return (count // 20, count // 20 + count // 10), (DIM, 4, 1)


def subword_buckets(task: Task) -> int:
    """What is left of a tenth beside the spelling, of which a file needs about 3.5 bytes a word."""
    count = len(task.words)
    return int((4 * count * DIM / RATIO - 3.5 * count) / (4 * DIM))


def file_bytes(table: Any) -> int:
    """Of a file with the table alone."""
    with tempfile.TemporaryDirectory() as folder:
        return jc.save(Path(folder) / "table.jxc", {"table": table})


def rows_of(task: Task, budget: Budget) -> Rows:
    """All figures of one task."""
    dense, found = [], []
    for seed in range(budget.seeds):
        table = jax.random.normal(jax.random.key(seed), (len(task.words), DIM)) * DIM**-0.5
        dense.append(train(classify, start(task, table, seed), task, budget, budget.epochs, seed))
    of_dense = mean(accuracy(classify, params, task) for params in dense)
    size = file_bytes(dense[0]["table"])
    found += [row(f"{task.name} dense accuracy", of_dense, "%", "chance", 100 / task.classes)]
    for name, make in small_tables(task).items():
        began, fn = time.perf_counter(), frequent_only if name == "frequent" else classify
        seeds = range(budget.seeds)
        trained = [
            train(fn, start(task, make(jax.random.key(seed)), seed), task, budget, budget.epochs, seed)
            for seed in seeds
        ]
        reached = mean(accuracy(fn, params, task) for params in trained)
        found.append(row(f"{task.name} {name} trained accuracy", reached, "%", "dense", of_dense))
        found.append(row(f"{task.name} {name} trained file", file_bytes(trained[0]["table"]), "bytes", "dense", size))
        print(f"{task.name} {name}: {reached:.2f} %, {time.perf_counter() - began:.0f} s", flush=True)
    stats = jc.observe(classify, dense[0], list(np.array_split(task.train[0], 8)), where="table")
    weights = rows.row_frequencies(stats)
    for name, method in fitted_tables(task).items():
        began = time.perf_counter()
        small = [method(params, weights=weights) for params in dense]
        at_once = mean(accuracy(classify, params, task) for params in small)
        tuned = [
            train(classify, params, task, budget, max(1, budget.epochs // 4), seed + 50)
            for seed, params in enumerate(small)
        ]
        after = mean(accuracy(classify, params, task) for params in tuned)
        found.append(row(f"{task.name} {name} fitted accuracy", at_once, "%", "dense", of_dense))
        found.append(row(f"{task.name} {name} tuned accuracy", after, "%", "dense", of_dense))
        found.append(row(f"{task.name} {name} fitted file", file_bytes(tuned[0]["table"]), "bytes", "dense", size))
        spent = time.perf_counter() - began
        print(f"{task.name} {name}: fitted {at_once:.2f} %, tuned {after:.2f} %, {spent:.0f} s", flush=True)
    return found


def mean(values: Any) -> float:
    """Of some numbers."""
    return float(np.mean(list(values)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="TREC, one seed, three epochs; nothing is kept")
    parser.add_argument("--json", help="where to write the rows")
    parser.add_argument("--only", choices=("sst2", "trec"), help="one of the two tasks; nothing is kept")
    args = parser.parse_args()
    folder = Path(os.environ.get("JAXCOMPRESS_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    names = [args.only] if args.only else ["trec"] if args.quick else ["trec", "sst2"]
    budget = Budget(epochs=3, seeds=1) if args.quick else Budget()
    found = [line for name in names for line in rows_of(load(name, folder), budget)]
    report("embeddings", found, json_path=args.json, keep=not args.quick and args.only is None)


if __name__ == "__main__":
    main()
