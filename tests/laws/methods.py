"""The table of public tree methods: each with settings that fit a tree of two kernels, and its recipe stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxcompress.cluster import KMeans, Product, kmeans, product
from jaxcompress.factorize import SVD, Tucker, svd, tucker
from jaxcompress.prune import NM, Block, ByScore, Magnitude, blocked, by_score, magnitude, nm
from jaxcompress.quantize import RTN, Binary, Ternary, binary, rtn, ternary


@dataclasses.dataclass(frozen=True)
class Method:
    """A method ``(params, *, where, sites, **settings) -> params``.

    Attributes:
        fn: the method.
        stage: its recipe stage, a dataclass with the same fields.
        settings: a choice that changes every kernel.
        null: settings under which nothing may change, None if the method has none.
        rejects: settings that must raise a ValueError, with the name that the message must hold.
        traced: True if the method runs under `jit` with these settings.
    """

    fn: Callable[..., Any]
    stage: type
    settings: Mapping[str, Any]
    null: Mapping[str, Any] | None
    rejects: Mapping[str, Mapping[str, Any]]
    traced: bool = True


METHODS: dict[str, Method] = {
    "magnitude": Method(
        magnitude,
        Magnitude,
        settings={"sparsity": 0.5},
        null={"sparsity": 0.0},
        rejects={"sparsity": {"sparsity": 1.5}, "scope": {"sparsity": 0.5, "scope": "tree"}},
    ),
    "magnitude_global": Method(
        magnitude,
        Magnitude,
        settings={"sparsity": 0.5, "scope": "global"},
        null={"sparsity": 0.0, "scope": "global"},
        rejects={"sparsity": {"sparsity": -0.1, "scope": "global"}},
    ),
    "nm": Method(
        nm,
        NM,
        settings={"n": 2, "m": 4},
        null={"n": 4, "m": 4},
        rejects={"n must": {"n": 5, "m": 4}, "first/w": {"n": 2, "m": 5}},
    ),
    "nm_packed": Method(
        nm,
        NM,
        settings={"n": 1, "m": 3, "packed": True},
        null={"n": 2, "m": 2, "packed": True},
        rejects={"n and m": {"n": 0, "m": 4, "packed": True}},
    ),
    "block": Method(
        blocked,
        Block,
        settings={"sparsity": 0.5, "block": (3, 4)},
        null={"sparsity": 0.0, "block": (3, 4)},
        rejects={"sparsity": {"sparsity": 1.5, "block": (3, 4)}, "first/w": {"sparsity": 0.5, "block": (5, 4)}},
    ),
    "by_score_lamp": Method(
        by_score,
        ByScore,
        settings={"scores": "lamp", "sparsity": 0.5, "scope": "global"},
        null={"scores": "lamp", "sparsity": 0.0, "scope": "global"},
        rejects={"scores": {"scores": "l9", "sparsity": 0.5}, "scope": {"scores": "l1", "sparsity": 0.5, "scope": "x"}},
    ),
    "by_score_output": Method(
        by_score,
        ByScore,
        settings={"scores": "l1", "sparsity": 0.5, "scope": "output"},
        null={"scores": "l1", "sparsity": 0.0, "scope": "output"},
        rejects={"sparsity": {"scores": "l1", "sparsity": -0.5, "scope": "output"}},
    ),
    "kmeans": Method(
        kmeans,
        KMeans,
        settings={"bits": 3, "iterations": 10},
        null={"levels": 256},  # more levels than weights
        rejects={"bits": {"bits": 17}, "levels": {"levels": 0}, "either bits= or levels=": {}},
    ),
    "kmeans_quantile": Method(
        kmeans,
        KMeans,
        settings={"levels": 5, "init": "quantile", "codebook_dtype": "bfloat16"},
        null=None,
        rejects={"init": {"levels": 5, "init": "middle"}},
    ),
    "kmeans_channel": Method(
        kmeans,
        KMeans,
        settings={"levels": 3, "granularity": "channel"},
        null=None,
        rejects={
            "granularity": {"levels": 3, "granularity": "row"},
            "save nothing": {"bits": 8, "granularity": "channel"},
        },
    ),
    "product": Method(
        product,
        Product,
        settings={"block": 3, "levels": 4, "iterations": 5},
        null=None,
        rejects={
            "block=5": {"block": 5, "levels": 4},
            "save nothing": {"block": 3, "bits": 8},
            "along": {"block": 3, "levels": 4, "along": "rows"},
        },
    ),
    "rtn_int8": Method(
        rtn,
        RTN,
        settings={"bits": 8},
        null=None,
        rejects={"bits": {"bits": 9}, "group_size": {"bits": 8, "group_size": 5}},
    ),
    "rtn_int4_groups": Method(
        rtn,
        RTN,
        settings={"bits": 4, "group_size": 2},
        null=None,
        rejects={"group_size": {"bits": 4, "group_size": 64}},
    ),
    "rtn_int3_zero_points": Method(
        rtn,
        RTN,
        settings={"bits": 3, "symmetric": False, "granularity": "tensor"},
        null=None,
        rejects={"granularity": {"granularity": "row"}, "group_size": {"granularity": "tensor", "group_size": 4}},
    ),
    "rtn_nf4_mse": Method(
        rtn,
        RTN,
        settings={"format": "nf4", "group_size": 6, "ranges": "mse"},
        null=None,
        rejects={"format": {"format": "fp16"}, "bits": {"format": "nf4", "bits": 3}, "ranges": {"ranges": "widest"}},
    ),
    "binary": Method(
        binary,
        Binary,
        settings={"group_size": 6},
        null=None,
        rejects={"scale": {"scale": "median"}, "group_size": {"group_size": 7}},
    ),
    "ternary": Method(
        ternary,
        Ternary,
        settings={"rule": "twn"},
        null=None,
        rejects={"rule": {"rule": "half"}, "granularity": {"granularity": "row"}},
    ),
    "svd": Method(
        svd,
        SVD,
        settings={"rank": 2},
        null=None,  # a rank that keeps everything saves nothing, and is refused
        rejects={"rank": {"rank": 0}, "saves nothing": {"rank": 8}},
    ),
    "svd_energy": Method(
        svd,
        SVD,
        settings={"rank": 0.4},
        null=None,
        rejects={"rank must be": {"rank": 1.5}, "saves nothing": {"rank": 0.999}},
        traced=False,
    ),
    "tucker": Method(
        tucker,
        Tucker,
        settings={"rank": 2, "sweeps": 1},
        null=None,
        rejects={"rank": {"rank": 0}, "save nothing": {"rank": 8}, "modes": {"rank": 2, "modes": "none"}},
    ),
}
