"""The keywords of a call, and help for those who bring diffusers' other ones."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt

from .control import Control
from .editing import Masks, Start
from .errors import RequestError
from .text import Pair

Text: TypeAlias = "str | Sequence[str | None] | None"
"""One text for all prompts, or a list with one for each (`ipa.contract.batch`)."""


class RequestArguments(TypedDict, total=False):
    """The keywords of a call that `ipa.contract.request.Request` documents."""

    negative_prompt: Text
    prompt_2: Text
    negative_prompt_2: Text
    width: int | None
    height: int | None
    num_inference_steps: int | None
    guidance_scale: float | None
    scheduler: str | None
    seed: int
    num_images: int
    latents: npt.NDArray[np.float32] | None
    output_type: str
    original_size: Pair | None
    crops_coords_top_left: Pair | None
    target_size: Pair | None
    negative_original_size: Pair | None
    negative_crops_coords_top_left: Pair | None
    negative_target_size: Pair | None
    influence: bool
    profile: str | None
    controls: Control | Sequence[Control]
    clip_skip: int | None
    long_prompts: str
    prompt_syntax: str
    guidance_rescale: float
    eta: float
    timestep_spacing: str | None
    timesteps: Sequence[float] | None
    sigmas: Sequence[float] | None
    preview: str | None
    preview_every: int
    image: Start | None
    mask_image: Masks | None
    strength: float
    padding_mask_crop: int | None
    mask_blur: float
    overlay: bool
    loras: Mapping[str, float] | None


# diffusers' keywords that are called otherwise here, and what belongs to one image prompt.
_ELSEWHERE: Mapping[str, str] = {
    "generator": "seed=",
    "num_images_per_prompt": "num_images=",
    "callback_on_step_end": "on_progress=, weights=, or stream()",
    "ip_adapter_image_embeds": "image_prompts=[ImagePrompt(pipe.load_image_embeds(…))]",
    "cross_attention_kwargs": "image_prompts=[ImagePrompt(…, scale=…, mask=…)]",
    "lora_scale": "loras={name: scale}, or set_lora_scale",
    "ip_adapter_scale": "set_ip_adapter_scale, or image_prompts=[ImagePrompt(…, scale=…)]",
    "layers": "image_prompts=[ImagePrompt(…, layers=…)]",
    "curve": "image_prompts=[ImagePrompt(…, curve=…)]",
    "embeds_scaling": "image_prompts=[ImagePrompt(…, embeds_scaling=…)]",
    "controlnet_conditioning_scale": "controls=[Control(…, scale=…)]",
    "control_guidance_start": "controls=[Control(…, start=…)]",
    "control_guidance_end": "controls=[Control(…, end=…)]",
    "guess_mode": "controls=[Control(…, guess_mode=True)]",
    "control_image": "controlnet_image=",
    "adapter_conditioning_scale": "controls=[Control(…, scale=…)]",
    "adapter_conditioning_factor": "controls=[Control(…, end=…)]",
    "prompt_embeds": "prompt_syntax= for weights, long_prompts= for long texts",
    "return_dict": "the result's .images",
}


def check_names(arguments: Mapping[str, object]) -> None:
    """Raise RequestError for a keyword that no call has."""
    known = RequestArguments.__annotations__
    for name in arguments:
        if name in known:
            continue
        nearest = difflib.get_close_matches(name, known, n=1)
        guess = _ELSEWHERE.get(name) or (f"{nearest[0]}=" if nearest else "")
        raise RequestError(
            "there is no such argument",
            found=f"{name}=",
            remedy=f"use {guess}" if guess else f"known: {', '.join(known)}",
        )
