"""Well-known public models by short names, and what to say where a name leads nowhere.

Repositories as their authors publish them (huggingface.co). In float16 where there are such files:
half the bytes. By its repository's name a model comes as it is stored.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class PublicModel:
    """A published model: where it lies, its base, what it is good for, which files to take."""

    repository: str
    base: str
    about: str
    variant: str | None = None

    @property
    def megabytes(self) -> int | None:
        """The size of its weights in float16, by their shapes; None where they are as stored."""
        return {"SD1.5": 2133, "SDXL": 6938}[self.base] if self.variant == "fp16" else None


MODELS: Mapping[str, PublicModel] = {
    "sd15": PublicModel(
        "stable-diffusion-v1-5/stable-diffusion-v1-5", "SD1.5", "the base model", "fp16"
    ),
    "sd15-inpainting": PublicModel(
        "stable-diffusion-v1-5/stable-diffusion-inpainting", "SD1.5", "parts made anew", "fp16"
    ),
    "dreamshaper": PublicModel("Lykon/dreamshaper-8", "SD1.5", "painting, fantasy", "fp16"),
    "realistic-vision": PublicModel(
        "SG161222/Realistic_Vision_V5.1_noVAE", "SD1.5", "photos, people"
    ),
    "lcm-dreamshaper": PublicModel(
        "SimianLuo/LCM_Dreamshaper_v7", "SD1.5", "pictures in 4 to 8 steps"
    ),
    "sdxl": PublicModel(
        "stabilityai/stable-diffusion-xl-base-1.0", "SDXL", "the base model", "fp16"
    ),
    "sdxl-turbo": PublicModel("stabilityai/sdxl-turbo", "SDXL", "pictures in 1 to 4 steps", "fp16"),
    "sdxl-inpainting": PublicModel(
        "diffusers/stable-diffusion-xl-1.0-inpainting-0.1", "SDXL", "parts made anew", "fp16"
    ),
    "realvisxl": PublicModel("SG161222/RealVisXL_V4.0", "SDXL", "photos, people"),
    "animagine": PublicModel("cagliostrolab/animagine-xl-3.1", "SDXL", "anime"),
}
"""The public models by short name."""

_WEIGHTS = (".safetensors", ".ckpt", ".bin", ".pt", ".pth")


def public_model(name: str | Path) -> PublicModel | None:
    """A public model by its short name; None for whatever else, and for what lies here."""
    return None if Path(name).exists() else MODELS.get(str(name))


def near_names(path: Path, short: Mapping[str, object]) -> str:
    """Names that may have been meant by a wrong path, as a sentence; empty if none is near.

    Args:
        path: The path.
        short: Short names that stand for no path.
    """
    here: dict[str, str] = {}
    if path.parent.is_dir():
        files = (p for p in path.parent.iterdir() if p.suffix in _WEIGHTS or p.is_dir())
        here = {p.stem.lower(): str(p) for p in files}
    names = {name: name for name in short} if len(path.parts) == 1 else {}
    found = difflib.get_close_matches(path.stem.lower(), [*names, *here], n=2, cutoff=0.6)
    text = " or ".join((names | here)[name] for name in found)
    return f"did you mean {text}? " if text else ""
