"""Model compression for JAX as pure functions over parameter pytrees."""

__version__ = "0.1.0"
