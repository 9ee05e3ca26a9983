"""From a request to everything that a run needs, decided and checked before any memory is spent."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ipa.contract.backend import Floats, LoadedAdapter
from ipa.contract.errors import RequestError
from ipa.contract.masks import MaskValues
from ipa.contract.model import ModelFolder
from ipa.contract.request import SIZE_NAMES, ImagePrompt, Picture, Request
from ipa.contract.schedule import Schedule
from ipa.contract.weights import Scale
from ipa.encoding import PlannedFeatures, describe_pictures, plan_features
from ipa.prepare.lambdas import lambda_table
from ipa.prepare.masks import Canvas, SiteMasks, silence
from ipa.prepare.noise import NoiseStream
from ipa.prepare.schedules import make_schedule, pipeline_config, scheduler_name
from ipa.prepare.texts import PlannedText, plan_texts, text_warnings
from ipa.prepare.tokenizer import ClipTokenizer

_DEFAULT_LATENT_SIDE = 64  # where a UNet's config names no sample_size
_DEFAULT_LATENT_SIDE_XL = 128


@dataclass(frozen=True, slots=True)
class AttachedAdapter:
    """A loaded adapter as the pipeline keeps it: its file's name and its default scale."""

    file: str
    loaded: LoadedAdapter
    scale: Scale


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedPrompt:
    """One image prompt, or one picture of it where each has its own mask or scale.

    Its features to be, λ for each site and step (`prepare.lambdas`), and its masks. `number` is the
    rank of the prompt in the request.
    """

    number: int
    adapter: str
    features: PlannedFeatures
    table: npt.NDArray[np.float64]
    masks: SiteMasks | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A run: texts, pictures, schedule, noise. `texts` is (negative, positive) or (positive,)."""

    request: Request
    width: int
    height: int
    texts: tuple[PlannedText, ...]
    prompts: tuple[PlannedPrompt, ...]
    schedule: Schedule
    seeds: tuple[int, ...]
    latent_shape: tuple[int, int, int]
    warnings: tuple[str, ...]

    def scales(self, step: int) -> list[tuple[float, ...]]:
        """λ[prompt][site] at a step; 0 where a mask is empty."""
        return [silence(prompt.table[:, step].tolist(), prompt.masks) for prompt in self.prompts]

    def adapters(self) -> tuple[str, ...]:
        """Each image prompt's adapter, in the order of the request."""
        return tuple({plan.number: plan.adapter for plan in self.prompts}.values())

    def describe(self, adapters: Mapping[str, AttachedAdapter]) -> dict[str, Any]:
        """JSON-able: the request as it was understood."""
        request = self.request
        names = self.adapters()
        return {
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            **self._describe_xl(),
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

    def _describe_xl(self) -> dict[str, Any]:
        """What only SDXL takes."""
        sizes = self.texts[-1].sizes
        if sizes is None:
            return {}
        return {
            "prompt_2": self.request.prompt_2,
            "negative_prompt_2": self.request.negative_prompt_2,
            **{name: getattr(self.request, name) for name in SIZE_NAMES},
            **asdict(sizes),
        }


def make_plan(
    request: Request,
    model: ModelFolder,
    tokenizers: Sequence[ClipTokenizer],
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
    texts = plan_texts(request, model, tokenizers, (height, width))
    warnings = text_warnings(texts)
    name = request.scheduler
    if name is None:
        name, warning = scheduler_name(model.scheduler)
        warnings += [warning] if warning else []
    warnings += model.single_file.notes if model.single_file else ()
    schedule = make_schedule(
        name,
        pipeline_config(model.scheduler, is_xl=model.is_xl),
        int(request.num_inference_steps),
    )
    canvas = Canvas.of(model, width, height)
    prompts = tuple(_plan_prompts(request, model, adapters, canvas, len(schedule.steps)))
    for prompt in prompts:
        warnings += [f"image prompt {prompt.number + 1}, {t}" for t in prompt.features.warnings]
    if any(prompt.masks is not None for prompt in prompts):
        warnings += canvas.warnings
    return Plan(
        request=request,
        width=width,
        height=height,
        texts=texts,
        prompts=prompts,
        schedule=schedule,
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


def _size(request: Request, model: ModelFolder) -> tuple[int, int]:
    factor = model.vae.scale_factor
    side = _DEFAULT_LATENT_SIDE_XL if model.is_xl else _DEFAULT_LATENT_SIDE
    default = (model.unet.sample_size or side) * factor
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
    request: Request,
    model: ModelFolder,
    adapters: Mapping[str, AttachedAdapter],
    canvas: Canvas,
    steps: int,
) -> Iterator[PlannedPrompt]:
    for number, prompt in enumerate(request.image_prompts):
        name = adapter_name(prompt.adapter, adapters)
        attached = adapters[name]
        for rank, part in enumerate(prompt.parts):
            where = f"image_prompts[{number}] (adapter {name!r}): mask {rank}"
            yield PlannedPrompt(
                number=number,
                adapter=name,
                features=plan_features(part, attached.loaded),
                table=lambda_table(part, attached.scale, model.sites, steps),
                masks=canvas.masks(part.mask, part.mask_fit, where),
            )


def adapter_name(name: str | None, adapters: Mapping[str, AttachedAdapter]) -> str:
    """A loaded adapter; None is the only one. Raises RequestError if there is no such."""
    if name is None and len(adapters) == 1:
        return next(iter(adapters))
    if name in adapters:
        return str(name)
    raise RequestError(
        "an image prompt must name a loaded adapter",
        found=f"{name!r}; loaded: {', '.join(adapters) or 'none'}",
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
        **describe_pictures(prompt),
        "scale": scale,
        "layers": prompt.layers,
        "curve": prompt.curve,
        "masks": None if prompt.mask is None else [_describe_mask(m) for m in masks],
        "mask_fit": prompt.mask_fit,
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
