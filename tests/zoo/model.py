"""What an entry of the zoo is, and how its parameters are filled without compiling an initializer per shape."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class ZooModel:
    """``fn(params, *inputs, **kwargs)`` is the model.

    Attributes:
        name: as in the entry.
        fn: any function that `jax.jit` accepts once its non-array arguments are static.
        params: the whole tree of variables.
        inputs: positional inputs; axis 0 of every one is the batch unless the entry has the tag ``no_batch``.
        kwargs: keyword arguments, arrays or static values.
        weights: path of every contraction weight or embedding, and one letter for each of its axes as the function uses
            it: ``s`` stack (a scan's layers, batch axes of a product), ``i`` contracted, ``o`` output, ``l`` looked up.
            A weight with several uses that read its axes differently has a ``/`` between the readings: ``"lo/oi"``.
    """

    name: str
    fn: Callable[..., Any]
    params: Any
    inputs: tuple[Any, ...]
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    weights: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model that is built when asked for.

    Attributes:
        name: unique in the zoo; its first part, up to ``_``, is the family.
        factory: returns ``(fn, params, inputs)``, or these and a dict with ``kwargs`` and ``weights``.
        tags: what tests must know before they build it. ``x64``; ``data``: needs the data folder; ``relaxed``:
            third-party code that promotes dtypes or ranks; ``no_grad``, ``no_vmap``, ``no_export``: JAX itself refuses
            that for the dense model; ``no_batch``: axis 0 of the inputs is no batch; ``effects``: prints or calls back.
    """

    name: str
    factory: Callable[[], Any]
    tags: frozenset[str] = frozenset()

    @property
    def family(self) -> str:
        return self.name.partition("_")[0]

    @functools.cached_property
    def model(self) -> ZooModel:
        with self.context():
            fn, params, inputs, more = self.factory()
        return ZooModel(self.name, fn, params, inputs, **more)

    @contextlib.contextmanager
    def context(self) -> Iterator[None]:
        """The configuration of JAX that the model needs."""
        with contextlib.ExitStack() as stack:
            if "x64" in self.tags:
                stack.enter_context(jax.enable_x64(True))
            if "relaxed" in self.tags:
                stack.enter_context(jax.numpy_dtype_promotion("standard"))
                stack.enter_context(jax.numpy_rank_promotion("allow"))
            yield


def entry(name: str, factory: Callable[[], Any], *tags: str) -> Entry:
    """An entry with the given tags."""
    return Entry(name, factory, frozenset(tags))


def fill(shapes: Any, seed: int = 0) -> Any:
    """Numbers for a tree of `jax.ShapeDtypeStruct`, drawn by NumPy: sane scales, nothing that is exactly zero or one.

    Matrices are normal with variance 1 / (size / last axis), scales and variances near one, biases small.
    """
    random = np.random.RandomState(seed)

    def draw(path: Any, leaf: Any) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(seed)
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.zeros(leaf.shape, leaf.dtype)
        noise = random.standard_normal(leaf.shape)
        name = jax.tree_util.keystr(path).lower()
        if "scale" in name or "var" in name:
            values = 1 + 0.2 * np.abs(noise)
        elif noise.ndim < 2:
            values = 0.1 * noise
        else:
            values = noise / np.sqrt(noise.size / noise.shape[-1])
        return jnp.asarray(values, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def arrays(seed: int = 0, dtype: Any = jnp.float32, **shapes: tuple[int, ...]) -> dict[str, jax.Array]:
    """A dict of filled arrays by shape."""
    return fill({name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in shapes.items()}, seed)


def data(*shape: int, seed: int = 1, dtype: Any = jnp.float32) -> jax.Array:
    """Standard normal input."""
    return jnp.asarray(np.random.RandomState(seed).standard_normal(shape), dtype)


def ids(*shape: int, below: int, seed: int = 2) -> jax.Array:
    """Token indices."""
    return jnp.asarray(np.random.RandomState(seed).randint(0, below, shape), jnp.int32)


def linen(module: Any, *inputs: Any, weights: Mapping[str, str], **kwargs: Any) -> Any:
    """Factory result for a Linen module: its variables filled from the abstract ``init``."""
    shapes = jax.eval_shape(functools.partial(module.init, **_init_kwargs(kwargs)), jax.random.key(0), *inputs)
    return module.apply, fill(shapes), inputs, {"kwargs": kwargs, "weights": weights}


def _init_kwargs(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name not in ("mutable", "rngs")}
