"""What is loaded beside a model, by name, and all of it as it is at one moment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from ipa.contract.model import ModelFolder
from ipa.prepare.tokenizer import ClipTokenizer

if TYPE_CHECKING:
    from ipa.adapters import AttachedAdapter
    from ipa.controls import AttachedControlNet
    from ipa.loras import AttachedLora
    from ipa.prepare.textual_inversion import Inversions

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """In the order of loading. A change makes a new dict: who reads the old one is not disturbed.

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
        """What is loaded now; later changes do not reach it."""
        return MappingProxyType(self._known)

    def _put(self, name: str, value: T) -> None:
        self._known = {**self._known, name: value}

    def _remove(self, name: str) -> None:
        self._known = {key: value for key, value in self._known.items() if key != name}


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A model and what is loaded beside it at one moment, which is all that a plan is made of.

    What the backend holds of it is in the backend's own `frozen()`. Without adapters and the like
    it is what is known of a model before its weights are read.
    """

    model: ModelFolder
    tokenizers: tuple[ClipTokenizer, ...]
    adapters: Mapping[str, AttachedAdapter] = field(default_factory=dict)
    controlnets: Mapping[str, AttachedControlNet] = field(default_factory=dict)
    loras: Mapping[str, AttachedLora] = field(default_factory=dict)
    lora_folder: Path | None = None
    inversions: Inversions | None = None
