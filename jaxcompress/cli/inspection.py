"""`jaxcompress inspect`: what a file holds and what each part of it costs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import jax.numpy as jnp

from jaxcompress.artifact import inspect, load
from jaxcompress.core.fields import bit_width
from jaxcompress.core.table import text_table


def inspection(path: str | Path) -> str:
    """Describes an artifact: every stored array with its bytes, then the recipe and what else the file says of itself.

    Raises:
        FileNotFoundError: if there is no such file.
        ArtifactError: if it is no artifact, or damaged.
    """
    about, artifact = inspect(path), load(path)
    sizes = artifact.sizes
    rows = []
    for array in about["arrays"]:
        count, dtype = math.prod(array["shape"]), jnp.dtype(array["dtype"])
        shape = "x".join(map(str, array["shape"])) or "scalar"
        stored, plain = sizes.get(array["path"], 0), count * bit_width(dtype) / 8
        bits = f"{8 * stored / count:.2f}" if count else "-"
        rows.append(
            [array["path"], array["kind"] or "dense", array["dtype"], shape, f"{plain:,.0f}", f"{stored:,}", bits]
        )
    rows.append(["header and manifest", "", "", "", "", f"{sizes['(header)']:,}", ""])
    total = ["whole file", "", "", "", "", f"{about['file_bytes']:,}", ""]
    columns = ["array", "leaf", "dtype", "shape", "bytes packed", "bytes in file", "bits each"]
    notes = ["", f"coder     {about['coder']}"]
    notes.append("versions  " + ", ".join(f"{name} {version}" for name, version in about["versions"].items()))
    notes.append(f"meta      {json.dumps(about['meta'])}")
    if artifact.keep:
        cut = len({path for path, _ in artifact.keep})
        notes.append(f"shrunk    {cut} leaves; load(path).bind(fn) takes the dense fn")
    stages = (about["recipe"] or {}).get("stages", []) if isinstance(about["recipe"], dict) else []
    notes += [
        f"stage {i}   {stage.get('stage')} {_settings(stage.get('fields', {}))}" for i, stage in enumerate(stages, 1)
    ]
    return text_table(columns, [*rows, total], notes)


def _settings(fields: dict[str, object]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in fields.items() if value is not None)
