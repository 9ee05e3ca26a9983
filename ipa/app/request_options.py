"""The options of a request: a field's own name is its option, but for what stands here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

from ipa.request.request import Request

SPELLED: Mapping[str, str] = {"guidance_scale": "--guidance"}
"""Fields whose option has another name."""

MADE: Mapping[str, str] = {
    "image_prompts": "--image-prompt",
    "controls": "--control",
    "num_inference_steps": "--steps",
    "timesteps": "--timesteps",
    "sigmas": "--sigmas",
    "image": "--image",
    "mask_image": "--mask-image",
    "influence": "--influence",
    "preview": "--preview",
}
"""Fields that are made of what an option says: files, or several fields at once."""

ABSENT: Mapping[str, str] = {
    "latents": "an array, which a command has no use for",
    "loras": "--lora loads each with its scale",
    "output_type": "a command writes pictures",
    "preview_every": "a file that is watched shows every step",
    **dict.fromkeys(
        (
            *("original_size", "crops_coords_top_left", "target_size"),
            *("negative_original_size", "negative_crops_coords_top_left", "negative_target_size"),
        ),
        "what SDXL is told of its training: from Python and in request files",
    ),
}
"""Fields without an option, and why."""

PLAIN: tuple[str, ...] = tuple(
    field.name for field in fields(Request) if field.name not in {*MADE, *ABSENT}
)
"""Fields that are what their options say; the parameters of commands have their names."""

OPTIONS: Mapping[str, str] = {
    **{name: SPELLED.get(name, f"--{name.replace('_', '-')}") for name in PLAIN},
    **MADE,
}
"""The option of each field that has one."""


def plain_arguments(options: Mapping[str, Any], but: Collection[str] = ()) -> dict[str, Any]:
    """The arguments of a call that a command's parameters are, without some."""
    return {name: options[name] for name in PLAIN if name in options and name not in but}
