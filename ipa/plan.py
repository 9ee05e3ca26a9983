"""From a request to everything that a run needs, decided and checked before any memory is spent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from ipa.adapters import AttachedAdapter, adapter_name
from ipa.contract.backend import Floats
from ipa.contract.embeds_scaling import V_ONLY
from ipa.contract.errors import RequestError
from ipa.contract.image_prompt import ImagePrompt, Picture
from ipa.contract.model import ModelFolder
from ipa.contract.request import Request
from ipa.contract.schedule import Schedule
from ipa.controls import AttachedControlNet, PlannedControl, plan_controls
from ipa.encoding import PlannedFeatures, Reader, plan_features
from ipa.prepare.clip_recipe import ClipRecipe
from ipa.prepare.edits import Edits, plan_edits, start_size
from ipa.prepare.faces import check_fits
from ipa.prepare.guidance import guidance_embedding, guidance_scale, guidance_warnings
from ipa.prepare.lambdas import lambda_table
from ipa.prepare.masks import Canvas, SiteMasks, silence
from ipa.prepare.moved import moved_sites
from ipa.prepare.noise import OwnStreams, Share, SharedStream, Streams
from ipa.prepare.noise_picture import with_noise
from ipa.prepare.picture_parts import prompt_parts
from ipa.prepare.profiles import AS_MEANT, HOUSE, Profile, profile_named
from ipa.prepare.schedules import (
    make_schedule,
    pipeline_config,
    scheduler_name,
    training_levels,
)
from ipa.prepare.strength import left_out
from ipa.prepare.text_direction import plan_direction
from ipa.prepare.texts import PlannedText, plan_texts, text_warnings
from ipa.prepare.tiles import tiled
from ipa.prepare.tokenizer import ClipTokenizer
from ipa.prepare.windows import NoiseTimes, open_steps

_DEFAULT_LATENT_SIDE = 64  # where a UNet's config names no sample_size
_DEFAULT_LATENT_SIDE_XL = 128
_NO_CONTROLNETS: Mapping[str, AttachedControlNet] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedPrompt:
    """One image prompt, or one picture of it where each has its own mask or scale.

    Its features to be, λ for each site and step (`prepare.lambdas`), and its masks. `number` is the
    rank of the prompt in the request. See `Branch` for `embeds_scaling` and `moved`.
    """

    number: int
    adapter: str
    features: PlannedFeatures
    table: npt.NDArray[np.float64]
    masks: SiteMasks | None
    embeds_scaling: str = V_ONLY
    moved: tuple[bool, ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A run: texts, pictures, schedule, noise. `texts` is (negative, positive) or (positive,).

    `guidance` is what a network is told of `guidance_scale` that takes it as an input. `share` is
    its part of a call with several prompts, where one generator draws for all of them.
    """

    request: Request
    width: int
    height: int
    texts: tuple[PlannedText, ...]
    prompts: tuple[PlannedPrompt, ...]
    schedule: Schedule
    seeds: tuple[int, ...]
    latent_shape: tuple[int, int, int]
    warnings: tuple[str, ...]
    profile: Profile = HOUSE
    controls: tuple[PlannedControl, ...] = ()
    guidance_scale: float = 1.0
    guidance: Floats | None = None
    edits: Edits | None = None
    share: Share | None = None

    @property
    def guided(self) -> bool:
        """Whether the unconditional half is computed."""
        return len(self.texts) == 2

    def scales(self, step: int) -> list[tuple[float, ...]]:
        """λ[prompt][site] at a step; 0 where a mask is empty."""
        return [silence(prompt.table[:, step].tolist(), prompt.masks) for prompt in self.prompts]

    def control_scales(self, step: int) -> list[list[float]]:
        """The weights of every control's results at a step."""
        return [control.table[:, step].tolist() for control in self.controls]

    def adapters(self) -> tuple[str, ...]:
        """Each image prompt's adapter, in the order of the request."""
        return tuple({plan.number: plan.adapter for plan in self.prompts}.values())


def make_plan(
    request: Request,
    model: ModelFolder,
    tokenizers: Sequence[ClipTokenizer],
    adapters: Mapping[str, AttachedAdapter],
    controlnets: Mapping[str, AttachedControlNet] = _NO_CONTROLNETS,
) -> Plan:
    """Check a request against a model and its adapters, and prepare what the backend is given.

    Raises:
        RequestError: Something cannot be honoured; nothing has been computed yet.
    """
    profile = profile_named(request.profile)
    if request.negative_prompt is None and profile.negative_prompt is not None:
        request = replace(request, negative_prompt=profile.negative_prompt)
    width, height = _size(request, model)
    factor = model.vae.scale_factor
    shape = (model.vae.latent_channels, height // factor, width // factor)
    _check_latents(request.latents, (request.num_images, *shape), f"{width} × {height}")
    edits = plan_edits(request, model, width, height)
    texts = plan_texts(request, model, tokenizers, (height, width))
    warnings = text_warnings(texts)
    schedule, times, notes = plan_schedule(request, model, edits)
    warnings += notes + guidance_warnings(request, model)
    warnings += model.single_file.notes if model.single_file else ()
    scale = guidance_scale(request, model)
    canvas = Canvas.of(model, width, height)
    prompts = tuple(_plan_prompts(request, model, tokenizers, adapters, canvas, times))
    warnings += _prompt_warnings(prompts, canvas, profile)
    return Plan(
        request=request,
        width=width,
        height=height,
        texts=texts,
        prompts=prompts,
        schedule=schedule,
        seeds=_seeds(request, profile),
        latent_shape=shape,
        warnings=tuple(warnings),
        profile=profile,
        controls=plan_controls(request.controls, controlnets, (width, height), len(times.steps)),
        guidance_scale=scale,
        guidance=guidance_embedding(scale, model),
        edits=edits,
    )


def _prompt_warnings(
    prompts: Sequence[PlannedPrompt], canvas: Canvas, profile: Profile
) -> list[str]:
    """What is lost of image prompts, or done to them that nobody may expect."""
    warnings = [
        f"image prompt {prompt.number + 1}, {text}"
        for prompt in prompts
        for text in prompt.features.warnings
    ]
    if any(prompt.masks is not None for prompt in prompts):
        warnings += canvas.warnings(profile.mask_rule)
    if prompts and profile.middle_block == "left out":
        warnings.append(
            f"profile {profile.name!r}: image prompts do not enter the middle block, as in "
            f"ComfyUI_IPAdapter_plus as it is published; {AS_MEANT!r} lets them in"
        )
    return warnings


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


def noise_streams(plan: Plan) -> Streams:
    """Where a run's noise is drawn from: a generator per picture, or one for all of a call."""
    if plan.profile.seeds == "one generator":
        count, edits = len(plan.seeds), plan.edits
        alone = Share(count, one_source=edits is None or len(edits.sources) < 2)
        return SharedStream(plan.seeds[0], count, plan.share or alone)
    return OwnStreams(plan.seeds)


def starting_noise(plan: Plan, streams: Streams) -> Floats:
    """x_T before the schedule's factor: (N, C, h, w)."""
    if plan.request.latents is not None:
        return np.ascontiguousarray(plan.request.latents, dtype=np.float32)
    return draw(plan, streams)


def draw(plan: Plan, streams: Streams) -> Floats:
    """Fresh standard noise for every picture of a run, (N, C, h, w)."""
    return streams.rows(plan.latent_shape)


def plan_schedule(
    request: Request, model: ModelFolder, edits: Edits | None
) -> tuple[Schedule, NoiseTimes, list[str]]:
    """The rows, their noise levels among those of the training, and warnings.

    Raises:
        RequestError: There is no such sampler, or its options do not fit.
    """
    name, warning = request.scheduler, None
    if name is None:
        name, warning = scheduler_name(model.scheduler)
    config = pipeline_config(model.scheduler, is_xl=model.is_xl)
    schedule = make_schedule(
        name,
        config,
        request.steps,
        eta=float(request.eta),
        timestep_spacing=request.timestep_spacing,
        begin=0 if edits is None else left_out(request.steps, edits.strength),
        custom=request.custom_steps,
    )
    sigmas = np.array([step.sigma for step in schedule.steps], np.float32)
    times = NoiseTimes(sigmas, training_levels(name, config))
    return schedule, times, [*([warning] if warning else ()), *schedule.warnings]


def _seeds(request: Request, profile: Profile) -> tuple[int, ...]:
    """Of each picture; all have that of the one generator, where there is one."""
    step = 0 if profile.seeds == "one generator" else 1
    return tuple((int(request.seed) + i * step) % 2**64 for i in range(request.num_images))


def _check_latents(latents: object, shape: tuple[int, ...], size: str) -> None:
    if latents is None:
        return
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
    own = (model.unet.sample_size or side) * factor
    default = start_size(request, factor) or (own, own)
    width = default[0] if request.width is None else request.width
    height = default[1] if request.height is None else request.height
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
    tokenizers: Sequence[ClipTokenizer],
    adapters: Mapping[str, AttachedAdapter],
    canvas: Canvas,
    times: NoiseTimes,
) -> Iterator[PlannedPrompt]:
    profile, steps = profile_named(request.profile), len(times.steps)
    for number, prompt in enumerate(request.image_prompts):
        name = adapter_name(prompt.adapter, adapters)
        attached = adapters[name]
        check_fits(prompt, attached.loaded.spec, attached.file)
        direction = plan_direction(prompt, name, attached.loaded, model, tokenizers)
        side = ClipRecipe.from_config(attached.loaded.preprocessing).output[0]
        reader = Reader(name, attached, profile)
        window = open_steps(profile.window, prompt.start, prompt.end, times)
        parts = prompt_parts(with_noise(prompt), profile, attached.scale)
        for rank, part in enumerate(parts):
            where = f"image_prompts[{number}] (adapter {name!r}): mask {rank}"
            for tile in tiled(part.prompt, side, canvas, where, profile):
                own = tile.prompt
                yield PlannedPrompt(
                    number=number,
                    adapter=name,
                    features=plan_features(own, reader, direction, part.weights),
                    table=lambda_table(own, attached.scale, model.sites, steps, window, profile),
                    masks=canvas.masks(tile.mask, tile.mask_fit, where, profile.mask_rule),
                    embeds_scaling=own.embeds_scaling,
                    moved=moved_sites(own.layers, model.sites),
                )
