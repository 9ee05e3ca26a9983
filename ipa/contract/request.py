"""What a user asks for, checked once and then trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .errors import RequestError
from .image_prompt import ImagePrompt
from .lora import plain_lora_scales
from .text import Pair
from .weights import is_finite

SIZE_NAMES = tuple(
    f"{prefix}{name}"
    for prefix in ("", "negative_")
    for name in ("original_size", "crops_coords_top_left", "target_size")
)
"""The arguments that tell SDXL of sizes."""

MAX_SIDE = 8192
MAX_STEPS = 1000
MAX_TOLD = 1 << 16  # pixels of a side that SDXL is told


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One call of a pipeline; argument names are diffusers'.

    Attributes:
        prompt: Text; "" conditions on pictures alone.
        negative_prompt: What to steer away from; None is "", or no text at all for a model with
            force_zeros_for_empty_prompt (SDXL).
        prompt_2: SDXL: the text for the second text encoder; None or "" takes `prompt`.
        negative_prompt_2: Likewise.
        image_prompts: Pictures as prompts.
        width: Pixels; None takes the model's own size. A multiple of the VAE's factor.
        height: As width.
        num_inference_steps: Evaluations of the network.
        guidance_scale: Classifier-free guidance; at 1 or below the unconditional half is not run.
        scheduler: A name of `ipa.prepare.schedules.NAMES`; None takes the checkpoint's own.
        seed: Starting noise, the same as torch's CPU generator would draw. 0 is a seed.
        num_images: Pictures, made with the seeds seed, seed + 1, …
        latents: Starting noise instead of the seed's: (num_images, C, H/f, W/f), standard normal.
        output_type: "pil", "np" or "latent".
        original_size: SDXL: (height, width) of the pictures to imitate before they were scaled for
            training; small ones look blurred. None takes that of the result.
        crops_coords_top_left: SDXL: how far they were cropped, (top, left); None is (0, 0).
        target_size: SDXL: (height, width) to imitate; None takes that of the result.
        negative_original_size: SDXL: the same for the unconditional half, which takes the sizes
            above unless this and `negative_target_size` are given.
        negative_crops_coords_top_left: Likewise; None is (0, 0).
        negative_target_size: Likewise.
        influence: Measure what each image prompt adds, where and when: `Result.influence`. It
            changes no bit of the pictures.
        profile: Whose meaning of the request: a name of `ipa.prepare.profiles.PROFILES`, "tencent",
            "diffusers" or "comfyui". None is the house's own.
        loras: Scales of loaded LoRAs by name, for this call; the others keep theirs.
    """

    prompt: str = ""
    negative_prompt: str | None = None
    prompt_2: str | None = None
    negative_prompt_2: str | None = None
    image_prompts: tuple[ImagePrompt, ...] = ()
    width: int | None = None
    height: int | None = None
    num_inference_steps: int = 30
    guidance_scale: float = 7.5
    scheduler: str | None = None
    seed: int = 0
    num_images: int = 1
    latents: npt.NDArray[np.float32] | None = field(default=None, repr=False)
    output_type: str = "pil"
    original_size: Pair | None = None
    crops_coords_top_left: Pair | None = None
    target_size: Pair | None = None
    negative_original_size: Pair | None = None
    negative_crops_coords_top_left: Pair | None = None
    negative_target_size: Pair | None = None
    influence: bool = False
    profile: str | None = None
    loras: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        self._check_prompts()
        for name in SIZE_NAMES:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _pair(name, getattr(self, name)))
        _check_integer("num_inference_steps", self.num_inference_steps, 1, MAX_STEPS)
        _check_integer("num_images", self.num_images, 1, 1024)
        _check_integer("seed", self.seed, 0, 2**64 - 1)
        for name in ("width", "height"):
            if getattr(self, name) is not None:
                _check_integer(name, getattr(self, name), 1, MAX_SIDE)
        if not is_finite(self.guidance_scale):
            raise RequestError(
                "guidance_scale must be a finite number", found=repr(self.guidance_scale)
            )
        if self.loras is not None:
            object.__setattr__(self, "loras", plain_lora_scales(self.loras))
        if not isinstance(self.influence, bool):
            raise RequestError("influence must be True or False", found=repr(self.influence))
        if self.output_type not in {"pil", "np", "latent"}:
            raise RequestError(
                'output_type must be "pil", "np" or "latent"', found=repr(self.output_type)
            )

    def _check_prompts(self) -> None:
        for name in ("prompt", "negative_prompt", "prompt_2", "negative_prompt_2"):
            value = getattr(self, name)
            if not isinstance(value, str) and (name == "prompt" or value is not None):
                raise RequestError(f"{name} must be a string", found=type(value).__name__)
        for entry in self.image_prompts:
            if not isinstance(entry, ImagePrompt):
                raise RequestError(
                    "image_prompts must be a list of ImagePrompt",
                    found=type(entry).__name__,
                    remedy="write image_prompts=[ipa.ImagePrompt(picture)]",
                )

    @property
    def guided(self) -> bool:
        """Whether the unconditional half is computed."""
        return self.guidance_scale > 1.0


def _pair(name: str, value: object) -> Pair:
    """Two numbers of pixels, in Python's own integers."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise RequestError(
            f"{name} must be two integers", found=repr(value)[:80], remedy="height or top first"
        )
    for entry in value:
        _check_integer(f"an entry of {name}", entry, 0, MAX_TOLD)
    return int(value[0]), int(value[1])


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    good = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not good or not low <= value <= high:  # type: ignore[operator]
        raise RequestError(f"{name} must be an integer from {low} to {high}", found=repr(value))
