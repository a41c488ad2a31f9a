"""SliceGPT on the trained Llama: perplexity with 10, 20 and 30 % fewer parameters, directions against channels.

Rows for `benchmarks.low_rank_accuracy`. The residual stream (64 channels) is turned to its principal directions, found
on windows 0-31, and as many are deleted as the number of parameters asks for: the largest stream that fits. The head is
tied and has a gain before it, which no rotation passes: it goes into a matrix of its own before the head
(`jaxcompress.untie`), which is counted; `untied` has a second table instead. `channels`: the channels with the least
energy deleted in the model as it is, no rotation and nothing untied. `refitted`: the kernels that read the stream
fitted to the dense model's outputs (`jaxcompress.prune.reconstruct`). Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import jaxcompress as jc
from benchmarks.pruning_llama import BATCH, DENSE, model, perplexity
from benchmarks.results import row
from jaxcompress.core.paths import flatten_with_paths
from tests.zoo import llama

PERCENTS = (10, 20, 30)
HEADS: tuple[tuple[str, Literal["matrix", "copy"]], ...] = (("slicegpt", "matrix"), ("slicegpt untied", "copy"))
Keep = Mapping[tuple[str, int], np.ndarray]


def rows(quick: bool) -> list[dict[str, Any]]:
    """Perplexities; with ``quick`` of 20 percent on few windows."""
    calibrating, total = (4, 12) if quick else (32, 144)
    windows = llama.windows(total)
    fn, params = model()
    batch = min(BATCH, calibrating)
    data = [jnp.asarray(windows[i : i + batch, :-1]) for i in range(0, calibrating, batch)]
    dense = perplexity(fn, windows[calibrating:])(params) if quick else DENSE
    parameters = count(params)
    found = []
    for name, (own, tree, order) in subjects(fn, params, data, quick=quick).items():
        for percent in (20,) if quick else PERCENTS:
            kept = largest(tree, order, parameters * (100 - percent) / 100)
            cut = {axis: np.sort(directions[:kept]) for axis, directions in order.items()}
            refitted = refit(own, tree, data, cut)
            for label, fitted in {name: tree, f"{name} refitted": refitted}.items():
                small = jc.shrink(own, fitted, cut)
                value = perplexity(small.fn, windows[calibrating:])(small.params)
                found.append(row(f"llama {percent} percent {label} ppl", value, "ppl", "float32", dense))
                print(f"{found[-1]['metric']}: {value:.3f} ({kept} of 64, {count(small.params):,})", flush=True)
    return found


def subjects(
    fn: Callable[..., jax.Array], params: Any, data: list[jax.Array], *, quick: bool
) -> dict[str, tuple[Callable[..., jax.Array], Any, Keep]]:
    """By name: a function, its parameters, and the indices of every axis along the stream, the best first."""
    found, order = dict[str, tuple[Callable[..., jax.Array], Any, Keep]](), dict[tuple[str, int], np.ndarray]()
    for name, head in HEADS[:1] if quick else HEADS:
        apart, tree = jc.untie(fn, params, "emb", data[0], head=head)
        sliced = jc.factorize.slice_residual(apart, tree, data, keep=1)
        order = dict.fromkeys(sliced.rotation.axes, np.arange(sliced.rotation.size))
        found[name] = apart, sliced.params, order
    axes = [axis for axis in order if not axis[0].startswith("untied")]
    return found | {"channels": (fn, params, dict.fromkeys(axes, by_energy(fn, params, data, axes)))}


def by_energy(
    fn: Callable[..., jax.Array], params: Any, data: list[jax.Array], axes: list[tuple[str, int]]
) -> np.ndarray:
    """Channels by the mean square of what the kernels read of them, gains divided out, the largest first."""
    readers = [path for path, axis in axes if axis == 0 and leaves(params)[path].ndim > 1]
    stats = jc.observe(fn, params, data, what="second_moment", where=[*readers, "emb"])
    energy = np.zeros(64)
    for path in stats:
        layer, _, name = path.rpartition("/")
        norm = "norm" if path == "emb" else f"{layer}/ffn_norm" if name in ("w1", "w3") else f"{layer}/att_norm"
        gain = np.asarray(leaves(params)[norm])
        moments = [entry["second_moment"] for entry in stats[path] if "second_moment" in entry.values]
        energy += sum(np.diag(np.asarray(moment)) / gain**2 for moment in moments)
    return np.argsort(-energy)


def refit(fn: Callable[..., jax.Array], params: Any, data: list[jax.Array], keep: Keep) -> Any:
    """The kernels that read the stream fitted to what they gave; the tied table stays."""
    where = [path for path, axis in keep if axis == 0 and leaves(params)[path].ndim > 1]
    where += [path for path, axis in keep if path.startswith("untied") and axis == 1 and path not in where]
    stats = jc.observe(fn, params, data, what="second_moment", where=where)
    return jc.prune.reconstruct(params, stats, keep)


def largest(params: Any, order: Keep, wanted: float) -> int:
    """The most directions with which no more parameters are left than wanted."""
    shapes = {path: np.shape(leaf) for path, leaf in leaves(params).items()}

    def held(kept: int) -> int:
        small = [
            [kept if (path, axis) in order else size for axis, size in enumerate(shape)]
            for path, shape in shapes.items()
        ]
        return sum(int(np.prod(shape)) for shape in small)

    return max(kept for kept in range(1, 64) if held(kept) <= wanted)


def count(params: Any) -> int:
    """Number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def leaves(params: Any) -> dict[str, Any]:
    paths, found, _ = flatten_with_paths(params)
    return dict(zip(paths, found, strict=True))


if __name__ == "__main__":
    rows(quick=False)
