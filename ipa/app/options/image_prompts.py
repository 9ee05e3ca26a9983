"""Image prompts built from the options of a command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ipa.request.image_prompt import ImagePrompt

from . import pictures as look
from .faces import with_faces
from .parsing import parse_image_prompt, with_scaling, with_weights
from .pictures import Encoding, with_encoding, with_masks


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptOptions:
    """The options about image prompts, named as parameters; None or 0 where not typed."""

    image_prompt: Sequence[str] | None
    face: Sequence[str] | None
    fit: str | None
    sharpen: float
    negative_image: str | None
    show_reference: Path | None
    encoder_mask: Sequence[str] | None
    enhance_tiles: int
    enhance_ratio: float
    neg_content_prompt: str | None
    neg_content_scale: float
    mask: Sequence[str] | None
    mask_fit: str | None
    layers: Sequence[str] | None
    curve: Sequence[str] | None
    embeds_scaling: Sequence[str] | None

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> PromptOptions:
        """Take the options about image prompts from a command's parameters."""
        return cls(**{field.name: parameters[field.name] for field in fields(cls)})

    def prompts(self) -> tuple[ImagePrompt, ...]:
        """Build the image prompts, in order. Raises RequestError for a meaningless option."""
        prompts = [parse_image_prompt(text) for text in self.image_prompt or ()]
        prompts = with_faces(prompts, self.face or ())
        look.check(self.show_reference, prompts)
        shown = look.apply(prompts, self.fit, self.sharpen, self.negative_image)
        encoding = Encoding(
            self.enhance_tiles,
            self.enhance_ratio,
            self.neg_content_prompt,
            self.neg_content_scale,
        )
        shown = with_encoding(shown, self.encoder_mask or (), encoding)
        masked = with_masks(shown, self.mask or (), self.mask_fit)
        weighted = with_weights(masked, self.layers or (), self.curve or ())
        return with_scaling(weighted, self.embeds_scaling or ())
