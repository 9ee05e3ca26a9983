"""A whole model: its networks' specs and where its files lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .clip import ClipTextSpec, ClipVisionSpec
from .ignoring import NOTHING, Ignore
from .sites import Site, cross_attention_sites
from .unet import UNetSpec
from .vae import VaeSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class SingleFile:
    """A file that holds a whole model without its configs.

    Attributes:
        path: The file.
        vocabulary: Folder with the tokenizer's words.
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
class OtherVae:
    """An autoencoder in place of the model's own.

    Attributes:
        name: What the user called it.
        path: A folder with config.json, or a file, which has the structure of the model's own.
    """

    name: str
    path: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFolder:
    """A model in diffusers' folder layout, its configs parsed, its weights not yet read.

    `name` is what the user asked for (a hub id, a path, "demo"); `scheduler` is
    scheduler_config.json as it stands; `text_encoder_2` and `image_encoder` are None where the
    model has none. `force_zeros_for_empty_prompt` is model_index.json's: zeros stand for a negative
    prompt that is not given. With `single_file` the folder holds configs alone, and the file the
    weights. With `other_vae` the weights of the VAE lie there, and `vae` is its spec. `ignore`
    names tensors in the files that no network knows and that may be left out. `plain` are
    components that have no files of the variant, whose plain files are taken. `warnings` are what
    reading the folder's configs left to say, but for those of its networks.
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
    force_zeros_for_empty_prompt: bool = False
    single_file: SingleFile | None = None
    other_vae: OtherVae | None = None
    ignore: Ignore = NOTHING
    plain: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = ()

    def variant_of(self, component: str) -> str | None:
        """The variant of a component's own weights."""
        return None if component in self.plain else self.variant

    @property
    def notes(self) -> tuple[str, ...]:
        """Warnings about how the model was read."""
        networks = (self.unet, self.vae, self.text_encoder, self.text_encoder_2, self.image_encoder)
        return (
            *(self.single_file.notes if self.single_file else ()),
            *self.warnings,
            *(text for spec in networks if spec is not None for text in spec.unread),
        )

    @property
    def is_xl(self) -> bool:
        """Whether it is SDXL: two text encoders, whose pooled text and sizes its UNet is told."""
        return self.text_encoder_2 is not None

    @property
    def overflows_in_float16(self) -> bool:
        """Whether its VAE needs float32 where the rest has float16; bfloat16 is wide enough.

        Configs of Stable Diffusion 1.x say force_upcast too, and diffusers heeds it in SDXL alone.
        """
        return self.is_xl and self.vae.force_upcast

    @property
    def sites(self) -> tuple[Site, ...]:
        """The UNet's cross-attention sites, in the order of their numbers."""
        return cross_attention_sites(self.unet)

    @property
    def vocabulary(self) -> Path | None:
        """The folder of the tokenizer's vocabulary, if not its own."""
        return self.single_file.vocabulary if self.single_file else None


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterFiles:
    """An IP-Adapter's weights and the image encoder that comes with it, if any: a folder or a file.

    `name` is what a person would call it: a short name, or the file's stem. `kind` is what its
    tensors do not tell (`ipa.model.adapter_kinds`), if a person told it. `ignore` names tensors
    in the file that may be left out. `encoders_nearby` is a folder in which an encoder that fits is
    looked for where there is none else.
    """

    name: str
    weights: Path
    image_encoder: Path | None
    encoders_nearby: Path | None = None
    kind: str | None = None
    ignore: Ignore = NOTHING
