"""The table of public tree methods: each with settings that fit a tree of two kernels, and its recipe stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxcompress.cluster import HashedNets, KMeans, Product, hashed, kmeans, product
from jaxcompress.cluster import embeddings as rows
from jaxcompress.factorize import CP, SVD, TT, Tucker, cp, svd, tt, tucker
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
    "cp": Method(
        cp,
        CP,
        settings={"rank": 2, "iterations": 40},
        null=None,
        rejects={"rank": {"rank": 0}, "saves nothing": {"rank": 6}, "spatial": {"rank": 2, "spatial": "none"}},
    ),
    "tt": Method(
        tt,
        TT,
        settings={"rank": 2, "cores": 2},
        null=None,
        rejects={"rank": {"rank": 0}, "saves nothing": {"rank": 12}, "cores": {"rank": 2, "cores": 1}},
    ),
    "tt_error": Method(
        tt,
        TT,
        settings={"error": 0.9},
        null=None,
        rejects={"error": {"error": 1.5}, "saves nothing": {"error": 0.01}, "either": {}},
        traced=False,
    ),
    "tucker": Method(
        tucker,
        Tucker,
        settings={"rank": 2, "sweeps": 1},
        null=None,
        rejects={"rank": {"rank": 0}, "save nothing": {"rank": 8}, "modes": {"rank": 2, "modes": "none"}},
    ),
    "hashed": Method(
        hashed,
        HashedNets,
        settings={"compression": 4},
        null=None,
        rejects={
            "compression must": {"compression": 0.5},
            "buckets must": {"buckets": 0},
            "save nothing": {"buckets": 144},
            "either compression= or buckets=": {},
        },
    ),
    "hash_embedding": Method(
        rows.hash_embedding,
        rows.HashEmbedding,
        settings={"buckets": 3, "hashes": 2, "importance": True, "rounds": 2},
        null=None,
        rejects={"buckets": {"buckets": 0}, "hashes": {"buckets": 3, "hashes": 0}, "save nothing": {"buckets": 12}},
    ),
    "quotient_remainder": Method(
        rows.quotient_remainder,
        rows.QuotientRemainder,
        settings={"operation": "multiply", "rounds": 3},
        null=None,
        rejects={
            "operation": {"operation": "or"},
            "remainders": {"remainders": 13},
            "save nothing": {"remainders": 12},
        },
    ),
    "adaptive_embedding": Method(
        rows.adaptive_embedding,
        rows.AdaptiveEmbedding,
        settings={"cutoffs": [3], "widths": [12, 2]},
        null=None,
        rejects={
            "cutoffs": {"cutoffs": [12]},
            "widths": {"cutoffs": [3], "widths": [12]},
            "save nothing": {"cutoffs": [3], "widths": [12, 12]},
        },
    ),
    "product_codes": Method(
        rows.product_codes,
        rows.ProductCodes,
        settings={"runs": 3, "levels": 4, "iterations": 3},
        null=None,
        rejects={
            "runs": {"runs": 5},
            "levels": {"runs": 3, "levels": 1},
            "save nothing": {"runs": 3, "levels": 12},
        },
    ),
    "subword_embedding": Method(
        rows.subword_embedding,
        rows.SubwordEmbedding,
        settings={"words": [f"word{i}" for i in range(12)], "buckets": 5, "iterations": 5},
        null=None,
        rejects={
            "words": {"words": ["one"], "buckets": 3},
            "buckets": {"words": ["one"] * 12, "buckets": 0},
            "save nothing": {"words": ["one"] * 12, "buckets": 12},
        },
    ),
}
