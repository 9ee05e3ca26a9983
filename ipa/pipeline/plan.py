"""From a request to everything that a run needs, decided and checked before any memory is spent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ipa.arrays import Floats
from ipa.backend.deep import DeepPart
from ipa.backend.past import PastFeatures
from ipa.backend.schedule import Schedule
from ipa.errors import RequestError
from ipa.model.folder import ModelFolder
from ipa.model.preprocessor import ClipPreprocessor
from ipa.prepare.computed import Computed
from ipa.prepare.controls.pixels import has_holes
from ipa.prepare.controls.planning import PlannedControl, plan_controls
from ipa.prepare.editing.edits import Edits, plan_edits, shared_crop, start_size
from ipa.prepare.guidance import guidance_embedding, guidance_scale
from ipa.prepare.image_prompts.attached import AttachedAdapter, DefaultScale, adapter_name
from ipa.prepare.image_prompts.encoding import PlannedFeatures, Reader, plan_features
from ipa.prepare.image_prompts.faces import check_fits
from ipa.prepare.image_prompts.noise_picture import with_noise
from ipa.prepare.image_prompts.parts import prompt_parts
from ipa.prepare.image_prompts.text_direction import plan_direction
from ipa.prepare.image_prompts.tiles import tiled
from ipa.prepare.samplers.noise import OwnStreams, Share, SharedStream, Streams
from ipa.prepare.samplers.schedules import (
    clipping_warning,
    make_schedule,
    pipeline_config,
    scheduler_name,
    training_levels,
)
from ipa.prepare.samplers.steps import left_out
from ipa.prepare.scaling.curves import NoiseTimes, open_steps
from ipa.prepare.scaling.lambdas import lambda_table
from ipa.prepare.scaling.masks import Canvas, SiteMasks, silence
from ipa.prepare.scaling.precise import moved_sites
from ipa.prepare.scaling.unusual import unusual_numbers
from ipa.prepare.text.notes import syntax_warnings
from ipa.prepare.text.prompts import PlannedText, plan_texts, text_warnings
from ipa.request.image_prompt import ImagePrompt
from ipa.request.pictures import Picture, eight_bits
from ipa.request.profiles import AS_MEANT, HOUSE, Profile, profile_named
from ipa.request.request import Request
from ipa.request.scales import V_ONLY, Scale

from .call_loras import CallLoras, plan_loras
from .snapshot import Snapshot

_DEFAULT_LATENT_SIDE = 64  # where a UNet's config names no sample_size
_DEFAULT_LATENT_SIDE_XL = 128


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
    """The plan of a run: texts, pictures, schedule, noise. `texts` is (negative, positive) or less.

    `guidance` is what a network is told of `guidance_scale` that takes it as an input. `loaded` is
    what it was planned with, and `loras` those that act. `computed` says what of the network
    each step computes. `share` is its part of a call with several prompts, where one generator
    draws for all of them.
    """

    request: Request
    loaded: Snapshot
    width: int
    height: int
    texts: tuple[PlannedText, ...]
    prompts: tuple[PlannedPrompt, ...]
    schedule: Schedule
    seeds: tuple[int, ...]
    latent_shape: tuple[int, int, int]
    warnings: tuple[str, ...]
    computed: Computed
    profile: Profile = HOUSE
    controls: tuple[PlannedControl, ...] = ()
    guidance_scale: float = 1.0
    guidance: Floats | None = None
    edits: Edits | None = None
    loras: CallLoras = field(default_factory=CallLoras)
    share: Share | None = None

    @property
    def guided(self) -> bool:
        """Whether the unconditional half is computed."""
        return len(self.texts) == 2

    def scales(self, step: int) -> list[tuple[float, ...]]:
        """The λ[prompt][site] at a step; 0 where a mask is empty."""
        return [silence(prompt.table[:, step].tolist(), prompt.masks) for prompt in self.prompts]

    def control_scales(self, step: int) -> list[list[float]]:
        """The weights of every control's results at a step."""
        return [control.table[:, step].tolist() for control in self.controls]

    def deep_part(self) -> DeepPart | None:
        """What a full step is to fill for those after it; None where all steps are full."""
        return None if all(self.computed.full) else DeepPart(self.request.cache_branch)

    def past_features(self) -> PastFeatures | None:
        """What steps are to fill for those that are forecast; None where none is."""
        return PastFeatures() if any(self.computed.forecasts) else None

    def adapters(self) -> tuple[str, ...]:
        """Each image prompt's adapter, in the order of the request."""
        return tuple({plan.number: plan.adapter for plan in self.prompts}.values())


def make_plan(request: Request, loaded: Snapshot) -> Plan:
    """Plan a request: check it against what is loaded, and prepare the backend's inputs.

    Raises:
        RequestError: Something cannot be honoured; nothing has been computed yet.
    """
    profile = profile_named(request.profile)
    if request.negative_prompt is None and profile.negative_prompt is not None:
        request = replace(request, negative_prompt=profile.negative_prompt)
    model = loaded.model
    width, height = _size(request, model)
    shape = _latent_shape(model, width, height)
    _check_latents(request.latents, (request.num_images, *shape), f"{width} × {height}")
    edits = plan_edits(request, model, width, height)
    loras = plan_loras(request, loaded)
    texts = plan_texts(request, model, loras.tokenizers, (height, width))
    schedule, times, notes = plan_schedule(request, model, edits)
    evaluations = len(schedule.steps)
    computed = Computed.of(request, model, schedule.steps)
    warnings = [*_text_warnings(request, texts), *loras.warnings, *notes, *model.notes]
    warnings += computed.warnings
    scale = guidance_scale(request, model)
    canvas = Canvas.of(model, width, height, shared_crop(request, edits))
    prompts = tuple(_plan_prompts(request, loaded, canvas, times))
    controls = _plan_controls(request, loaded, canvas, evaluations)
    warnings += [*_unusual(request, loaded), *_prompt_warnings(prompts, canvas, profile)]
    warnings += [*_loaded_warnings(prompts, controls, loaded), *_crop_warnings(request, canvas)]
    return Plan(
        request=request,
        loaded=loaded,
        width=width,
        height=height,
        texts=texts,
        prompts=prompts,
        schedule=schedule,
        seeds=_seeds(request, profile),
        latent_shape=shape,
        warnings=tuple(dict.fromkeys(warnings)),
        computed=computed,
        profile=profile,
        controls=controls,
        guidance_scale=scale,
        guidance=guidance_embedding(scale, model),
        edits=edits,
        loras=loras,
    )


def _text_warnings(request: Request, texts: Sequence[PlannedText]) -> list[str]:
    """Warnings about what is lost of texts, and what of their syntax is not read."""
    return [*text_warnings(texts), *syntax_warnings(request, texts[-1].inversions)]


def _unusual(request: Request, loaded: Snapshot) -> list[str]:
    """Warnings about unusual weights and guidance, also of what is loaded."""
    return unusual_numbers(request, {name: a.scale for name, a in loaded.adapters.items()})


def _loaded_warnings(
    prompts: Sequence[PlannedPrompt], controls: Sequence[PlannedControl], loaded: Snapshot
) -> Iterator[str]:
    """Warnings about parts of files in use that were left out, or not understood."""
    for name in dict.fromkeys(prompt.adapter for prompt in prompts):
        attached = loaded.adapters[name].loaded
        yield from attached.left_out.warnings()
        yield from attached.unread
    for name in dict.fromkeys(control.branch.name for control in controls):
        yield from loaded.controlnets[name].spec.unread


def _prompt_warnings(
    prompts: Sequence[PlannedPrompt], canvas: Canvas, profile: Profile
) -> list[str]:
    """Warnings about image prompts: what is lost of them, and what they cannot do."""
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
    """Image prompts of diffusers' `ip_adapter_image`: a picture, or a list by adapter."""
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
    """The noise streams of a run: a generator per picture, or one for all of a call."""
    if plan.profile.seeds == "one generator":
        count, edits = len(plan.seeds), plan.edits
        alone = Share(count, one_source=edits is None or len(edits.sources) < 2)
        return SharedStream(plan.seeds[0], count, plan.share or alone)
    return OwnStreams(plan.seeds)


def starting_noise(plan: Plan, streams: Streams) -> Floats:
    """The starting noise x_T before the schedule's factor: (N, C, h, w)."""
    if plan.request.latents is not None:
        return np.ascontiguousarray(plan.request.latents, dtype=np.float32)
    return draw(plan, streams)


def draw(plan: Plan, streams: Streams) -> Floats:
    """Fresh standard noise for every picture of a run, (N, C, h, w)."""
    return streams.rows(plan.latent_shape)


def plan_schedule(
    request: Request, model: ModelFolder, edits: Edits | None
) -> tuple[Schedule, NoiseTimes, list[str]]:
    """Plan the schedule: its rows, their noise levels in training, and warnings.

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
    times = NoiseTimes(sigmas, training_levels(schedule.name, config))
    clipping = clipping_warning(schedule.name, model.scheduler, is_xl=model.is_xl)
    return schedule, times, [*([warning] if warning else ()), *clipping, *schedule.warnings]


def _seeds(request: Request, profile: Profile) -> tuple[int, ...]:
    """The seeds of the pictures; all have that of the one generator, if there is one."""
    step = 0 if profile.seeds == "one generator" else 1
    return tuple((int(request.seed) + i * step) % 2**64 for i in range(request.num_images))


def _latent_shape(model: ModelFolder, width: int, height: int) -> tuple[int, int, int]:
    """The shape of a picture's latents: channels, rows, columns."""
    factor = model.vae.scale_factor
    return model.vae.latent_channels, height // factor, width // factor


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
    usual = (model.unet.sample_size or side) * factor
    default = start_size(request, factor) or (usual, usual)
    width = default[0] if request.width is None else request.width
    height = default[1] if request.height is None else request.height
    if width % factor or height % factor:
        raise RequestError(
            f"width and height must be multiples of {factor}",
            found=f"{width} × {height}",
            remedy=f"try {-(-width // factor) * factor} × {-(-height // factor) * factor}",
        )
    return int(width), int(height)


def _crop_warnings(request: Request, canvas: Canvas) -> Iterator[str]:
    """Warnings about masks and control pictures over a picture of which a crop is worked on.

    That is a mask which is black all over that part, and what has the part's size.
    """
    if canvas.crop is None:
        return
    for number, prompt in enumerate(request.image_prompts, start=1):
        masks: Any = prompt.mask if isinstance(prompt.mask, tuple) else (prompt.mask,)
        for rank, mask in enumerate(masks, start=1):
            if mask is None:
                continue
            where = f"image prompt {number}" + (f", picture {rank}" if len(masks) > 1 else "")
            if canvas.misses(mask, prompt.mask_fit, where):
                yield (
                    f"{where}: its mask lies outside of what padding_mask_crop works on, so that "
                    "it does nothing here"
                )
            yield from _taken_whole(f"the mask of {where}", mask.shape[::-1], canvas)
    for number, control in enumerate(request.controls, start=1):
        shown = eight_bits(control.pictures[0]) if not has_holes(control.pictures[0]) else None
        size = shown.size if shown else np.asarray(control.pictures[0]).shape[1::-1]
        yield from _taken_whole(f"the picture of control {number}", size, canvas)


def _taken_whole(what: str, size: tuple[int, ...], canvas: Canvas) -> Iterator[str]:
    assert canvas.crop is not None
    (width, height), (left, top, right, bottom) = canvas.crop.size, canvas.crop.box
    parts = {(right - left, bottom - top), (canvas.width, canvas.height)}
    if size in parts - {(width, height)}:
        yield (
            f"{what} is {size[0]} × {size[1]}, as if it were cropped: it is taken to lie over all "
            f"of the picture ({width} × {height}), as everything is with padding_mask_crop"
        )


def _plan_prompts(
    request: Request, loaded: Snapshot, canvas: Canvas, times: NoiseTimes
) -> Iterator[PlannedPrompt]:
    profile, steps, model = profile_named(request.profile), len(times.steps), loaded.model
    for number, prompt in enumerate(request.image_prompts):
        name = adapter_name(prompt.adapter, loaded.adapters)
        attached = loaded.adapters[name]
        check_fits(prompt, attached.loaded.spec, attached.file)
        prompt, default = _with_default(prompt, attached.scale)
        direction = plan_direction(prompt, name, attached.loaded, model, loaded.tokenizers)
        side = ClipPreprocessor.from_config(attached.loaded.preprocessing).output[0]
        reader = Reader(name, attached, profile)
        window = open_steps(profile.window, prompt.start, prompt.end, times)
        parts = prompt_parts(with_noise(prompt), profile, default)
        for rank, part in enumerate(parts):
            where = f"image_prompts[{number}] (adapter {name!r}): mask {rank}"
            for tile in tiled(part.prompt, side, canvas, where, profile):
                piece = tile.prompt
                yield PlannedPrompt(
                    number=number,
                    adapter=name,
                    features=plan_features(piece, reader, direction, part.weights),
                    table=lambda_table(piece, default, model.sites, steps, window, profile),
                    masks=canvas.masks(tile.mask, tile.mask_fit, where, profile.mask_rule),
                    embeds_scaling=piece.embeds_scaling,
                    moved=moved_sites(piece.layers, model.sites),
                )


def _plan_controls(
    request: Request, loaded: Snapshot, canvas: Canvas, steps: int
) -> tuple[PlannedControl, ...]:
    size = (canvas.width, canvas.height)
    return plan_controls(request.controls, loaded.controlnets, size, steps, canvas.crop)


def _with_default(prompt: ImagePrompt, default: DefaultScale) -> tuple[ImagePrompt, Scale]:
    """A prompt with its adapter's scales if they are one per picture; and the scale for all."""
    if not isinstance(default, tuple):
        return prompt, default
    return (replace(prompt, scale=default) if prompt.scale is None else prompt), 1.0
