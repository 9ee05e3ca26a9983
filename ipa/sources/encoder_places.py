"""The places of image encoders: folders with config.json, or single files.

A file tells its own config where it is one of the public towers, which the converters know; or the
config.json beside it does. ComfyUI keeps such files in `clip_vision`, beside the adapters' folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipa.errors import CheckpointError
from ipa.model.adapter import AdapterSpec
from ipa.model.clip import ClipVisionSpec
from ipa.model.files import read_json

_CONFIG, _COMFYUI = "config.json", "clip_vision"
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
_CLASS = "CLIPVisionModelWithProjection"


@dataclass(frozen=True, slots=True)
class FoundEncoder:
    """An image encoder: a folder or a file, its config, and that config parsed."""

    path: Path
    config: Mapping[str, Any]
    spec: ClipVisionSpec


def is_encoder(path: Path) -> bool:
    """Whether a path looks like an image encoder: a folder with a config, or any file."""
    return path.is_file() or (path / _CONFIG).is_file()


def named_encoder(given: str | Path, folder: Path) -> Path:
    """The path of the encoder that was named, from the adapter's folder or the current one.

    Args:
        given: A folder or a file.
        folder: What the adapter's own names start from.

    Raises:
        CheckpointError: There is none in either place.
    """
    places = (folder, Path(given).expanduser())
    for place in places:
        if is_encoder(place):
            return place
    raise CheckpointError(
        f"{places[0]} holds no image encoder",
        found=f"none at {places[1]} either" if places[1] != places[0] else "",
        remedy="config.json and model.safetensors are needed, or a file such as "
        "clip_vision/NAME.safetensors",
    )


def read_encoder(path: Path) -> FoundEncoder:
    """Read an image encoder's config. Raises CheckpointError if it is none."""
    config = _config(path)
    return FoundEncoder(path, config, ClipVisionSpec.from_config(config, f"{path}: config"))


def comfyui_folder(weights: Path) -> Path | None:
    """ComfyUI's folder of encoders for an adapter in models/ipadapter; None if elsewhere."""
    folder = weights.parent.parent / _COMFYUI
    return folder if folder.is_dir() else None


def fitting_encoder(adapter: AdapterSpec, folder: Path, where: str) -> FoundEncoder | None:
    """The only encoder of a folder that fits an adapter; None if none does.

    Raises:
        CheckpointError: Several do.
    """
    fitting = [found for found in _encoders(folder) if adapter.fits_encoder(found.spec)]
    if len(fitting) > 1:
        raise CheckpointError(
            f"{where} needs an image encoder, and {folder} has several that fit",
            found=", ".join(found.path.name for found in fitting),
            remedy="pass image_encoder_folder= with the path of one of them",
        )
    return fitting[0] if fitting else None


def _encoders(folder: Path) -> Sequence[FoundEncoder]:
    """All image encoders of a folder that can be read."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.suffix in _WEIGHTS or (path / _CONFIG).is_file():
            try:
                found.append(read_encoder(path))
            except CheckpointError:
                continue
    return found


def _config(path: Path) -> Mapping[str, Any]:
    if path.is_dir():
        config: Mapping[str, Any] = read_json(path / _CONFIG)
        return config
    file = path.parent / _CONFIG
    if file.is_file():
        config = read_json(file)
        if _CLASS in (config.get("architectures") or ()):
            return config
    import ipa_convert

    kind = ipa_convert.kind_of(path)
    if kind != "image_encoder":
        raise CheckpointError(
            f"{path} is no image encoder",
            found=f"what is known as {kind}",
            remedy=f"a {_CLASS} is needed, such as CLIP-ViT-H-14",
        )
    return ipa_convert.open_component(path).config
