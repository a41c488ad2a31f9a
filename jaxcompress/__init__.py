"""Model compression for JAX as pure functions over parameter pytrees.

A compressed model is the same pytree with some arrays held in another form (`CompressedArray`), and `lift(fn)` runs any
function on it. Methods live in rooms, one namespace per family; what most programs need is here.
"""

from jaxcompress.core.leaf import CompressedArray, is_compressed, leaf_kind

__version__ = "0.1.0"

__all__ = ["CompressedArray", "is_compressed", "leaf_kind"]
