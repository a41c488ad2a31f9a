"""What the pruning transformations share: which leaves they act on, and masks as a tree beside the parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import optax

from jaxcompress.core.leaf import is_compressed
from jaxcompress.core.parts import Part, find_parts
from jaxcompress.core.paths import Where, flatten_with_paths
from jaxcompress.prune.masked import takes_mask

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites


@dataclasses.dataclass(frozen=True)
class Selection:
    """The leaves that a transformation prunes.

    Attributes:
        method: its name, for errors.
        where: which leaves; None takes what ``sites`` show as weights, or the float leaves of two axes or more.
        sites: what `jaxcompress.sites` found.
        settings: if a dict from globs to settings, only the leaves that fit one of the globs.
    """

    method: str
    where: Where = None
    sites: Sites | None = None
    settings: Any = None

    def parts(self, params: Any) -> list[Part]:
        """One part per chosen leaf, in tree order; none of a tree without arrays (a label of `optax.partition`).

        Raises:
            ValueError: if ``where`` or a glob fits nothing.
            TypeError: if a chosen leaf is compressed, or not float.
        """
        if not jax.tree.leaves(params):
            return []
        selection = {"where": self.where, "sites": self.sites, "settings": self.settings}
        parts = find_parts(params, method=self.method, whole=takes_mask, **selection)
        compressed = [part.path for part in parts if part.fields or is_compressed(part.array)]
        if compressed:
            raise TypeError(
                f"{self.method} prunes plain arrays, {compressed[0]!r} is compressed: materialize it, or where="
            )
        return parts


def beside(params: Any, by_path: Mapping[str, Any]) -> Any:
    """A tree of the structure of ``params``, `optax.MaskedNode` at the paths that ``by_path`` does not have.

    Example:
        >>> beside({"w": jnp.ones(2), "b": jnp.ones(1)}, {"w": "mask"})
        {'b': MaskedNode(), 'w': 'mask'}
    """
    paths, _, treedef = flatten_with_paths(params)
    return jax.tree.unflatten(treedef, [by_path.get(path, optax.MaskedNode()) for path in paths])


def by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by path, holes left out: of masks, the inverse of `beside`.

    Example:
        >>> by_path({"b": optax.MaskedNode(), "w": 1})
        {'w': 1}
    """
    paths, leaves, _ = flatten_with_paths(tree)
    return dict(zip(paths, leaves, strict=True))


def require_params(params: Any, method: str) -> None:
    """Raises ValueError if ``update`` was called without the parameters."""
    if params is None:
        raise ValueError(f"{method} needs the parameters: call update(updates, state, params)")
