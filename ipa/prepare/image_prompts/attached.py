"""A loaded adapter as a pipeline keeps it, and what an image prompt says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from ipa.backend.protocol import LoadedAdapter
from ipa.errors import RequestError
from ipa.model.folder import AdapterFiles
from ipa.request.faces import FaceEmbedder
from ipa.request.profiles import Profile
from ipa.request.scales import Scale

DefaultScale: TypeAlias = "Scale | tuple[Scale, ...]"
"""The default scale of an adapter; a tuple has one for each picture of a prompt."""


@dataclass(frozen=True, slots=True)
class AttachedAdapter:
    """A loaded adapter as the pipeline keeps it: its files and its default scale.

    `lora_scale` is the strength of the LoRA that its file brings, None for the profile's;
    `face_embedder` finds faces in pictures: both for FaceID adapters.
    """

    files: AdapterFiles
    loaded: LoadedAdapter
    scale: DefaultScale
    lora_scale: float | None = None
    face_embedder: FaceEmbedder | None = None

    @property
    def file(self) -> str:
        """The name of the adapter's file of weights."""
        return self.files.weights.name


def lora_scale(attached: AttachedAdapter, profile: Profile) -> float:
    """The strength of the LoRA in an adapter's file: its own, or the profile's; 0 without one."""
    if not attached.loaded.spec.lora_rank:
        return 0.0
    return profile.face_lora_scale if attached.lora_scale is None else attached.lora_scale


def adapter_name(name: str | None, adapters: Mapping[str, AttachedAdapter]) -> str:
    """The name of a loaded adapter; None is the only one. Raises RequestError if there is none."""
    if name is None and len(adapters) == 1:
        return next(iter(adapters))
    if name in adapters:
        return str(name)
    raise RequestError(
        "an image prompt must name a loaded adapter",
        found=f"{name!r}; loaded: {', '.join(adapters) or 'none'}",
        remedy="load one with load_ip_adapter, and pass ImagePrompt(..., adapter=name)",
    )
