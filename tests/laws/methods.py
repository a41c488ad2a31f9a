"""The table of public tree methods: each with settings that fit a tree of two kernels, and its recipe stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxcompress.prune import Magnitude, magnitude


@dataclasses.dataclass(frozen=True)
class Method:
    """A method ``(params, *, where, sites, **settings) -> params``.

    Attributes:
        fn: the method.
        stage: its recipe stage, a dataclass with the same fields.
        settings: a choice that changes every kernel.
        null: settings under which nothing may change, None if the method has none.
        rejects: settings that must raise a ValueError, with the name that the message must hold.
        traced: True if the method runs under `jit`.
    """

    fn: Callable[..., Any]
    stage: type
    settings: Mapping[str, Any]
    null: Mapping[str, Any] | None
    rejects: Mapping[str, Mapping[str, Any]]
    traced: bool = True


METHODS: dict[str, Method] = {
    "magnitude": Method(
        magnitude,
        Magnitude,
        settings={"sparsity": 0.5},
        null={"sparsity": 0.0},
        rejects={"sparsity": {"sparsity": 1.5}, "scope": {"sparsity": 0.5, "scope": "tree"}},
    ),
    "magnitude_global": Method(
        magnitude,
        Magnitude,
        settings={"sparsity": 0.5, "scope": "global"},
        null={"sparsity": 0.0, "scope": "global"},
        rejects={"sparsity": {"sparsity": -0.1, "scope": "global"}},
    ),
}
