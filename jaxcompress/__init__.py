"""Model compression for JAX as pure functions over parameter pytrees.

A compressed model is the same pytree with some arrays held in another form (`CompressedArray`), and `lift(fn)` runs any
function on it. Methods live in rooms, one namespace per family; what most programs need is here.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxcompress import artifact, cluster, factorize, prune, quantize
from jaxcompress.artifact import load, save
from jaxcompress.core.explain import Explanation, explain
from jaxcompress.core.groups import Groups, groups
from jaxcompress.core.leaf import CompressedArray, is_compressed, leaf_kind
from jaxcompress.core.lift import lift
from jaxcompress.core.observe import observe
from jaxcompress.core.rescaling import Symmetries, symmetries
from jaxcompress.core.rotation import Rotations, rotations
from jaxcompress.core.sequential import sequential
from jaxcompress.core.shrink import Shrunk, Verification, shrink, verify
from jaxcompress.core.sites import Site, Sites, sites
from jaxcompress.core.tree import in_axes, materialize, merge, shardings, split_trainable, stored_bytes
from jaxcompress.core.untie import untie

if TYPE_CHECKING:
    from jaxcompress import pipeline, report, search, train
    from jaxcompress.adapters import nnx
    from jaxcompress.pipeline import Recipe, compress

__version__ = "0.1.0"

__all__ = [
    "CompressedArray",
    "Explanation",
    "Groups",
    "Recipe",
    "Rotations",
    "Shrunk",
    "Site",
    "Sites",
    "Symmetries",
    "Verification",
    "artifact",
    "cluster",
    "compress",
    "explain",
    "factorize",
    "groups",
    "in_axes",
    "is_compressed",
    "leaf_kind",
    "lift",
    "load",
    "materialize",
    "merge",
    "nnx",
    "observe",
    "pipeline",
    "prune",
    "quantize",
    "report",
    "rotations",
    "save",
    "search",
    "sequential",
    "shardings",
    "shrink",
    "sites",
    "split_trainable",
    "stored_bytes",
    "symmetries",
    "train",
    "untie",
    "verify",
]

# Imported at their first use: what brings a library of its own (optax, matplotlib, Flax). The rooms above register the
# leaf kinds, which files and `jax.export` find by name, and bring none.
_ROOMS = ("pipeline", "report", "search", "train")
_VERBS = {"Recipe": "pipeline", "compress": "pipeline", "nnx": "adapters.nnx"}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _VERBS:
        home = importlib.import_module(f"{__name__}.{_VERBS[name]}")
        return home if name == "nnx" else getattr(home, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS, *_VERBS})
