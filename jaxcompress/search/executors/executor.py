"""What carries out the evaluation of a whole population, and the names of the ready-made ones."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import jax

One: TypeAlias = "Callable[[Any, Any], Any]"
Population: TypeAlias = "Callable[[Any, Any, Any], Any]"


class Executor(abc.ABC):
    """How candidates are evaluated: one after another, side by side, on many devices. Subclass it for ways of your own.

    What it is given is ``one(item, shared) -> results``: a pure function of one candidate (any pytree of arrays) and of
    what all candidates share (the data). It makes of it a function of many, ``population(items, count, shared)``, where
    every array of ``items`` leads with ``n`` and ``count`` is an int32 of at most ``n``. The results lead with ``n``
    too; only the first ``count`` of them are read, so the other candidates need not be evaluated.

    Attributes:
        traced: whether the function of many is one program, which `jit` accepts; ``count`` is then traced.
    """

    traced: bool = True

    @abc.abstractmethod
    def population(self, one: One) -> Population:
        """The function of many candidates that ``one`` is the function of one of."""

    def place(self, tree: Any) -> Any:
        """Puts arrays where the program reads them; what is shared is placed once."""
        return jax.device_put(tree)


def length(items: Any) -> int:
    """The length of the leading axis that all arrays share.

    Raises:
        ValueError: if there are no arrays, or they do not agree.

    Example:
        >>> length({"a": jnp.zeros((3, 2)), "b": jnp.zeros(3)})
        3
    """
    shapes = [leaf.shape for leaf in jax.tree.leaves(items)]
    if () in shapes or len({shape[0] for shape in shapes if shape}) != 1:
        raise ValueError(f"every array of a population leads with the number of candidates, got shapes {shapes}")
    return shapes[0][0]


def describe(executor: Executor) -> str:
    """Its name and settings, as it is called in reports.

    Example:
        >>> from jaxcompress.search.executors import Chunked
        >>> describe(Chunked(8))
        'chunked(8)'
    """
    name = type(executor).__name__.lower()
    if not dataclasses.is_dataclass(executor):
        return name
    settings = [getattr(executor, field.name) for field in dataclasses.fields(executor)]
    told = ", ".join(str(setting) for setting in settings if isinstance(setting, int | float | str))
    return f"{name}({told})" if told else name
