"""The request of a call: all its keywords, checked."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt

from ipa.arrays import Pair
from ipa.checks import _check_integer, _check_name, check_plain, is_finite, plain_number
from ipa.errors import RequestError, shown

from .control import Control, check_controls
from .custom_steps import CustomSteps
from .editing import Masks, Start, check_editing
from .image_prompt import ImagePrompt, check_image_prompts
from .reads import Read, Reads
from .scales import is_one_of


def plain_lora_scales(given: object) -> dict[str, float]:
    """Check LoRA scales by name, in Python's own numbers. Raises RequestError otherwise."""
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise RequestError(
            "loras must be a dict of names and scales",
            found=shown(given),
            remedy='write loras={"pixel": 0.5}; load them first with load_lora',
        )
    return {name: plain_number(scale, f"loras[{name!r}]") for name, scale in given.items()}


LONG_PROMPTS = ("cut", "chunks")
"""The ways to handle a text that is too long (`ipa.prepare.text.chunks`)."""


PROMPT_SYNTAXES = ("plain", "a1111", "comfyui")
"""The programs whose syntax of weights a text may have (`ipa.prepare.text.syntax`)."""


SIZE_NAMES = tuple(
    f"{prefix}{name}"
    for prefix in ("", "negative_")
    for name in ("original_size", "crops_coords_top_left", "target_size")
)
"""The arguments for SDXL's sizes."""


PREVIEWS = (None, "latent", "tiny")


MAX_SIDE = 8192


MAX_STEPS = 1000


MAX_CLIP_SKIP = 1000  # a model has fewer layers, and says so


MAX_BRANCH = 1000  # likewise


MAX_TOLD = 1 << 16  # pixels of a side that SDXL is told


# Kept as Python's own, as descriptions have them.
_NUMBERS: Mapping[type, tuple[str, ...]] = {
    int: ("num_images", "seed", "cache_interval", "cache_branch", "forecast_warmup"),
    float: (
        *("guidance_rescale", "guidance_start", "guidance_end", "eta"),
        *("strength", "mask_blur", "forecast_window", "forecast_growth"),
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A call of a pipeline; argument names are diffusers'.

    Attributes:
        prompt: Text; "" conditions on pictures alone.
        negative_prompt: What to steer away from; None is "", or no text at all for a model with
            force_zeros_for_empty_prompt (SDXL).
        prompt_2: SDXL: the text for the second text encoder; None or "" takes `prompt`.
        negative_prompt_2: Likewise.
        image_prompts: Pictures as prompts.
        width: Pixels; None takes the model's own size. A multiple of the VAE's factor.
        height: As width.
        num_inference_steps: As diffusers counts them; a few samplers evaluate the network twice in
            a step (`samplers.schedules`), and then `Progress` counts the evaluations. None is
            30, or as many as `timesteps` or `sigmas` make.
        guidance_scale: Classifier-free guidance; at 1 or below the unconditional half is not run.
            None takes what is usual for the model: 7.5, for SDXL 5.
        scheduler: A name of `prepare.samplers.schedules.NAMES`, or A1111's for one of them, such as
            "DPM++ 2M Karras"; None takes the checkpoint's own.
        seed: Starting noise, the same as torch's CPU generator would draw. 0 is a seed.
        num_images: Pictures, made with the seeds seed, seed + 1, …; with profile="tencent" or one
            of ComfyUI's all drawn by the one generator of the seed.
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
        embed_references: Keep what the encoder sees, masks, start and control pictures in
            `Result.references`, so that a PNG can hold all that its rerun needs.
        profile: Whose meaning of the request: a name of `ipa.request.profiles.PROFILES`, "tencent",
            "diffusers", "comfyui" or "comfyui-as-meant". None is the house's own.
        controls: Pictures that say where things are, each for a loaded ControlNet or
            T2I-Adapter.
        clip_skip: How many of the text encoders' last layers are left out, as diffusers counts:
            None or 0 is none; 1 takes the layer before that which the model takes. Of the prompt
            alone, as in diffusers; with ComfyUI's profiles of the negative one too.
        long_prompts: What becomes of texts that are too long: "cut" as diffusers does, with a
            warning that says what was lost; or "chunks": 75 tokens each, one after another
            (`ipa.prepare.text.chunks`).
        prompt_syntax: Whether parentheses are weights, and whose: "plain" is never, "a1111" or
            "comfyui" (`ipa.prepare.text.syntax`). LoRAs that a prompt names in A1111's way act
            on it, and ComfyUI's names of learned words are these (`ipa.prepare.text.tags`).
        guidance_rescale: From 0 to 1: how far guided outputs are brought back to the deviation of
            the conditional ones, against overexposure (arXiv 2305.08891, section 3.4).
        guidance_start: The fraction of the steps at which guidance begins, as `start` of diffusers'
            guiders: with n steps at step int(n · guidance_start), counted from 0. Before it and
            from `guidance_end` on the unconditional half is not computed, which halves a step's
            work, and the conditional output is taken as it is (arXiv 2404.07724).
        guidance_end: The fraction of the steps at which guidance ends, more than `guidance_start`.
        cache_interval: Of how many evaluations of the network the first computes all of it; the
            others take its deep part from that one (DeepCache, arXiv 2312.00858). 1 is no reuse.
            See `ipa.prepare.reuse`.
        cache_branch: Where the deep part begins: 0, near the ends of the network, reuses the most;
            each more computes one layer more on the way down and up. DeepCache's cache_branch_id.
        forecast: Compute some evaluations of the network alone, and forecast the last feature of
            the others from theirs (Spectrum, arXiv 2603.01623). See `ipa.prepare.forecast`.
        forecast_window: Of how many evaluations one is computed, at first; rounded down.
        forecast_growth: What is added to that with every evaluation that is computed.
        forecast_warmup: How many are computed before the first is forecast.
        eta: For DDIM, how much noise is added, 1 being DDPM's; for TCD its γ, 0.3 being usual.
        timestep_spacing: "leading", "linspace" or "trailing" (which Lightning, Turbo and Hyper
            weights need) instead of what the checkpoint says.
        timesteps: Those to visit, falling, instead of spaced ones; for the samplers that take them
            in diffusers: `euler` and `heun` (fractions too), the DPM++ ones, `ddpm`, `lcm`, `tcd`.
        sigmas: Noise levels likewise, one more than steps: the last is where the run ends, usually
            0. For `euler`, where they go before Karras' and others.
        preview: What `Progress.preview` shows of a step's estimate: "latent", a pixel a latent, or
            "tiny", by the decoder of `load_preview_decoder`. It changes no bit of the pictures.
        preview_every: Of how many steps one has a preview; the last has always.
        image: What to start from instead of noise alone: a picture, or a list with one for each
            that is made. Resized to width × height, by default its own size rounded down to the
            VAE's factor. Or latents, (num_images or 1, C, H/f, W/f), as `Result.latents` gives.
        mask_image: Where to make `image` anew: white is, black stays. A mask of the picture's size,
            or a list; cut at a half, as in diffusers.
        strength: How far to go from `image`: the share of the steps that is run, from 0 to 1. With
            a mask, 1 starts from noise alone.
        padding_mask_crop: Work on what the mask covers alone, with so many pixels around it,
            enlarged to width × height (by default the model's own), and put it back into the
            picture. What lies over the picture (controls, masks of image prompts, tiles) is given
            for all of it, and cropped by the same box; influence and previews are of that part.
            None works on all of the picture.
        mask_blur: Soften the mask before that, by so many pixels (Gaussian). It rounds corners,
            and hides the seam of an overlay.
        overlay: Put the old pixels back over the result where the mask is black: the VAE changes
            those a little. `padding_mask_crop` always does.
        loras: Scales of loaded LoRAs by name, for this call; the others keep theirs.
    """

    prompt: str = ""
    negative_prompt: str | None = None
    prompt_2: str | None = None
    negative_prompt_2: str | None = None
    image_prompts: tuple[ImagePrompt, ...] = ()
    width: int | None = None
    height: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
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
    embed_references: bool = False
    profile: str | None = None
    controls: tuple[Control, ...] = ()
    clip_skip: int | None = None
    long_prompts: str = "cut"
    prompt_syntax: str = "plain"
    guidance_rescale: float = 0.0
    guidance_start: float = 0.0
    guidance_end: float = 1.0
    cache_interval: int = 1
    cache_branch: int = 0
    forecast: bool = False
    forecast_window: float = 2.0
    forecast_growth: float = 0.75
    forecast_warmup: int = 5
    eta: float = 0.0
    timestep_spacing: str | None = None
    timesteps: Sequence[float] | None = None
    sigmas: Sequence[float] | None = None
    preview: str | None = None
    preview_every: int = 1
    image: Start | None = field(default=None, repr=False)
    mask_image: Masks | None = field(default=None, repr=False)
    strength: float = 0.8
    padding_mask_crop: int | None = None
    mask_blur: float = 0.0
    overlay: bool = False
    loras: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        self._check_prompts()
        for name in ("scheduler", "timestep_spacing", "profile"):
            check_plain(name, getattr(self, name), (str, type(None)))
        object.__setattr__(self, "controls", check_controls(self.controls))
        for name in SIZE_NAMES:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _pair(name, getattr(self, name)))
        self._check_steps()
        self._check_numbers()
        if not is_one_of(self.preview, PREVIEWS):
            raise RequestError(
                'preview must be None, "latent" or "tiny"', found=shown(self.preview)
            )
        _check_integer("preview_every", self.preview_every, 1, MAX_STEPS)
        check_editing(self.strength, self.padding_mask_crop, self.mask_blur, self.overlay)
        if self.loras is not None:
            object.__setattr__(self, "loras", plain_lora_scales(self.loras))
        for name in ("influence", "forecast", "embed_references"):
            if not isinstance(getattr(self, name), bool):
                raise RequestError(
                    f"{name} must be True or False", found=shown(getattr(self, name))
                )
        if not is_one_of(self.output_type, {"pil", "np", "latent"}):
            raise RequestError(
                'output_type must be "pil", "np" or "latent"', found=shown(self.output_type)
            )
        if self.clip_skip is not None:
            _check_integer("clip_skip", self.clip_skip, 0, MAX_CLIP_SKIP)
        _check_name("long_prompts", self.long_prompts, LONG_PROMPTS)
        _check_name("prompt_syntax", self.prompt_syntax, PROMPT_SYNTAXES)
        self._take_numbers()

    def _check_prompts(self) -> None:
        for name in ("prompt", "negative_prompt", "prompt_2", "negative_prompt_2"):
            value = getattr(self, name)
            if not isinstance(value, str) and (name == "prompt" or value is not None):
                raise RequestError(f"{name} must be a string", found=type(value).__name__)
        object.__setattr__(self, "image_prompts", check_image_prompts(self.image_prompts))

    def _check_numbers(self) -> None:
        _check_integer("num_images", self.num_images, 1, 1024)
        _check_integer("seed", self.seed, 0, 2**64 - 1)
        _check_integer("cache_interval", self.cache_interval, 1, MAX_STEPS)
        _check_integer("cache_branch", self.cache_branch, 0, MAX_BRANCH)
        _check_integer("forecast_warmup", self.forecast_warmup, 1, MAX_STEPS)
        for name, least in (("forecast_window", 1.0), ("forecast_growth", 0.0)):
            value = getattr(self, name)
            if not is_finite(value) or not least <= value <= MAX_STEPS:
                raise RequestError(
                    f"{name} must be a number from {least:g} to {MAX_STEPS}", found=shown(value)
                )
        for name in ("width", "height"):
            if getattr(self, name) is not None:
                _check_integer(name, getattr(self, name), 1, MAX_SIDE)
        if self.guidance_scale is not None and not is_finite(self.guidance_scale):
            raise RequestError(
                "guidance_scale must be a finite number", found=shown(self.guidance_scale)
            )
        for name in ("guidance_rescale", "guidance_start", "guidance_end", "eta"):
            value = getattr(self, name)
            if not is_finite(value) or not 0.0 <= value <= 1.0:
                raise RequestError(f"{name} must be a number from 0 to 1", found=shown(value))
        if self.guidance_start >= self.guidance_end:
            raise RequestError(
                "guidance_end must be more than guidance_start",
                found=f"{self.guidance_start} to {self.guidance_end}",
                remedy="guidance_scale=1 is for no guidance at all",
            )

    def _take_numbers(self) -> None:
        for kind, names in _NUMBERS.items():
            for name in names:
                object.__setattr__(self, name, kind(getattr(self, name)))

    def _check_steps(self) -> None:
        if self.num_inference_steps is not None:
            _check_integer("num_inference_steps", self.num_inference_steps, 1, MAX_STEPS)
        own = CustomSteps.of(self.timesteps, self.sigmas)
        own.steps(self.num_inference_steps)
        object.__setattr__(self, "timesteps", own.timesteps)
        object.__setattr__(self, "sigmas", own.sigmas)

    @property
    def custom_steps(self) -> CustomSteps:
        """The call's own timesteps or sigmas."""
        return CustomSteps.of(self.timesteps, self.sigmas)

    @property
    def steps(self) -> int:
        """The number of steps, as diffusers counts them."""
        return self.custom_steps.steps(self.num_inference_steps)

    @property
    def guided(self) -> bool:
        """Whether the unconditional half is computed, as at every model's usual scale."""
        return self.guidance_scale is None or self.guidance_scale > 1.0


def _pair(name: str, value: object) -> Pair:
    """Check two numbers of pixels, in Python's own integers."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise RequestError(
            f"{name} must be two integers", found=shown(value), remedy="height or top first"
        )
    for place, entry in enumerate(value):
        _check_integer(f"{name}[{place}]", entry, 0, MAX_TOLD)
    return int(value[0]), int(value[1])


READS: Reads = {
    "image_prompts": Read.OBJECTS,
    "controls": Read.OBJECTS,
    "image": Read.PICTURES,
    "mask_image": Read.PICTURES,
    "latents": Read.NEVER,
}


Text: TypeAlias = str | Sequence[str | None] | None
"""One text for all prompts, or a list with one for each (`ipa.request.batch`)."""


class RequestArguments(TypedDict, total=False):
    """The keywords of a call that `ipa.request.request.Request` documents."""

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
    embed_references: bool
    profile: str | None
    controls: Control | Sequence[Control]
    clip_skip: int | None
    long_prompts: str
    prompt_syntax: str
    guidance_rescale: float
    guidance_start: float
    guidance_end: float
    cache_interval: int
    cache_branch: int
    forecast: bool
    forecast_window: float
    forecast_growth: float
    forecast_warmup: int
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
