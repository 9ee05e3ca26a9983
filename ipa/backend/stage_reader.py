"""Stages read from the values that a backend's methods return."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from ipa.arrays import Array, Floats

from .protocol import ImageTokens
from .text import TextStates


class StageReader(ABC):
    """The base of `ipa.backend.tap.Taps`, given what a backend does with its tensors.

    `runtime` is the backend; `conditioning` the class of what its `condition` gives.
    """

    runtime: Any
    conditioning: ClassVar[type]

    @abstractmethod
    def floats(self, array: Array) -> Floats:
        """A tensor as a numpy array."""

    @abstractmethod
    def like(self, array: Array, floats: Floats) -> Array:
        """Numbers as a tensor in the shape, precision and place of another."""

    @abstractmethod
    def of_map(self, array: Array) -> Floats:
        """Latents or a picture as (…, C, H, W)."""

    @abstractmethod
    def map_like(self, array: Array, floats: Floats) -> Array:
        """The inverse of `of_map`, in the precision of a tensor."""

    @abstractmethod
    def merged(self, array: Array) -> Floats:
        """Merge heads: (B, heads, L, d) to (B, L, C)."""

    @abstractmethod
    def split(self, array: Array, floats: Floats) -> Array:
        """Split heads: the inverse of `merged`, in the precision of a tensor."""

    def read(self, value: Any) -> dict[str, Floats]:
        """See `Taps.read`."""
        if isinstance(value, self.conditioning):
            return dict(self._conditioning(value))
        if isinstance(value, TextStates | ImageTokens):
            return {name: self.floats(array) for name, array in _fields(value).items()}
        return {"": self.of_map(value)}

    def written(self, value: Any, arrays: Mapping[str, Floats]) -> Any:
        """See `Taps.written`."""
        if isinstance(value, self.conditioning):
            changed: Any = value
            return replace(changed, images=tuple(self._images(value, arrays)))
        if isinstance(value, TextStates | ImageTokens):
            fields = _fields(value)
            return replace(
                value, **{name: self.like(fields[name], a) for name, a in arrays.items()}
            )
        return self.map_like(value, arrays[""])

    def _conditioning(self, value: Any) -> Iterator[tuple[str, Floats]]:
        for head, pair in self._pairs(value):
            yield f"{head}.to_k", self.merged(pair.keys)
            yield f"{head}.to_v", self.merged(pair.values)
            if pair.mask is not None:
                yield f"{head}.mask", self.floats(pair.mask)[:, 0]

    def _images(self, value: Any, arrays: Mapping[str, Floats]) -> Iterator[tuple[Any, ...]]:
        changed = [self._changed(pair, head, arrays) for head, pair in self._pairs(value)]
        count = len(self.runtime.model.sites)
        for first in range(0, len(changed), count):
            yield tuple(changed[first : first + count])

    def _pairs(self, value: Any) -> Iterator[tuple[str, Any]]:
        for number, pairs in enumerate(value.images):
            for site, pair in zip(self.runtime.model.sites, pairs, strict=True):
                yield f"image.{number}.{site.path}", pair

    def _changed(self, pair: Any, head: str, arrays: Mapping[str, Floats]) -> Any:
        instead: dict[str, Array] = {}
        for part, field in (("to_k", "keys"), ("to_v", "values")):
            if f"{head}.{part}" in arrays:
                instead[field] = self.split(getattr(pair, field), arrays[f"{head}.{part}"])
        if f"{head}.mask" in arrays:
            instead["mask"] = self.like(pair.mask, arrays[f"{head}.mask"][:, None])
        return replace(pair, **instead)


def control_stage(kind: str, name: str) -> str:
    """The name in stages of a control, by its kind, "controlnet" or "t2i_adapter", and its own."""
    return f"{kind}." + re.sub(r"\W", "_", name)


def _fields(value: TextStates | ImageTokens) -> dict[str, Array]:
    is_text = isinstance(value, TextStates)
    names = ("states", "pooled") if is_text else ("conditional", "unconditional")
    return {name: array for name in names if (array := getattr(value, name)) is not None}
