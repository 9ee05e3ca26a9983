"""A snapshot of a model and what is loaded beside it: all that a plan is made of."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ipa.memory.limits import Limits
from ipa.model.folder import ModelFolder
from ipa.prepare.text.tokenizer import ClipTokenizer

if TYPE_CHECKING:
    from ipa.prepare.controls.planning import AttachedControl
    from ipa.prepare.image_prompts.attached import AttachedAdapter

    from .loras import AttachedLora
    from .words import Inversions

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A snapshot of a model and what is loaded beside it, which is all that a plan is made of.

    What the backend holds of it is in the backend's own `frozen()`. Without adapters and the like
    it is what is known of a model before its weights are read.
    """

    model: ModelFolder
    tokenizers: tuple[ClipTokenizer, ...]
    adapters: Mapping[str, AttachedAdapter] = field(default_factory=dict)
    controlnets: Mapping[str, AttachedControl] = field(default_factory=dict)
    loras: Mapping[str, AttachedLora] = field(default_factory=dict)
    lora_folder: Path | None = None
    inversions: Inversions | None = None
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The names of what a call sees of all that is loaded."""

    adapters: Collection[str] = ()
    controlnets: Collection[str] = ()
    loras: Collection[str] = ()
    textual_inversions: Collection[str] = ()

    def of(self, loaded: Snapshot) -> Snapshot:
        """A snapshot without the rest; words that came with a LoRA stay where it does."""
        inversions = loaded.inversions
        if inversions is not None:
            inversions = inversions.only(self.textual_inversions, self.loras)
        return replace(
            loaded,
            tokenizers=loaded.tokenizers if inversions is None else inversions.tokenizers,
            adapters=_chosen(loaded.adapters, self.adapters),
            controlnets=_chosen(loaded.controlnets, self.controlnets),
            loras=_chosen(loaded.loras, self.loras),
            inversions=inversions,
        )


def _chosen(loaded: Mapping[str, T], names: Collection[str]) -> dict[str, T]:
    return {name: value for name, value in loaded.items() if name in names}
