"""What a whole model is: its networks' specs and where its files lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .sites import Site, cross_attention_sites
from .specs import ClipTextSpec, ClipVisionSpec, VaeSpec
from .unet_spec import UNetSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFolder:
    """A model in diffusers' folder layout, its configs parsed, its weights not yet read.

    `name` is what the user asked for (a hub id, a path, "demo"); `scheduler` is
    scheduler_config.json as it stands; `image_encoder` is None where the folder has none.
    """

    name: str
    path: Path
    variant: str | None
    unet: UNetSpec
    vae: VaeSpec
    text_encoder: ClipTextSpec
    image_encoder: ClipVisionSpec | None
    scheduler: Mapping[str, Any]

    @property
    def sites(self) -> tuple[Site, ...]:
        """The UNet's cross-attention sites, in the order of their numbers."""
        return cross_attention_sites(self.unet)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterFiles:
    """An IP-Adapter's weights and the folder of the image encoder that comes with it, if any.

    `name` is what a person would call it: a short name, or the file's stem.
    """

    name: str
    weights: Path
    image_encoder: Path | None
