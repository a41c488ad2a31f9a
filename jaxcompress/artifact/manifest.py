"""The manifest: compact JSON, deflated against a dictionary of the words that manifests are made of.

A manifest must stay small beside weights that were compressed a thousand times: the one of an 8-leaf model has 350
characters and takes about 80 bytes.

| key | what | left out when |
| --- | ---- | ------------- |
| ``t`` | the tree (see `structure`) | |
| ``k`` | the templates of its leaves (see `leaves`) | empty |
| ``s`` | shapes of the stored arrays, in storage order; ``=`` repeats the first one of the leaf | empty |
| ``c`` | the coder | |
| ``p`` | what the coder needs to cut the streams (see `streams`, `entropy`) | empty |
| ``r`` / ``m`` | recipe / meta | None |
| ``w`` | what a shrunk model kept of its dense axes (see `keeps`) | nothing was cut |
| ``v`` | versions of jaxcompress, jax and numpy that wrote the file | |
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from jaxcompress.artifact.container import MANIFEST_LIMIT
from jaxcompress.artifact.errors import ArtifactError

PACKAGES = ("jaxcompress", "jax", "numpy")
_MAX_NDIM = 32
_SHAPE = re.compile(r"=|[0-9]{1,18}(,[0-9]{1,18})*|")
_PLAIN, _DEFLATED = 0, 1

# Part of format version 1: never edit it, a new version gets a new one. What is likely stands near the end.
_DICTIONARY = (
    b'"complex64","uint4","int2","float4_e2m1fn","float8_e5m2","float8_e4m3fn","float64","float16","int64","uint32",'
    b'{"key":"threefry2x32"}"opt_state":"ema":"cache":{"cached_key":"cached_value":"cache_index":"quant":{"accuracy":'
    b'"test_error":"latency_ms":"dataset":"mnist","cifar10","name":"notes":"threshold":"damping":"block_size":"loss":'
    b'"symmetric":true,"per_channel":false,"temperature":"alpha":"momentum":"weight_decay":"epochs":"kind":"config":'
    b'{"stage":"factorize.SVD","version":1,"fields":{"rank":"energy":{"stage":"quantize.RTN","version":1,"fields":'
    b'{"bits":8,"group_size":null,"quantize.GPTQ","prune.NM","n":2,"m":4,"axis":0,"final_sparsity":"begin_step":'
    b'"end_step":"power":3.0,"sites":null,"layers":"layer_0":"layers_0":"blocks":"attention":"query":"value":"out":"mlp":'
    b'"wi":"wo":"norm":"weight":"u":"v":"w":"b":"gamma":"beta":"LayerNorm_0":"BatchNorm_0":{"mean":"var":"scale":'
    b'"embedding":"Embed_0":"batch_stats":{"recipe":{"seeds":[0],"density","quantile","levels":null,"iterations":'
    b'["lowrank",["quantized",["int8","int4","int32","uint16","bfloat16",[{"dtype":"bfloat16"}]],'
    b'"Conv_1":{"bias":0,"kernel":1},"fc1":{"fc2":{"fc3":{"conv1":{"conv2":{"head":{"Dense_2":{"bias":0,"kernel":1},'
    b'{"t":{"params":{"Conv_0":{"bias":0,"kernel":1},"Dense_0":{"bias":0,"kernel":1},"Dense_1":{"kernel":1,"bias":0}}},'
    b'{"t":{"conv_0":{"kernel":0,"bias":1},"conv_1":{"kernel":0,"bias":1},"dense_0":{"kernel":0,"bias":1},"dense_1":'
    b'{"kernel":0,"bias":1},"dense_2":{"kernel":0,"bias":1}},"k":["float32",["masked",["float32*","bool"]],'
    b'"k":[["masked",[["codebook",["uint8*","float32"],[{"dtype":"float32"}]],"bool"]],"float32"],'
    b'"s":"10;=;20;5,5,1,20;8;=;50;5,5,20,50;16;=;500;800,500;32;=;10;500,10;4;=;300;784,300;100;300,100;=",'
    b'"p":["bcs",["gps","b","c","s",[],"r":{"format":"jaxcompress.recipe","version":1,"stages":['
    b'{"stage":"prune.Magnitude","version":1,"fields":{"sparsity":0.9,"scope":"global","where":null}},'
    b'{"stage":"cluster.KMeans","version":1,"fields":{"bits":4,"levels":null,"init":"linear","iterations":'
    b'{"stage":"train.Finetune","version":1,"fields":{"steps":1000,"learning_rate":0.001,"optimizer":"adam",'
    b'"schedule":"cosine","warmup_steps":0,"batch_size":128,"where":null}},'
    b'{"stage":"train.GradualPruning","version":1,"fields":{"steps":2000,"learning_rate":0.0005,"optimizer":"adam",'
    b'"schedule":"cosine","warmup_steps":0,"batch_size":100,"where":null,"sparsity":{"dense_0/kernel":0.97},'
    b'"begin":0.0,"end":0.75,"every":10,"scope":"layer","prune_where":null}}]},'
    b'"m":{"model":"lenet300","lenet5","error":"seed":0},"c":"zstd","c":"constriction","v":["0.1.0","0.10.2","2.4.6"]}'
)


def encode(manifest: dict[str, Any]) -> bytes:
    """The stored form: one byte that names the packing, then the text, whichever packing is shorter.

    Raises:
        ArtifactError: if it would be larger than a reader accepts.
    """
    text = json.dumps(manifest, separators=(",", ":"), ensure_ascii=False).encode()
    if len(text) > MANIFEST_LIMIT:
        raise ArtifactError(f"save: the manifest has {len(text)} bytes, at most {MANIFEST_LIMIT} are read back; "
                            "keep large things out of recipe= and meta=")  # fmt: skip
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, _DICTIONARY)
    packed = packer.compress(text) + packer.flush()
    return bytes([_DEFLATED]) + packed if len(packed) < len(text) else bytes([_PLAIN]) + text


def decode(stored: bytes) -> dict[str, Any]:
    """The inverse of `encode`.

    Raises:
        ArtifactError: if it is malformed, too large once unpacked, or nested too deeply.
    """
    try:
        manifest = json.loads(_unpack(stored).decode())
    except (ValueError, RecursionError, zlib.error) as error:
        raise ArtifactError(
            f"load: the manifest cannot be read ({error}); the file was not written by save()"
        ) from error
    if not isinstance(manifest, dict):
        raise ArtifactError("load: the manifest is no JSON object; the file was not written by save()")
    return manifest


def join_shapes(shapes: Iterable[Iterable[tuple[int, ...]]]) -> str:
    """Shapes as text, one inner sequence for each leaf; a shape that equals the first of its leaf becomes ``=``."""
    words: list[str] = []
    for leaf in shapes:
        first: tuple[int, ...] | None = None
        for shape in leaf:
            words.append("=" if shape == first else ",".join(map(str, shape)))
            first = shape if first is None else first
    return ";".join(words)


class ShapeReader:
    """Hands out the shapes of `join_shapes` one by one. Call `begin_leaf` before the arrays of each leaf."""

    def __init__(self, text: str):
        if not isinstance(text, str) or not all(_SHAPE.fullmatch(word) for word in text.split(";")):
            raise ArtifactError("load: the list of shapes is malformed; the file was not written by save()")
        self._words: Iterator[str] = iter(text.split(";"))
        self._first: tuple[int, ...] | None = None

    def begin_leaf(self) -> None:
        """Forgets what ``=`` stands for."""
        self._first = None

    def next(self) -> tuple[int, ...]:
        """The shape of the next array.

        Raises:
            ArtifactError: if there is none, or it has more axes than NumPy allows.
        """
        word = next(self._words, None)
        if word is None or (word == "=" and self._first is None):
            raise ArtifactError("load: a shape is missing; the file was not written by save()")
        shape = self._first if word == "=" else tuple(int(size) for size in word.split(",") if size)
        assert shape is not None
        if len(shape) > _MAX_NDIM:
            raise ArtifactError(f"load: an array of {len(shape)} axes (at most {_MAX_NDIM}); refused")
        self._first = shape if self._first is None else self._first
        return shape


def _unpack(stored: bytes) -> bytes:
    if stored[:1] == bytes([_PLAIN]):
        return stored[1:]
    if stored[:1] != bytes([_DEFLATED]):
        raise ArtifactError(f"load: unknown packing {stored[:1]!r} of the manifest; refused")
    unpacker = zlib.decompressobj(-15, _DICTIONARY)
    text = unpacker.decompress(stored[1:], MANIFEST_LIMIT)
    if not unpacker.eof or unpacker.unused_data:
        raise ArtifactError(f"load: the manifest does not end within {MANIFEST_LIMIT} bytes; refused")
    return text
