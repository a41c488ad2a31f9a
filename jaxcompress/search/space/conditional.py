"""Variables that exist only where another variable has a certain value."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxcompress.search.space.structure import frozen
from jaxcompress.search.space.variables import plain


@dataclasses.dataclass(frozen=True)
class Conditional:
    """A variable, or a dict of them, that exists only where another one has a given value.

    Where it does not exist its genes are zero (so that equal candidates have equal genes), it decodes to its first
    value, and it is left out of a `config`.

    Args:
        inside: the variable, dict of variables, `Repeated` or another `Conditional`.
        on: path of the discrete variable it depends on, ``/``-joined; looked for beside this variable first, then
            outwards. Elements of a `Repeated` are ``name/0``, ``name/1``; a variable number of them is ``name/count``.
        equals: the value, or a tuple of values, at which it exists.

    Raises:
        TypeError: if ``on`` is no path. Whether there is such a variable, and such values, `Space` checks.

    Example:
        >>> from jaxcompress.search.space import Choice, Float, Space
        >>> momentum = Conditional(Float(0.0, 0.99), on="optimizer", equals="sgd")
        >>> space = Space({"optimizer": Choice(("sgd", "adam")), "momentum": momentum})
        >>> space.config(space.encode({"optimizer": "adam"}))
        {'optimizer': 'adam'}
    """

    inside: Any
    on: str
    equals: Any

    def __post_init__(self) -> None:
        equals = sorted(self.equals, key=repr) if isinstance(self.equals, set | frozenset) else self.equals
        object.__setattr__(self, "equals", plain(equals))
        object.__setattr__(self, "inside", frozen(self.inside))
        if not isinstance(self.on, str) or not self.on:
            raise TypeError(f"Conditional(on=) must be the path of a variable, got {self.on!r}")
