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
class SingleFile:
    """A file that holds a whole model without its configs.

    Attributes:
        path: The file.
        vocabulary: Folder with the tokenizer's vocab.json and merges.txt.
        changes: What differs from the configs in the model's folder: values by key, by the config's
            path in the folder.
        notes: What was decided that the file does not tell, in words.
        ema: Whether the UNet's averaged weights are wanted, which training checkpoints also hold.
    """

    path: Path
    vocabulary: Path
    changes: Mapping[str, Mapping[str, Any]]
    notes: tuple[str, ...] = ()
    ema: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFolder:
    """A model in diffusers' folder layout, its configs parsed, its weights not yet read.

    `name` is what the user asked for (a hub id, a path, "demo"); `scheduler` is
    scheduler_config.json as it stands; `text_encoder_2` and `image_encoder` are None where the
    model has none. With `single_file` the folder holds configs alone, and the file the weights.
    """

    name: str
    path: Path
    variant: str | None
    unet: UNetSpec
    vae: VaeSpec
    text_encoder: ClipTextSpec
    image_encoder: ClipVisionSpec | None
    scheduler: Mapping[str, Any]
    text_encoder_2: ClipTextSpec | None = None
    single_file: SingleFile | None = None

    @property
    def sites(self) -> tuple[Site, ...]:
        """The UNet's cross-attention sites, in the order of their numbers."""
        return cross_attention_sites(self.unet)

    @property
    def vocabulary(self) -> Path | None:
        """Where the tokenizer's words lie, if not in its own folder."""
        return self.single_file.vocabulary if self.single_file else None


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterFiles:
    """An IP-Adapter's weights and the folder of the image encoder that comes with it, if any.

    `name` is what a person would call it: a short name, or the file's stem.
    """

    name: str
    weights: Path
    image_encoder: Path | None
