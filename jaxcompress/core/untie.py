"""`untie`: a parameter that is looked up and contracted becomes two, in a function whose code stays as it is."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcompress.core.explain import explain
from jaxcompress.core.leaf import CompressedArray, is_compressed
from jaxcompress.core.lift import lift
from jaxcompress.core.paths import flatten_with_paths, replace_at
from jaxcompress.core.sites import sites

UNTIED = "untied"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class _Untied(CompressedArray):
    """A table whose rows are looked up, and what stands for it in products. It never leaves `untie`.

    ``head`` is a kernel of the table's shape; or, with ``mixed``, a square matrix that is put before the table along
    that axis of it.
    """

    kind = "untied"
    table: jax.Array
    head: jax.Array
    mixed: int | None = dataclasses.field(default=None, metadata={"static": True})

    @property
    def dtype(self) -> np.dtype:
        return self.table.dtype

    def alignment(self) -> Mapping[str, tuple[int | None, ...]]:
        axes = tuple(range(len(self.table.shape)))
        return {"table": axes, "head": axes if self.mixed is None else (None, None)}

    def materialize(self) -> jax.Array:
        return self.table

    def map_axis(self, axis: int, fn: Any) -> None:
        return None  # a lookup takes rows of the table alone; what is cut and then contracted, `untie` refuses

    def lookup(self, indices: jax.Array, axis: int) -> jax.Array:
        return jnp.take(self.table, indices, axis=axis, mode="clip")

    def matmul(
        self,
        x: jax.Array,
        *,
        contract: tuple[tuple[int, ...], tuple[int, ...]],
        batch: tuple[tuple[int, ...], tuple[int, ...]],
        precision: Any = None,
        preferred_element_type: Any = None,
    ) -> jax.Array:
        kernel = self.head
        if self.mixed is not None:
            kernel, at = self.table, contract[0][contract[1].index(self.mixed)]
            x = jnp.moveaxis(lax.dot_general(x, self.head, (((at,), (0,)), ((), ())), precision=precision), -1, at)
        return lax.dot_general(
            x, kernel, (contract, batch), precision=precision, preferred_element_type=preferred_element_type
        )


jax.tree_util.register_dataclass(_Untied, ["table", "head"], ["mixed"])


def untie(
    fn: Callable[..., Any],
    params: Any,
    path: str,
    *inputs: Any,
    head: Literal["copy", "matrix"] = "copy",
    **kwargs: Any,
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Gives a tied embedding something of its own in front of the head: ``(fn, params)`` that compute the same.

    What is looked up in the parameter stays where it is. Contractions with it (the tied head) take a copy; or, with
    ``head="matrix"``, the parameter as it is, behind a product with a square matrix that begins as the identity: a few
    numbers in place of a second table. Copy or matrix stand at ``untied/<path>`` in the new tree. A gain in front of
    the head can be folded into either (`jaxcompress.rotations`), and each be compressed in its own way. The code of
    ``fn`` is not changed: its trace is evaluated with another product.

    Args:
        fn: a function that ``jit`` accepts, with the parameters first.
        params: its parameters: a dict at the top. Not changed.
        path: of a parameter that is looked up and contracted.
        *inputs: further positional arguments of ``fn``; may be `jax.ShapeDtypeStruct`.
        head: ``"copy"`` or ``"matrix"``.
        **kwargs: keyword arguments of ``fn``.

    Returns:
        ``(fn, params)``: the function takes the new tree, which is the old one and ``{"untied": {path: head}}``.

    Raises:
        TypeError: if ``params`` is no dict, or the parameter is a compressed leaf.
        ValueError: if there is no such path, ``head`` is another word, or the parameter is not both looked up and
            contracted (along one axis, for a matrix), or is used in other ways too.

    Example:
        >>> def fn(p, tokens):
        ...     return p["emb"][tokens] @ p["emb"].T
        >>> apart, params = untie(fn, {"emb": jnp.eye(3)}, "emb", jnp.arange(3))
        >>> sorted(params), apart(params | {"untied": {"emb": 2 * jnp.eye(3)}}, jnp.arange(2)).tolist()
        (['emb', 'untied'], [[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]])

    References:
        Press and Wolf, 2017 (what is undone). https://arxiv.org/abs/1608.05859
    """
    if head not in ("copy", "matrix"):
        raise ValueError(f"untie: head must be 'copy' or 'matrix', got {head!r}")
    if not isinstance(params, Mapping):
        raise TypeError(f"untie: params must be a dict at the top, got {type(params).__name__}")
    known = _leaves(params)
    if path not in known or path.startswith(f"{UNTIED}/"):
        raise ValueError(f"untie: there is no parameter {path!r} to untie; the paths are {list(known)}")
    if is_compressed(known[path]):
        raise TypeError(f"untie: {path!r} is a {known[path].kind} leaf: untie before compressing")
    mixed = _contracted(fn, params, path, inputs, head, kwargs)
    table = jnp.asarray(known[path])
    own = jnp.array(table) if mixed is None else jnp.eye(table.shape[mixed], dtype=table.dtype)
    before = dict(params.get(UNTIED, {}))
    run = lift(fn)

    @functools.wraps(fn)
    def apart(params: Any, *args: Any, **options: Any) -> Any:
        heads = dict(params[UNTIED])
        leaf = _Untied(_leaves(params)[path], heads.pop(path), mixed)
        tree = {name: value for name, value in params.items() if name != UNTIED} | ({UNTIED: heads} if before else {})
        return run(replace_at(tree, {path: leaf}), *args, **options)

    _check(fn, replace_at(params, {path: _Untied(table, own, mixed)}), path, inputs, kwargs)
    return apart, {**params, UNTIED: {**before, path: own}}


def _contracted(
    fn: Callable[..., Any], params: Any, path: str, inputs: Sequence[Any], head: str, kwargs: Mapping[str, Any]
) -> int | None:
    """The axis before which a matrix goes; None for a copy."""
    met = [site for site in sites(fn, params, *inputs, **kwargs) if site.path == path]
    products = [site for site in met if site.contracting]
    if not products or not any(site.lookup for site in met):
        raise ValueError(
            f"untie: {path!r} must be looked up and contracted; it meets {[site.primitive for site in met]}"
        )
    axes = {site.contracting for site in products}
    if head == "copy":
        return None
    if len(axes) > 1 or len(products[0].contracting) != 1 or products[0].stack:
        raise ValueError(f"untie: {path!r} is contracted along {axes}, and a matrix goes before one axis: head='copy'")
    return products[0].contracting[0]


def _check(fn: Callable[..., Any], tree: Any, path: str, inputs: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Refuses other uses: they would take the table, or a part of it, after all."""
    for line in explain(fn, tree, *inputs, **kwargs):
        if line.path == path and not line.served:
            raise ValueError(
                f"untie: {path!r} meets {line.primitive} at {line.source}; it may be looked up by rows, and contracted "
                "as a whole"
            )


def _leaves(tree: Any) -> dict[str, Any]:
    paths, leaves, _ = flatten_with_paths(tree)
    return dict(zip(paths, leaves, strict=True))
