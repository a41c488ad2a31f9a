"""The singular value rows of benchmarks.factorize_speed: our solvers, `jnp.linalg.svd` and scikit-learn in turn.

Matrices are Gaussian: of all spectra that with the least decay, the hardest for anything that sketches or iterates.
``excess`` is what an approximation's error exceeds the optimum of its rank by (Eckart and Young, from NumPy's float64),
relative to the norm of the matrix.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.decomposition import PCA
from sklearn.utils.extmath import randomized_svd

import jaxcompress as jc
from benchmarks.results import interleaved_ms, row
from jaxcompress.solvers.lowrank import truncated_svd

FULL = "jnp.linalg.svd"
SHAPES = {False: {"1024": (1024, 1024), "4096x1024": (4096, 1024)}, True: {"256": (256, 256), "1024x256": (1024, 256)}}
LAYERS = {False: (6, 768, 64), True: (6, 256, 16)}  # number, size, rank; by quick
ROUNDS = {False: 7, True: 2}

_full = jax.jit(functools.partial(jnp.linalg.svd, full_matrices=False))
_truncated = jax.jit(truncated_svd, static_argnames=("rank", "method", "power_iterations"))

Factors = tuple[Any, Any]


def rows(quick: bool) -> list[dict[str, Any]]:
    """All rows: single matrices, then a tree of equal layers."""
    return [line for name, shape in SHAPES[quick].items() for line in single(name, shape, quick)] + layers(quick)


def single(name: str, shape: tuple[int, int], quick: bool) -> list[dict[str, Any]]:
    """One matrix: a quarter of its rank (where all eigenvectors are found) and a sixteenth (where few are)."""
    host = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    w = jnp.asarray(host)
    wide, thin = min(shape) // 4, min(shape) // 16
    key = jax.random.key(0)
    rivals: dict[str, Callable[[], Factors]] = {
        FULL: lambda: _cut(_full(w), thin),
        "gram eigh": lambda: _kept(_truncated(w, rank=wide)),
        "gram few": lambda: _kept(_truncated(w, rank=thin)),
        "randomized": lambda: _kept(_truncated(w, rank=thin, method="randomized", key=key)),
        "sklearn randomized_svd": lambda: _kept(randomized_svd(host, thin, random_state=0)),
        "sklearn PCA": lambda: _of_pca(PCA(thin, svd_solver="covariance_eigh").fit(host), host),
    }
    times = interleaved_ms({rival: _ready(run) for rival, run in rivals.items()}, rounds=ROUNDS[quick])
    found = []
    for rival, run in rivals.items():
        if rival != FULL:
            label = f"{rival} speedup {name}"
            found.append(row(label, times[FULL] / times[rival], "x", FULL, 1.0))
            excess = _excess(host, run(), centred=rival == "sklearn PCA")
            found.append(row(f"{rival} excess error {name}", excess, "relative", "optimum", 0.0))
    found.append(
        row(f"gram few time {name}", times["gram few"], "ms", "sklearn randomized_svd", times["sklearn randomized_svd"])
    )
    return found


def layers(quick: bool) -> list[dict[str, Any]]:
    """A tree of layers of one shape: `jc.factorize.svd` against a loop of full decompositions."""
    number, size, rank = LAYERS[quick]
    hosts = np.random.default_rng(1).normal(size=(number, size, size)).astype(np.float32)
    params = {f"layer{i}": jnp.asarray(host) for i, host in enumerate(hosts)}
    key = jax.random.key(0)
    rivals = {
        "loop": lambda: [_cut(_full(w), rank) for w in params.values()],
        "batched": lambda: jc.factorize.svd(params, rank=rank),
        "randomized": lambda: jc.factorize.svd(params, rank=rank, method="randomized", key=key),
        "sklearn": lambda: [randomized_svd(host, rank, random_state=0) for host in hosts],
    }
    times = interleaved_ms({rival: _ready(run) for rival, run in rivals.items()}, rounds=ROUNDS[quick])
    peer = f"loop of {number} {FULL}"
    found = [row("batched svd speedup", times["loop"] / times["batched"], "x", peer, 1.0)]
    for name in ("batched", "randomized"):
        tree = rivals[name]()
        worst = max(_excess(host, (leaf.u, leaf.v)) for host, leaf in zip(hosts, tree.values(), strict=True))
        found.append(row(f"{name} svd excess error", worst, "relative", "optimum", 0.0))
    found.append(row("batched randomized svd speedup", times["loop"] / times["randomized"], "x", peer, 1.0))
    found.append(row("batched svd time", times["batched"], "ms", "sklearn randomized_svd, loop", times["sklearn"]))
    return found


def _ready(run: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: jax.block_until_ready(run())


def _cut(triples: Any, rank: int) -> Factors:
    u, s, vt = triples
    return u[:, :rank] * s[None, :rank], vt[:rank]


def _kept(triples: Any) -> Factors:
    return _cut(triples, triples[1].shape[0])


def _of_pca(fitted: Any, host: np.ndarray) -> Factors:
    return (host - fitted.mean_) @ fitted.components_.T, fitted.components_


def _excess(host: np.ndarray, factors: Factors, *, centred: bool = False) -> float:
    w = host.astype(np.float64)
    if centred:
        w = w - w.mean(axis=0)
    u, v = (np.asarray(factor, np.float64) for factor in factors)
    squares = np.linalg.eigvalsh(w.T @ w)[::-1]
    least = math.sqrt(squares[u.shape[1] :].sum())
    return float((np.linalg.norm(w - u @ v) - least) / math.sqrt(squares.sum()))
