"""A registry of what is loaded beside a model, by name, in the order of loading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TypeVar

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """A registry by name, in order. A change makes a new dict, so readers are not disturbed.

    Not thread-safe: the pipeline serialises what changes it.
    """

    def __init__(self) -> None:
        self._known: Mapping[str, T] = {}

    def __getitem__(self, name: str) -> T:
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def frozen(self) -> Mapping[str, T]:
        """The present entries; later changes do not reach them."""
        return MappingProxyType(self._known)

    def _put(self, name: str, value: T) -> None:
        self._known = {**self._known, name: value}

    def _remove(self, name: str) -> None:
        self._known = {key: value for key, value in self._known.items() if key != name}
