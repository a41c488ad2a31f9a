"""The Tucker rows of `benchmarks.factorize_speed`: Tucker-2 of the 3 x 3 kernels of ResNet-50 against tensorly.

All 16 kernels (3 of 64 to 64 features, 4 of 128, 6 of 256, 3 of 512), random, at ranks of half the features: by
`jaxcompress.factorize.tucker`, checks and tree included, and by `tensorly.decomposition.partial_tucker` with its NumPy
backend, kernel by kernel; the same HOSVD start and number of HOOI sweeps. tensorly gets its own best: no tolerance to
compute, float32 as ours.
"""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorly
from tensorly.decomposition import partial_tucker
from tensorly.tenalg import multi_mode_dot

import jaxcompress as jc
from benchmarks.results import interleaved_ms, row

SHAPES = {64: 3, 128: 4, 256: 6, 512: 3}
SWEEPS = 2


def rows(quick: bool) -> list[dict[str, Any]]:
    """Speed, first call, and the largest excess of the relative error."""
    tensorly.set_backend("numpy")
    shapes = {64: 2, 128: 2} if quick else SHAPES
    rng = np.random.default_rng(0)
    kernels = {
        f"{size}/{i}": rng.standard_normal((3, 3, size, size)).astype(np.float32)
        for size, count in shapes.items()
        for i in range(count)
    }
    params = jax.tree.map(jnp.asarray, kernels)
    sites = jc.sites(_every_kernel, params, {size: jnp.ones((1, 4, 4, size)) for size in shapes})
    ranks = {f"{size}/*": size // 2 for size in shapes}

    def ours() -> Any:
        return jax.block_until_ready(jc.factorize.tucker(params, rank=ranks, sweeps=SWEEPS, sites=sites))

    def theirs() -> Any:
        return {
            path: partial_tucker(w, rank=[w.shape[2] // 2] * 2, modes=[2, 3], n_iter_max=SWEEPS, tol=0)[0]
            for path, w in kernels.items()
        }

    start = time.perf_counter()
    found = ours()
    first = (time.perf_counter() - start) * 1e3
    peers = theirs()
    excess = max(
        _error(w, found[path].materialize()) / _error(w, multi_mode_dot(*peers[path], modes=[2, 3])) - 1
        for path, w in kernels.items()
    )
    times = interleaved_ms({"ours": ours, "tensorly": theirs}, rounds=1 if quick else 3)
    ratio = times["tensorly"] / times["ours"]
    peer = "tensorly partial_tucker"
    return [
        row("tucker2 over tensorly", ratio, "x", peer, 1.0),
        row("tucker2 resnet50 kernels", times["ours"], "ms", peer, times["tensorly"]),
        row("tucker2 first call", first, "ms", peer, times["tensorly"]),
        row("tucker2 excess error", excess, "relative", "float32", 1e-5),
    ]


def _every_kernel(params: Any, inputs: Any) -> list[jax.Array]:
    """What says which axes slide: each kernel in a convolution of its own."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return [
        jax.lax.conv_general_dilated(inputs[w.shape[2]], w, (1, 1), "SAME", dimension_numbers=numbers)
        for w in params.values()
    ]


def _error(w: np.ndarray, approximation: Any) -> float:
    return float(np.linalg.norm(np.asarray(approximation, np.float64) - w) / np.linalg.norm(w))
