"""Nested variables as values that compare and hash."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


class Variables(Mapping[str, Any]):
    """A dict that does not change, equal where names, order and variables are."""

    def __init__(self, entries: Mapping[str, Any]) -> None:
        self._entries = {name: frozen(entry) for name, entry in entries.items()}

    def __getitem__(self, name: str) -> Any:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Variables):
            return NotImplemented
        return tuple(self._entries.items()) == tuple(other._entries.items())

    def __hash__(self) -> int:
        return hash(tuple(self._entries.items()))

    def __repr__(self) -> str:
        return repr(self._entries)


def frozen(entry: Any) -> Any:
    """Dicts as `Variables`; everything else as it is."""
    return Variables(entry) if isinstance(entry, Mapping) and not isinstance(entry, Variables) else entry
