"""The Llama half of `benchmarks.low_rank_accuracy`: perplexity of low-rank factorizations of equal size."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxcompress as jc
from benchmarks.results import row
from benchmarks.trained_llama import Subject, subject

Rows = list[dict[str, Any]]
WHERE = ("layers/**/w*",)
PERCENTS = (10, 20, 30)
FULL = 20  # the percentage at which every method runs
LORA_RANK, LORA_STEPS, LORA_RATE = 4, 48, 2e-3


def llama_rows(percent: int, *, quick: bool) -> Rows:
    """Perplexity with so many percent fewer parameters, whole model."""
    on = subject(quick, WHERE)
    rows = []
    for name, make in methods(on, percent).items():
        start = time.perf_counter()
        params = make()
        value, size = on.evaluate(params), count(params)
        taken = time.perf_counter() - start
        removed = 100 * (1 - size / count(on.params))
        print(f"llama {percent} percent {name}: {value:.3f}, {removed:.2f} % fewer, {taken:.0f} s", flush=True)
        if removed < percent:
            raise AssertionError(f"{name}: {removed:.2f} % fewer parameters, {percent} % were asked for")
        rows.append(row(f"llama {percent} percent {name} ppl", value, "ppl", "float32", on.dense))
    return rows


def methods(on: Subject, percent: int) -> dict[str, Callable[[], Any]]:
    """What makes the trees of one size, by name."""
    factorize = jc.factorize
    ranks = uniform_ranks(on.params, percent)
    fisher = functools.cache(lambda: fisher_of(on))
    plain = lambda ranks: factorize.svd(on.params, rank=ranks, where=WHERE, sites=on.sites)  # noqa: E731
    fwsvd = lambda ranks: factorize.fwsvd(  # noqa: E731
        on.params, rank=ranks, weights=fisher(), where=WHERE, sites=on.sites
    )
    in_turns = lambda ranks: dataclasses.replace(on, where=tuple(ranks)).in_turns(  # noqa: E731  # the others stay
        factorize.whitened_svd, rank=ranks
    )
    found: dict[str, Callable[[], Any]] = {
        "svd": lambda: plain(ranks),
        "asvd": lambda: on.at_once(factorize.asvd, rank=ranks),
        "whitened": lambda: on.at_once(factorize.whitened_svd, rank=ranks),
    }
    budget = factorize.budget(parameters=kept_part(on.params, percent))
    found |= {
        "svd budget": lambda: plain(budget),
        "asvd budget": lambda: on.at_once(factorize.asvd, rank=budget),
        "whitened budget": lambda: on.at_once(factorize.whitened_svd, rank=budget),
    }
    if on.quick:
        return found
    of_budget = functools.cache(lambda: ranks_in(found["whitened budget"]()))
    found |= {
        "whitened sequential": lambda: in_turns(ranks),
        "fwsvd": lambda: fwsvd(ranks),
        "drone": lambda: on.at_once(factorize.drone, rank=ranks),
        "output pca sequential": lambda: output_pca(on, percent),
        "fwsvd budget": lambda: fwsvd(budget),
        "whitened sequential budget": lambda: in_turns(of_budget()),
    }
    if percent == FULL:
        found |= {
            "asvd searched": lambda: on.at_once(factorize.asvd, rank=ranks, alpha="search"),
            "asvd refitted": lambda: refitted(on, found["asvd"]()),
            "whitened sequential budget lora": lambda: recovered(on, in_turns, of_budget()),
        }
    return found


def count(params: Any) -> int:
    """Numbers that a model holds, factors as they are."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def weights_of(params: Any) -> dict[str, jax.Array]:
    """The matrices that are factorized, by path."""
    return {f"layers/{i}/{name}": at[name] for i, at in enumerate(params["layers"]) for name in at if name[0] == "w"}


def uniform_ranks(params: Any, percent: int, extra: int = 0) -> dict[str, int]:
    """Ranks that are one part of each matrix's break-even, the largest with which the model is small enough."""
    shapes = {path: leaf.shape for path, leaf in weights_of(params).items()}
    others = count(params) - sum(m * n for m, n in shapes.values()) + extra
    allowed = count(params) * (1 - percent / 100) - others
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        ranks = {path: max(1, int(middle * m * n / (m + n))) for path, (m, n) in shapes.items()}
        low, high = (middle, high) if held(ranks, shapes) <= allowed else (low, middle)
    return {path: max(1, int(low * m * n / (m + n))) for path, (m, n) in shapes.items()}


def held(ranks: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Numbers that the factors hold."""
    return sum(rank * sum(shapes[path]) for path, rank in ranks.items())


def kept_part(params: Any, percent: int) -> float:
    """The part of the matrices' numbers that may stay if the whole model shall lose so many percent."""
    size = sum(leaf.size for leaf in weights_of(params).values())
    return 1 - percent / 100 * count(params) / size


def ranks_in(params: Any) -> dict[str, int]:
    """Ranks of the leaves that are factorized."""
    return {path: leaf.rank for path, leaf in weights_of(params).items() if isinstance(leaf, jc.factorize.LowRank)}


def less(ranks: Mapping[str, int], by: int) -> dict[str, int]:
    """Ranks smaller by so much, where something is left then."""
    return {path: rank - by if rank > by else rank for path, rank in ranks.items()}


def refitted(on: Subject, factorized: Any) -> Any:
    """The output factors updated in turns, each on what the updated layers before it let through."""
    fit = functools.partial(jc.factorize.refit, on.params)
    changed = dataclasses.replace(on, params=factorized)
    return changed.in_turns(fit)


def output_pca(on: Subject, percent: int) -> Any:
    """AFM in turns: layers get biases, which hold the mean outputs and count as parameters."""
    names = {path: (path.rpartition("/")[0], f"b_{path.rpartition('/')[2]}") for path in weights_of(on.params)}
    layers = [
        at | {f"b_{name}": jnp.zeros(at[name].shape[1]) for name in at if name[0] == "w"} for at in on.params["layers"]
    ]
    biased = dataclasses.replace(on, params=on.params | {"layers": layers})
    extra = count(biased.params) - count(on.params)
    return biased.in_turns(
        jc.factorize.output_pca,
        rank=uniform_ranks(on.params, percent, extra),
        biases={path: "/".join(name) for path, name in names.items()},
        what=("second_moment", "mean"),
    )


def fisher_of(on: Subject) -> Any:
    """Squared gradients of every weight, window by window, on the calibration data."""
    return jc.quantize.fisher(functools.partial(loss, on.fn), on.params, on.data, where=WHERE, sites=on.sites)


def loss(fn: Callable[..., jax.Array], params: Any, tokens: jax.Array) -> jax.Array:
    """Mean cross-entropy of the next token."""
    scores = jax.nn.log_softmax(fn(params, tokens[:, :-1]))
    return -jnp.take_along_axis(scores, tokens[:, 1:, None], axis=2).mean()


def recovered(on: Subject, factorize: Callable[[Mapping[str, int]], Any], ranks: Mapping[str, int]) -> Any:
    """Deltas of rank `LORA_RANK` trained on the calibration windows alone; they take the place of as much rank."""
    adapted = jc.factorize.lora(
        factorize(less(ranks, LORA_RANK)),
        rank=LORA_RANK,
        key=jax.random.key(0),
        where=[path for path, rank in ranks.items() if rank > LORA_RANK],
        sites=on.sites,
    )
    trainable, frozen = jc.split_trainable(adapted, where=jc.factorize.is_lora)
    tx = optax.adam(optax.cosine_decay_schedule(LORA_RATE, LORA_STEPS))

    @jax.jit
    def step(trainable: Any, state: Any, tokens: jax.Array) -> tuple[Any, Any]:
        of = lambda half: loss(on.fn, jc.materialize(jc.merge(half, frozen)), tokens)  # noqa: E731
        updates, state = tx.update(jax.grad(of)(trainable), state, trainable)
        return optax.apply_updates(trainable, updates), state

    state = tx.init(trainable)
    for i in range(LORA_STEPS):
        trainable, state = step(trainable, state, on.data[i % len(on.data)])
    return jc.merge(trainable, frozen)
