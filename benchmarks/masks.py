"""Time of choosing masks on a ResNet-50-shaped tree of 25.5 M weights, against NumPy and a `lax.top_k` threshold.

    python -m benchmarks.masks [--quick] [--json PATH]

Ours is the whole call of the public method (masks and zeroed values); the peers only make masks. The updates are calls
of `update` around SGD with momentum at a step that chooses masks anew, each one compiled program: RigL and SET against
gradual magnitude pruning, and that against `jc.prune.magnitude`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxcompress as jc
from benchmarks.results import interleaved_ms, report, row

SPARSITY = 0.9
QUICK_LARGEST = 2**18 - 1


def resnet50_kernels(seed: int = 0) -> dict[str, np.ndarray]:
    """Convolution and dense kernels of the shapes of ResNet-50, normal with He's scale."""
    shapes: dict[str, tuple[int, ...]] = {"stem": (7, 7, 3, 64)}
    channels = 64
    for stage, (width, blocks) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)]):
        for block in range(blocks):
            name = f"stage{stage}/block{block}"
            shapes[f"{name}/reduce"] = (1, 1, channels, width)
            shapes[f"{name}/conv"] = (3, 3, width, width)
            shapes[f"{name}/expand"] = (1, 1, width, 4 * width)
            if block == 0:
                shapes[f"{name}/shortcut"] = (1, 1, channels, 4 * width)
            channels = 4 * width
    shapes["head"] = (2048, 1000)
    rng = np.random.default_rng(seed)
    return {
        name: (rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[:-1]))).astype(np.float32)
        for name, shape in shapes.items()
    }


def numpy_mask(size: np.ndarray, keep: int) -> np.ndarray:
    """`numpy.partition`, then the lower flat index among equals."""
    flat = size.reshape(-1)
    threshold = np.partition(flat, flat.size - keep)[flat.size - keep]
    mask = flat >= threshold
    surplus = np.count_nonzero(mask) - keep
    if surplus:
        mask[np.flatnonzero(flat == threshold)[-surplus:]] = False
    return mask.reshape(size.shape)


def numpy_per_layer(kernels: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: numpy_mask(np.abs(w), w.size - round(SPARSITY * w.size)) for name, w in kernels.items()}


def numpy_global(kernels: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    flat = np.concatenate([np.abs(w).reshape(-1) for w in kernels.values()])
    mask = numpy_mask(flat, flat.size - round(SPARSITY * flat.size))
    ends = np.cumsum([w.size for w in kernels.values()])[:-1]
    parts = zip(kernels.items(), np.split(mask, ends), strict=True)
    return {name: part.reshape(w.shape) for (name, w), part in parts}


def numpy_2_4(kernels: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    masks = {}
    for name, w in kernels.items():
        groups = np.abs(w).reshape(-1, 4)
        threshold = np.partition(groups, 2, axis=1)[:, 2:3]
        mask = groups >= threshold
        over = np.flatnonzero(np.count_nonzero(mask, axis=1) > 2)
        if over.size:  # ties at the threshold: a stable sort of those groups decides
            order = np.argsort(-groups[over], axis=1, kind="stable")
            exact = np.zeros((over.size, 4), bool)
            np.put_along_axis(exact, order[:, :2], True, axis=1)
            mask[over] = exact
        masks[name] = mask.reshape(w.shape)
    return masks


@jax.jit
def top_k_per_layer(params: dict[str, jax.Array]) -> dict[str, jax.Array]:
    def mask(w: jax.Array) -> jax.Array:
        size = jnp.abs(w)
        return size >= jax.lax.top_k(size.reshape(-1), w.size - round(SPARSITY * w.size))[0][-1]

    return jax.tree.map(mask, params)


def ours_2_4(params: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {name: jc.prune.nm_mask(jnp.abs(w), n=2, m=4, axis=-1) for name, w in params.items()}


def training_updates(params: dict[str, jax.Array]) -> dict[str, Callable[[], Any]]:
    """One call of every training method that chooses the masks of the whole tree."""
    momentum, key = optax.sgd(0.1, momentum=0.9), jax.random.key(0)
    moving = {"sparsity": SPARSITY, "end_step": 1000, "every": 100, "key": key}
    methods = {
        "gradual": jc.train.gradual_pruning(momentum, sparsity=SPARSITY, begin_step=0, end_step=1000, every=100),
        "rigl": jc.train.rigl(momentum, **moving),
        "set": jc.train.sparse_evolutionary(momentum, **moving),
    }
    gradients = jax.tree.map(lambda w: 0.01 * w[::-1], params)

    def update(tx: optax.GradientTransformation) -> Callable[[], Any]:
        state = tx.init(params)._replace(step=jnp.int32(100))
        compiled = jax.jit(tx.update)
        return lambda: jax.block_until_ready(compiled(gradients, state, params))

    return {name: update(tx) for name, tx in methods.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, under a minute; keeps no results")
    parser.add_argument("--json", metavar="PATH", help="also write the rows there")
    options = parser.parse_args()
    rounds = 3 if options.quick else 15

    kernels = resnet50_kernels()
    params = {name: jnp.asarray(w) for name, w in kernels.items()}

    def ready(run: Callable[[dict[str, jax.Array]], Any]) -> Callable[[], Any]:
        return lambda: jax.block_until_ready(run(params))  # what params holds when it runs

    contests = {
        "per layer": (lambda p: jc.prune.magnitude(p, sparsity=SPARSITY), numpy_per_layer, "numpy.partition"),
        "global": (lambda p: jc.prune.magnitude(p, sparsity=SPARSITY, scope="global"), numpy_global, "numpy.partition"),
        "2:4": (ours_2_4, numpy_2_4, "numpy.partition"),
    }
    rows = []
    for metric, (ours, theirs, peer) in contests.items():
        times = interleaved_ms({"ours": ready(ours), peer: lambda run=theirs: run(kernels)}, rounds=rounds)
        rows.append(row(f"{metric} time", times["ours"], "ms", peer, times[peer]))
        rows.append(row(f"{metric} masks equal", equal_fraction(ours(params), theirs(kernels)), "fraction", peer, 1.0))
    rivals = {"magnitude": ready(contests["per layer"][0])} | training_updates(params)
    times = interleaved_ms(rivals, rounds=rounds)
    rows.append(row("gradual update time", times["gradual"], "ms", "magnitude", times["magnitude"]))
    for name in ("rigl", "set"):
        rows.append(row(f"{name} update time", times[name], "ms", "gradual magnitude update", times["gradual"]))
    largest = QUICK_LARGEST if options.quick else max(w.size for w in params.values())  # top_k takes seconds a run
    params = {name: w for name, w in params.items() if w.size <= largest}
    times = interleaved_ms(
        {"ours": ready(contests["per layer"][0]), "top_k": ready(top_k_per_layer)}, rounds=rounds // 3
    )
    metric = "per layer time, against top_k" + (", kernels below 2^18" if options.quick else "")
    rows.append(row(metric, times["ours"], "ms", "lax.top_k threshold", times["top_k"]))
    report("masks", rows, json_path=options.json, keep=not options.quick)


def equal_fraction(ours: dict[str, Any], theirs: dict[str, np.ndarray]) -> float:
    """Fraction of the entries at which our masks are NumPy's."""
    masks = {name: np.asarray(getattr(leaf, "mask", leaf)) for name, leaf in ours.items()}
    return sum(int((masks[name] == theirs[name]).sum()) for name in theirs) / sum(mask.size for mask in theirs.values())


if __name__ == "__main__":
    main()
