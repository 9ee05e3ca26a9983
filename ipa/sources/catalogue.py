"""The public IP-Adapters by short names: where each lies, and which image encoder it needs.

Repositories and files as their authors publish them (huggingface.co, h94 and ostris). Files of one
structure cannot be told apart by their content, so a name says what a person wants: plus, plus-face
and composition adapters have the same shapes.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from ipa.errors import CheckpointError

_ORIGINAL, _FACE = "h94/IP-Adapter", "h94/IP-Adapter-FaceID"
_VIT_H, _BIGG = "models/image_encoder", "sdxl_models/image_encoder"


@dataclass(frozen=True, slots=True)
class PublicAdapter:
    """A published adapter's file.

    Attributes:
        base: The base model that it is for.
        path: Its path in the repository.
        about: What it is good for.
        megabytes: The size of its file.
        encoder: Folder of its image encoder in `h94/IP-Adapter`; None where it needs none.
        repository: Where it lies.
    """

    base: str
    path: str
    about: str
    megabytes: float
    encoder: str | None = _VIT_H
    repository: str = _ORIGINAL

    @property
    def is_faceid(self) -> bool:
        """Whether it is a FaceID file, whose tensors do not tell its kind but whose name does."""
        return self.repository == _FACE

    @property
    def encoder_repository(self) -> str:
        """Where its image encoder lies: the original repository has the only copies."""
        return _ORIGINAL


ADAPTERS: Mapping[str, PublicAdapter] = {
    "base-sd15": PublicAdapter(
        "SD1.5", "models/ip-adapter_sd15.safetensors", "likeness as a whole", 44.6
    ),
    "light-sd15": PublicAdapter(
        "SD1.5", "models/ip-adapter_sd15_light_v11.bin", "weaker, leaves more to the words", 44.6
    ),
    "vit-g-sd15": PublicAdapter(
        "SD1.5",
        "models/ip-adapter_sd15_vit-G.safetensors",
        "base, with the larger encoder",
        46.2,
        _BIGG,
    ),
    "plus-sd15": PublicAdapter(
        "SD1.5", "models/ip-adapter-plus_sd15.safetensors", "closer, with fine detail", 98.2
    ),
    "plus-face-sd15": PublicAdapter(
        "SD1.5", "models/ip-adapter-plus-face_sd15.safetensors", "cropped faces", 98.2
    ),
    "full-face-sd15": PublicAdapter(
        "SD1.5", "models/ip-adapter-full-face_sd15.safetensors", "cropped faces, stronger", 43.6
    ),
    "composition-sd15": PublicAdapter(
        "SD1.5",
        "ip_plus_composition_sd15.safetensors",
        "layout without style",
        98.2,
        repository="ostris/ip-composition-adapter",
    ),
    "base-sdxl": PublicAdapter(
        "SDXL", "sdxl_models/ip-adapter_sdxl.safetensors", "likeness as a whole", 702.6, _BIGG
    ),
    "vit-h-sdxl": PublicAdapter(
        "SDXL",
        "sdxl_models/ip-adapter_sdxl_vit-h.safetensors",
        "base, with the smaller encoder",
        698.4,
    ),
    "plus-sdxl": PublicAdapter(
        "SDXL",
        "sdxl_models/ip-adapter-plus_sdxl_vit-h.safetensors",
        "closer, with fine detail",
        847.5,
    ),
    "plus-face-sdxl": PublicAdapter(
        "SDXL", "sdxl_models/ip-adapter-plus-face_sdxl_vit-h.safetensors", "cropped faces", 847.5
    ),
    "composition-sdxl": PublicAdapter(
        "SDXL",
        "ip_plus_composition_sdxl.safetensors",
        "layout without style",
        847.5,
        repository="ostris/ip-composition-adapter",
    ),
    "faceid-sd15": PublicAdapter(
        "SD1.5", "ip-adapter-faceid_sd15.bin", "a person's identity", 96.7, None, _FACE
    ),
    "faceid-plus-sd15": PublicAdapter(
        "SD1.5", "ip-adapter-faceid-plus_sd15.bin", "identity and face", 156.6, repository=_FACE
    ),
    "faceid-plusv2-sd15": PublicAdapter(
        "SD1.5",
        "ip-adapter-faceid-plusv2_sd15.bin",
        "identity, face by weight",
        156.6,
        repository=_FACE,
    ),
    "faceid-portrait-sd15": PublicAdapter(
        "SD1.5", "ip-adapter-faceid-portrait-v11_sd15.bin", "several faces", 64.6, None, _FACE
    ),
    "faceid-sdxl": PublicAdapter(
        "SDXL", "ip-adapter-faceid_sdxl.bin", "a person's identity", 1071, None, _FACE
    ),
    "faceid-plusv2-sdxl": PublicAdapter(
        "SDXL",
        "ip-adapter-faceid-plusv2_sdxl.bin",
        "identity, face by weight",
        1487,
        repository=_FACE,
    ),
    "faceid-portrait-sdxl": PublicAdapter(
        "SDXL", "ip-adapter-faceid-portrait_sdxl.bin", "several faces", 749.8, None, _FACE
    ),
    "faceid-portrait-unnorm-sdxl": PublicAdapter(
        "SDXL",
        "ip-adapter-faceid-portrait_sdxl_unnorm.bin",
        "several faces, closer",
        1009.5,
        None,
        _FACE,
    ),
}
"""The public adapters by short name."""


def find_adapter(name: str) -> PublicAdapter:
    """Look a public adapter up. Raises CheckpointError that names the nearest if there is none."""
    if name in ADAPTERS:
        return ADAPTERS[name]
    nearest = difflib.get_close_matches(name, ADAPTERS, n=1)
    guess = f"did you mean {nearest[0]!r}? " if nearest else ""
    raise CheckpointError(
        f"{name}: neither a file here nor a public adapter",
        remedy=f"{guess}Known: {', '.join(ADAPTERS)}; or a path, or owner/repository with "
        'weight_name="ip-adapter_sd15.safetensors"',
    )
