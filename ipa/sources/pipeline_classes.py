"""model_index.json: the pipelines of diffusers that are supported, and their settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ipa.errors import CheckpointError

_CLAIMED = frozenset(
    f"StableDiffusion{family}{kind}Pipeline"
    for family in ("", "XL")
    for kind in (
        "",
        "Img2Img",
        "Inpaint",
        "ControlNet",
        "ControlNetImg2Img",
        "ControlNetInpaint",
        "Adapter",
    )
) | {"LatentConsistencyModelPipeline", "DiffusionPipeline"}
"""The pipelines of diffusers whose models are run here as they run them."""

_READ = frozenset(
    {
        "unet",
        "vae",
        "text_encoder",
        "text_encoder_2",
        "tokenizer",
        "tokenizer_2",
        "scheduler",
        "image_encoder",
        "feature_extractor",
        "force_zeros_for_empty_prompt",
    }
)
# A filter of finished pictures, and the marks that one of its packages writes into them.
_INERT = frozenset({"safety_checker", "requires_safety_checker", "add_watermarker"})
_AESTHETICS = "requires_aesthetics_score"
_LOADED_BESIDE: Mapping[str, str] = {
    "controlnet": "load_controlnet",
    "adapter": "load_t2i_adapter",
}


def require_supported(index: Mapping[str, Any], where: str) -> None:
    """Raise CheckpointError for a refiner, whose UNet takes an aesthetic score."""
    if index.get(_AESTHETICS):
        raise CheckpointError(
            f"{where}: refiners are not supported",
            found=f"{_AESTHETICS} = {index[_AESTHETICS]!r}"[:80],
            remedy="use the base model, whose pictures a refiner would only touch up",
        )


def unread_index(index: Mapping[str, Any], where: str) -> list[str]:
    """Warnings about settings of model_index.json that have no effect here."""
    found, kind = [], index.get("_class_name")
    if kind is not None and kind not in _CLAIMED:
        found.append(f"{where}: what {kind!r:.60} does beside a plain pipeline is not done")
    for key, value in index.items():
        if key.startswith("_") or key in _READ | _INERT | {_AESTHETICS} or not _says(value):
            continue
        if key in _LOADED_BESIDE:
            found.append(f"{where}: {key} is left out: load its folder with {_LOADED_BESIDE[key]}")
        else:
            found.append(f"{where}: {key} = {value!r:.60} is unknown, and left out")
    return found


def _says(value: object) -> bool:
    """Whether an entry names a component; [null, null] is one that there is not."""
    return bool(value) and value != [None, None]
