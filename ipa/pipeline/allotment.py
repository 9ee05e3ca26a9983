"""The memory of a run, settled before it starts: what it will take, and what is changed to fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path

from ipa.backend.protocol import Backend
from ipa.backend.vae_memory import VaeMemory
from ipa.memory.limits import Limits
from ipa.memory.plan import MemoryPlan, StageMemory
from ipa.model.controlnet import ControlNetSpec
from ipa.prepare.image_prompts.attached import AttachedAdapter
from ipa.request.embeds import ImageEmbeds

from .plan import Plan, PlannedPrompt
from .previews import is_fitted
from .staging import RUN_ORDER, Allotment


def allot_all(
    plans: Sequence[Plan], backend: Backend, limits: Limits, *, watched: bool = False
) -> tuple[list[Allotment], Backend]:
    """The memory of each run of a call, and the backend as it is set for all of them.

    Args:
        plans: The runs.
        backend: A frozen one.
        limits: The budget, and what may be changed to keep to it.
        watched: Whether a tap is told of the runs' stages: then nothing goes in strips.

    Raises:
        RequestError: One cannot fit, whatever may be changed; nothing was read or computed.
    """
    first: MemoryPlan | None = None
    for taken, way in _ways(backend, limits, watched=watched):
        found = [foresee(plan, backend, limits.budget, way) for plan in plans]
        over = [memory for memory in found if not memory.fits]
        if not over:
            releases = limits.budget is not None and backend.residency.can_release
            if taken:
                backend = copy(backend)
                backend.vae_memory = way
            return [Allotment(memory, taken, releases) for memory in found], backend
        first = first or over[0]
    assert first is not None
    first.require_fit()
    raise AssertionError("a plan that does not fit was let through")


def _ways(
    backend: Backend, limits: Limits, *, watched: bool
) -> list[tuple[tuple[str, ...], VaeMemory]]:
    """The changes that may be taken, the least first, each with the VAE's setting."""
    asked: VaeMemory = backend.vae_memory
    if watched and asked in ("strips", None):
        return [((), "whole")]
    ways: list[tuple[tuple[str, ...], VaeMemory]] = [((), asked)]
    if asked is None and "strips" in limits.offers:
        ways.append((("strips",), "strips"))
    return ways


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
