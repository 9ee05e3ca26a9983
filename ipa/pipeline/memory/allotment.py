"""The memory of a run, settled before it starts: what it will take, and what is changed to fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

from ipa.backend.protocol import Backend
from ipa.backend.vae_memory import VaeMemory
from ipa.memory.limits import Limits
from ipa.memory.plan import MemoryPlan, StageMemory
from ipa.model.controlnet import ControlNetSpec
from ipa.prepare.image_prompts.attached import AttachedAdapter
from ipa.request.embeds import ImageEmbeds

from ..plan import Plan, PlannedPrompt
from ..previews import is_fitted
from .staging import RUN_ORDER, Allotment


@dataclass(frozen=True, slots=True)
class Allotted:
    """A call as it is run: pieces of its plans, the memory of each, and the backend for them."""

    plans: tuple[Plan, ...]
    memory: tuple[Allotment, ...]
    backend: Backend


@dataclass(frozen=True, slots=True)
class _Way:
    """What is changed of a call: the VAE's setting, and how many pictures are made at once."""

    taken: tuple[str, ...]
    vae: VaeMemory
    most: int | None = None


def allot(
    plans: Sequence[Plan], backend: Backend, limits: Limits, *, watched: bool = False
) -> Allotted:
    """Settle the memory of a call.

    Args:
        plans: Its runs.
        backend: A frozen one.
        limits: The budget, and what may be changed to keep to it.
        watched: Whether a tap is told of the runs' stages: then nothing goes in strips.

    Raises:
        RequestError: A run cannot fit, whatever may be changed; nothing was read or computed.
    """
    first: MemoryPlan | None = None
    for way in _ways(plans, backend, limits, watched=watched):
        pieces = tuple(piece for plan in plans for piece in _pieces(plan, way.most))
        found = [foresee(piece, backend, limits.budget, way.vae) for piece in pieces]
        over = [memory for memory in found if not memory.fits]
        if not over:
            releases = limits.budget is not None and backend.residency.can_release
            if "strips" in way.taken:
                backend = copy(backend)
                backend.vae_memory = way.vae
            memory = tuple(Allotment(one, way.taken, releases) for one in found)
            return Allotted(pieces, memory, backend)
        first = first or over[0]
    assert first is not None
    first.require_fit()
    raise AssertionError("a plan that does not fit was let through")


def _ways(
    plans: Sequence[Plan], backend: Backend, limits: Limits, *, watched: bool
) -> Iterator[_Way]:
    """The changes that may be made, the least first."""
    asked: VaeMemory = backend.vae_memory
    if watched and asked in ("strips", None):
        yield _Way((), "whole")
        return
    yield _Way((), asked)
    taken: tuple[str, ...] = ()
    if asked is None and "strips" in limits.offers:
        taken, asked = ("strips",), "strips"
        yield _Way(taken, asked)
    if "fewer" in limits.offers and all(map(_can_part, plans)):
        count = len(plans[0].seeds)
        fewer = dict.fromkeys(-(-count // parts) for parts in range(2, count + 1))
        for most in fewer:
            yield _Way((*taken, "fewer"), asked, most)


def _can_part(plan: Plan) -> bool:
    """Whether its pictures can be made in several runs: each has its own noise and the same start.

    A preview shows all pictures of a run.
    """
    is_one_start = plan.edits is None or len(plan.edits.sources) < 2
    is_own = plan.share is None and len(set(plan.seeds)) == len(plan.seeds)
    return is_one_start and is_own and plan.request.preview is None


def _pieces(plan: Plan, most: int | None) -> Iterator[Plan]:
    """A plan as plans of at most so many pictures."""
    if most is None or len(plan.seeds) <= most:
        yield plan
        return
    for first in range(0, len(plan.seeds), most):
        seeds, latents = plan.seeds[first : first + most], plan.request.latents
        if latents is not None:
            latents = latents[first : first + most]
        request = replace(plan.request, seed=seeds[0], num_images=len(seeds), latents=latents)
        yield replace(plan, request=request, seeds=seeds)


def foresee(plan: Plan, backend: Backend, budget: int | None, way: VaeMemory) -> MemoryPlan:
    """What a run will take: the weights that each stage uses."""
    parts = backend.residency.parts()
    staged = budget is not None and backend.residency.can_release
    used = stage_parts(plan)
    stages = []
    for name in RUN_ORDER:
        if name in used:
            held = {p: parts[p].nbytes for p in parts if not staged or p in used[name]}
            stages.append(StageMemory(name, held, 0))
    return MemoryPlan(tuple(stages), budget, staged)


def stage_parts(plan: Plan) -> dict[str, frozenset[str]]:
    """The parts of the model that each stage of a run uses, by the names of `Residency`."""
    texts = {"text_encoder", "text_encoder_2"}
    encoders, images = encoder_parts(plan.loaded.adapters), set[str]()
    for prompt in plan.prompts:
        images.add(f"adapter {prompt.adapter}")
        if _sees(prompt):
            images.add(encoders.get(prompt.adapter, ""))
        if prompt.features.direction is not None:
            images |= texts
    nets = {control.branch.name for control in plan.controls}
    controls = {f"controlnet {name}" for name in nets}
    acting = {
        f"controlnet {name}"
        for name in nets
        if isinstance(plan.loaded.controlnets[name].spec, ControlNetSpec)
    }
    adapters = {f"adapter {prompt.adapter}" for prompt in plan.prompts}
    shown = {"vae"} if is_fitted(plan.request, plan.loaded.model.vae) else set()
    stages = {
        "encode": {"vae"} if plan.edits is not None else set(),
        "text": texts,
        "images": images,
        "condition": {"unet", *controls, *adapters},
        "denoise": {"unet", *acting, *shown},
        "decode": {"vae"} if plan.request.output_type != "latent" else set(),
    }
    return {name: frozenset(parts) for name, parts in stages.items() if parts}


def encoder_parts(adapters: Mapping[str, AttachedAdapter]) -> dict[str, str]:
    """The name of the part that is each adapter's image encoder, for those that have one."""
    places: dict[Path, str] = {}
    found = {}
    for name, attached in adapters.items():
        if attached.loaded.encoder_name:
            place = Path(attached.loaded.encoder_name).resolve()
            number = len(places) + 1
            part = "image_encoder" if number == 1 else f"image_encoder {number}"
            found[name] = places.setdefault(place, part)
    return found


def reading_parts(name: str, adapters: Mapping[str, AttachedAdapter]) -> tuple[str, ...]:
    """The parts that see pictures for an adapter, and texts that are taken away from them."""
    encoder = encoder_parts(adapters).get(name, "")
    return (encoder, f"adapter {name}", "text_encoder", "text_encoder_2")


def _sees(prompt: PlannedPrompt) -> bool:
    """Whether pictures of an image prompt go through its encoder."""
    features = prompt.features
    given = (features.source, features.negative)
    is_seen = any(one is not None and not isinstance(one, ImageEmbeds) for one in given)
    return is_seen or features.closer is not None
