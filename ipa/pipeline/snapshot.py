"""A snapshot of a model and what is loaded beside it: all that a plan is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ipa.memory.limits import Limits
from ipa.model.folder import ModelFolder
from ipa.prepare.text.tokenizer import ClipTokenizer

if TYPE_CHECKING:
    from ipa.prepare.controls.planning import AttachedControl
    from ipa.prepare.image_prompts.attached import AttachedAdapter

    from .loras import AttachedLora
    from .words import Inversions


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
