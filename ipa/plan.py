"""From a request to everything that a run needs, decided and checked before any memory is spent."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ipa.contract.backend import Floats, LoadedAdapter
from ipa.contract.errors import RequestError
from ipa.contract.masks import MaskValues
from ipa.contract.model import ModelFolder
from ipa.contract.request import ImagePrompt, Picture, Request, Scale
from ipa.contract.schedule import Schedule
from ipa.prepare.images import clip_pixels
from ipa.prepare.masks import Canvas, SiteMasks, silence
from ipa.prepare.noise import NoiseStream
from ipa.prepare.scales import SiteScales, is_open, site_scales
from ipa.prepare.schedules import make_schedule, pipeline_config, scheduler_name
from ipa.prepare.tokenizer import ClipTokenizer, Tokens

_DEFAULT_LATENT_SIDE = 64  # where a UNet's config names no sample_size
_SHOWN = 200  # characters of a text that did not fit


@dataclass(frozen=True, slots=True)
class AttachedAdapter:
    """A loaded adapter as the pipeline keeps it: its file's name and its default scale."""

    file: str
    loaded: LoadedAdapter
    scale: Scale


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedPrompt:
    """One image prompt, or one picture of it where each has its own mask or scale.

    Prepared pixels, λ per site while it is on, its window, and its masks. `number` is the rank of
    the prompt in the request.
    """

    number: int
    adapter: str
    pixels: Floats
    scales: SiteScales
    start: float
    end: float
    masks: SiteMasks | None

    def at(self, step: int, steps: int) -> SiteScales:
        """λ per site at a step: 0 everywhere outside the window."""
        if is_open(self.start, self.end, step, steps):
            return self.scales
        return (0.0,) * len(self.scales)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A run: tokens, pictures, schedule, noise. `tokens` is (negative, positive) or (positive,)."""

    request: Request
    width: int
    height: int
    tokens: tuple[Tokens, ...]
    prompts: tuple[PlannedPrompt, ...]
    schedule: Schedule
    seeds: tuple[int, ...]
    latent_shape: tuple[int, int, int]
    warnings: tuple[str, ...]

    def scales(self, step: int) -> list[SiteScales]:
        """λ[prompt][site] at a step; 0 where a mask is empty."""
        steps = len(self.schedule.steps)
        return [silence(prompt.at(step, steps), prompt.masks) for prompt in self.prompts]

    def describe(self, adapters: Mapping[str, AttachedAdapter]) -> dict[str, Any]:
        """JSON-able: the request as it was understood."""
        request = self.request
        names = {plan.number: plan.adapter for plan in self.prompts}
        return {
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "image_prompts": [
                _describe_prompt(prompt, names[number], adapters)
                for number, prompt in enumerate(request.image_prompts)
            ],
            "width": self.width,
            "height": self.height,
            "num_inference_steps": int(request.num_inference_steps),
            "guidance_scale": float(request.guidance_scale),
            "scheduler": self.schedule.name,
            "seed": int(request.seed),
            "num_images": int(request.num_images),
            "seeds": list(self.seeds),
            "given_latents_sha256": None if request.latents is None else _sha256(request.latents),
        }


def make_plan(
    request: Request,
    model: ModelFolder,
    tokenizer: ClipTokenizer,
    adapters: Mapping[str, AttachedAdapter],
) -> Plan:
    """Check a request against a model and its adapters, and prepare what the backend is given.

    Raises:
        RequestError: Something cannot be honoured; nothing has been computed yet.
    """
    width, height = _size(request, model)
    factor = model.vae.scale_factor
    shape = (model.unet.in_channels, height // factor, width // factor)
    if request.latents is not None:
        _check_latents(request.latents, (request.num_images, *shape), f"{width} × {height}")
    texts = [request.prompt]
    if request.guided:
        texts.insert(0, request.negative_prompt or "")
    tokens = tuple(tokenizer.encode(text) for text in texts)
    warnings = _text_warnings(tokens, guided=request.guided)
    name = request.scheduler
    if name is None:
        name, warning = scheduler_name(model.scheduler)
        warnings += [warning] if warning else []
    warnings += model.single_file.notes if model.single_file else ()
    canvas = Canvas.of(model, width, height)
    prompts = tuple(_plan_prompts(request, model, adapters, canvas))
    if any(prompt.masks is not None for prompt in prompts):
        warnings += canvas.warnings
    return Plan(
        request=request,
        width=width,
        height=height,
        tokens=tokens,
        prompts=prompts,
        schedule=make_schedule(
            name, pipeline_config(model.scheduler), int(request.num_inference_steps)
        ),
        seeds=tuple((int(request.seed) + i) % 2**64 for i in range(request.num_images)),
        latent_shape=shape,
        warnings=tuple(warnings),
    )


def prompts_from_ip_adapter_image(
    image: Picture | Sequence[Any], adapters: Mapping[str, AttachedAdapter]
) -> tuple[ImagePrompt, ...]:
    """diffusers' `ip_adapter_image`: a picture, or a list with one entry per loaded adapter."""
    entries = list(image) if isinstance(image, (list, tuple)) else [image]
    if len(entries) != len(adapters):
        raise RequestError(
            "ip_adapter_image needs one entry per loaded adapter",
            found=f"{len(entries)} entries; loaded: {', '.join(adapters) or 'no adapter'}",
            remedy="load adapters with load_ip_adapter; several pictures for one adapter are a "
            "list in the list: [[a, b]]",
        )
    return tuple(ImagePrompt(e, adapter=name) for e, name in zip(entries, adapters, strict=True))


def starting_noise(plan: Plan, streams: Sequence[NoiseStream]) -> Floats:
    """x_T before the schedule's factor: (N, C, h, w), one stream per picture."""
    if plan.request.latents is not None:
        return np.ascontiguousarray(plan.request.latents, dtype=np.float32)
    return draw(plan, streams)


def draw(plan: Plan, streams: Sequence[NoiseStream]) -> Floats:
    """Fresh standard noise, one (1, C, h, w) draw per picture from its own stream."""
    return np.concatenate([stream.normal((1, *plan.latent_shape)) for stream in streams])


def _check_latents(latents: object, shape: tuple[int, ...], size: str) -> None:
    if not isinstance(latents, np.ndarray) or not np.issubdtype(latents.dtype, np.floating):
        raise RequestError(
            "latents must be a numpy array of floats",
            found=str(getattr(latents, "dtype", type(latents).__name__)),
        )
    if latents.shape != shape:
        raise RequestError(
            "latents have the wrong shape",
            found=str(latents.shape),
            remedy=f"{shape} is needed for {size}",
        )
    if not (np.abs(latents) <= np.finfo(np.float32).max).all():  # false for NaN too
        raise RequestError(
            "latents hold NaN, infinity, or more than float32 can", remedy="pass standard noise"
        )


def _text_warnings(tokens: Sequence[Tokens], *, guided: bool) -> list[str]:
    names = ("negative_prompt", "prompt") if guided else ("prompt",)
    warnings = []
    for name, text in zip(names, tokens, strict=True):
        if text.dropped:
            more = f" and {len(text.dropped) - _SHOWN} characters more"
            rest = more if len(text.dropped) > _SHOWN else ""
            warnings.append(f"{name} is too long; this was cut: {text.dropped[:_SHOWN]!r}{rest}")
    return warnings


def _size(request: Request, model: ModelFolder) -> tuple[int, int]:
    factor = model.vae.scale_factor
    default = (model.unet.sample_size or _DEFAULT_LATENT_SIDE) * factor
    width = default if request.width is None else request.width
    height = default if request.height is None else request.height
    if width % factor or height % factor:
        raise RequestError(
            f"width and height must be multiples of {factor}",
            found=f"{width} × {height}",
            remedy=f"try {-(-width // factor) * factor} × {-(-height // factor) * factor}",
        )
    return int(width), int(height)


def _plan_prompts(
    request: Request, model: ModelFolder, adapters: Mapping[str, AttachedAdapter], canvas: Canvas
) -> Iterator[PlannedPrompt]:
    for number, prompt in enumerate(request.image_prompts):
        name = _adapter_name(prompt, adapters)
        attached = adapters[name]
        for rank, part in enumerate(prompt.parts):
            where = f"image_prompts[{number}] (adapter {name!r}): mask {rank}"
            scale: Any = attached.scale if part.scale is None else part.scale
            yield PlannedPrompt(
                number=number,
                adapter=name,
                pixels=clip_pixels(part.images, attached.loaded.preprocessing),
                scales=site_scales(scale, model.sites),
                start=part.start,
                end=part.end,
                masks=canvas.masks(part.mask, part.fit, where),
            )


def _adapter_name(prompt: ImagePrompt, adapters: Mapping[str, AttachedAdapter]) -> str:
    if prompt.adapter is None and len(adapters) == 1:
        return next(iter(adapters))
    if prompt.adapter in adapters:
        return str(prompt.adapter)
    raise RequestError(
        "an image prompt must name a loaded adapter",
        found=f"{prompt.adapter!r}; loaded: {', '.join(adapters) or 'none'}",
        remedy="load one with load_ip_adapter, and pass ImagePrompt(..., adapter=name)",
    )


def _describe_prompt(
    prompt: ImagePrompt, adapter: str, adapters: Mapping[str, AttachedAdapter]
) -> dict[str, Any]:
    scale = adapters[adapter].scale if prompt.scale is None else prompt.scale
    masks: Any = prompt.mask if isinstance(prompt.mask, tuple) else (prompt.mask,)
    return {
        "adapter": adapter,
        "file": adapters[adapter].file,
        "images_sha256": [_sha256(np.asarray(image)) for image in prompt.images],
        "scale": scale,
        "masks": None if prompt.mask is None else [_describe_mask(m) for m in masks],
        "fit": prompt.fit,
        "start": prompt.start,
        "end": prompt.end,
    }


def _describe_mask(mask: MaskValues | None) -> dict[str, Any] | None:
    """Its size in pixels, and the hash of its values as float32 in [0, 1], row by row."""
    if mask is None:
        return None
    return {"width": mask.shape[1], "height": mask.shape[0], "sha256": _sha256(mask)}


def _sha256(array: np.ndarray[Any, Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
