"""Model compression for JAX as pure functions over parameter pytrees.

A compressed model is the same pytree with some arrays held in another form (`CompressedArray`), and `lift(fn)` runs any
function on it. Methods live in rooms, one namespace per family; what most programs need is here.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxcompress.core.explain import Explanation, explain
from jaxcompress.core.leaf import CompressedArray, is_compressed, leaf_kind
from jaxcompress.core.lift import lift
from jaxcompress.core.observe import observe
from jaxcompress.core.sites import Site, Sites, sites
from jaxcompress.core.tree import in_axes, materialize, merge, shardings, split_trainable, stored_bytes

if TYPE_CHECKING:
    from jaxcompress.adapters import nnx

__version__ = "0.1.0"

__all__ = [
    "CompressedArray",
    "Explanation",
    "Site",
    "Sites",
    "explain",
    "in_axes",
    "is_compressed",
    "leaf_kind",
    "lift",
    "materialize",
    "merge",
    "nnx",
    "observe",
    "shardings",
    "sites",
    "split_trainable",
    "stored_bytes",
]

# Rooms are imported at their first use.
_LAZY = {
    "nnx": "jaxcompress.adapters.nnx",
    "prune": "jaxcompress.prune",
    "cluster": "jaxcompress.cluster",
    "quantize": "jaxcompress.quantize",
    "factorize": "jaxcompress.factorize",
    "train": "jaxcompress.train",
    "artifact": "jaxcompress.artifact",
    "pipeline": "jaxcompress.pipeline",
    "report": "jaxcompress.report",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(_LAZY[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
