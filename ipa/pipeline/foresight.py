"""What a planned run will take in memory, stage by stage, and what would make it less."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ipa.backend.protocol import Backend
from ipa.backend.vae_memory import VaeMemory
from ipa.backend.work import DenoiseWork, VaeWork, Work, WorkMemory
from ipa.memory.plan import MemoryPlan, Offer, StageMemory
from ipa.model.controlnet import ControlNetSpec
from ipa.model.quantization import BITS, GROUP_SIZE, Quantization
from ipa_convert import component_bytes

from .parts import encoder_parts, stage_parts
from .plan import Plan
from .staging import RUN_ORDER
from .works import stage_works

KEPT = "kept"
"""The name among a stage's residents of what earlier stages made for it."""

NOT_FORETOLD = "this backend does not foretell what its stages take beside weights"
_ITEMS: Mapping[str, int] = {"float64": 8, "float32": 4}


@dataclass(frozen=True, slots=True)
class Way:
    """A way to make a run: what offers change of it.

    Attributes:
        staged: Whether parts are in memory for their stages alone.
        vae: How pictures go through the VAE.
        bits: Of the matrices of transformers; None leaves them.
        pictures: How many are made at once; None is all.
        sides: What width and height are divided by.
    """

    staged: bool
    vae: VaeMemory
    bits: int | None = None
    pictures: int | None = None
    sides: int = 1


def foresee(plan: Plan, backend: Backend, budget: int | None, vae: VaeMemory) -> MemoryPlan:
    """What a run will take: the weights that each stage holds, and what it computes with them."""
    staged = budget is not None and backend.residency.can_release
    return _foreseen(plan, backend, budget, Way(staged, vae))


def with_offers(plan: Plan, backend: Backend, found: MemoryPlan, vae: VaeMemory) -> MemoryPlan:
    """The same with what would take less, each alone and then together, as a person would try."""
    start = Way(found.staged, vae)
    offers: list[Offer] = []
    for name, words, way, same in _ways(plan, backend, start):
        peak = _foreseen(plan, backend, None, way).peak
        if peak < found.peak:
            offers.append(Offer(name, words, peak, same))
    return replace(found, offers=tuple(_useful(offers)))


def _useful(offers: list[Offer]) -> Iterator[Offer]:
    """Those that are no worse than one of which they are a part."""
    for offer in offers:
        parts = {*offer.name.split(" + ")}
        fewer = [other for other in offers if {*other.name.split(" + ")} < parts]
        if all(offer.peak < other.peak for other in fewer):
            yield offer


_STAGED = "load each part for its stage alone: memory_budget"
_STRIPS = 'the VAE in strips, the same picture: vae_memory="strips"'
_FEWER = "one picture at a time: num_images=1"
_SMALLER = "half the width and height"


def _ways(
    plan: Plan, backend: Backend, start: Way
) -> Iterator[tuple[str, str, Way, bool]]:
    """What may be changed: name, words, the way, and whether the picture stays the same."""
    changes: list[tuple[str, str, dict[str, Any], bool]] = []
    if not start.staged and backend.residency.can_release:
        changes.append(("staged", _STAGED, {"staged": True}, True))
    if start.vae in (None, "whole"):
        changes.append(("strips", _STRIPS, {"vae": "strips"}, True))
    if len(plan.seeds) > 1:
        changes.append(("fewer pictures", _FEWER, {"pictures": 1}, True))
    free: list[tuple[str, str, dict[str, Any], bool]] = list(changes)
    for bits in sorted(_bits(backend), reverse=True):
        words = f"matrices in {bits} bits, another picture: quantize={bits}"
        changes.append((f"quantize {bits}", words, {"bits": bits}, False))
    changes.append(("smaller", _SMALLER, {"sides": 2}, False))
    yield from ((n, w, replace(start, **c), same) for n, w, c, same in changes)
    if len(free) > 1:
        yield _joined(start, free)
    for one in changes[len(free) :]:
        if free:
            yield _joined(start, [*free, one])


def _joined(
    start: Way, changes: list[tuple[str, str, dict[str, Any], bool]]
) -> tuple[str, str, Way, bool]:
    way = start
    for _, _, change, _ in changes:
        way = replace(way, **change)
    names, words = (joint.join(c[i] for c in changes) for i, joint in ((0, " + "), (1, "; ")))
    return names, words, way, all(c[3] for c in changes)


def _bits(backend: Backend) -> tuple[int, ...]:
    """The bits that the matrices could have and have not."""
    if backend.name != "mlx" or backend.describe().get("quantization"):
        return ()
    return BITS if GROUP_SIZE <= min(backend.model.unet.channels) else ()


def _foreseen(plan: Plan, backend: Backend, budget: int | None, way: Way) -> MemoryPlan:
    parts = {name: part.nbytes for name, part in backend.residency.parts().items()}
    if way.bits is not None:
        parts = {name: n - _saved(name, plan, backend, way.bits) for name, n in parts.items()}
    beside = {
        f"lora {name}": lora.loaded.nbytes + lora.loaded.originals_nbytes
        for name, lora in plan.loaded.loras.items()
    }
    used, works = stage_parts(plan), stage_works(plan, way.vae)
    stages, kept, is_foretold = list[StageMemory](), 0, True
    for name in RUN_ORDER:
        if name not in used and name not in works:
            continue
        held = {p: n for p, n in parts.items() if not way.staged or p in used.get(name, ())}
        memories = [_memory(work, backend, way) for work in works.get(name, ())]
        is_foretold &= all(memory is not None for memory in memories)
        found = [memory for memory in memories if memory is not None]
        before, kept = kept, _kept(name, plan, found, kept)
        resident = {**held, **beside, **({KEPT: before} if before else {})}
        stages.append(StageMemory(name, resident, _peak(found)))
    notes = () if is_foretold else (NOT_FORETOLD,)
    return MemoryPlan(tuple(stages), budget, way.staged, notes=notes)


def _memory(work: Work, backend: Backend, way: Way) -> WorkMemory | None:
    """The memory of some work, made in a way."""
    if isinstance(work, DenoiseWork) and way.pictures is not None:
        work = replace(work, pictures=min(way.pictures, work.pictures))
    if isinstance(work, DenoiseWork | VaeWork) and way.sides > 1:
        factor = backend.model.vae.scale_factor * way.sides
        height, width = (max(1, n // factor) for n in (work.height, work.width))
        unit = backend.model.vae.scale_factor
        work = replace(work, height=height * unit, width=width * unit)
    return backend.work_memory(work)


def _peak(memories: list[WorkMemory]) -> int:
    """The most of works that follow one another and whose results stay until the last is done."""
    peak = results = 0
    for memory in memories:
        peak = max(peak, results + memory.peak)
        results += memory.results
    return max(peak, results)


def _kept(name: str, plan: Plan, found: list[WorkMemory], kept: int) -> int:
    """What the next stage finds: texts and tokens become keys and values, which steps need."""
    results = sum(memory.results for memory in found)
    if name in ("text", "images"):
        return kept + results
    if name == "condition":
        # The conditional half stands beside the whole where some steps are not guided.
        return results + (results // 2 if plan.guided and not all(plan.guided_steps) else 0)
    return 0


def _saved(name: str, plan: Plan, backend: Backend, bits: int) -> int:
    """The bytes that a part would be less in so many bits."""
    component, spec = _specs(plan, backend).get(name, ("", None))
    if spec is None:
        return 0
    item, how = _ITEMS.get(backend.dtype, 2), Quantization(bits)
    return component_bytes(component, spec, item) - component_bytes(component, spec, item, how)


def _specs(plan: Plan, backend: Backend) -> dict[str, tuple[Any, Any]]:
    """The parts that may be quantised: component and structure by name."""
    model, loaded = backend.model, plan.loaded
    found: dict[str, tuple[Any, Any]] = {
        "unet": ("unet", model.unet),
        "text_encoder": ("text_encoder", model.text_encoder),
        "text_encoder_2": ("text_encoder_2", model.text_encoder_2),
    }
    for name, part in encoder_parts(loaded.adapters).items():
        found[part] = ("image_encoder", loaded.adapters[name].loaded.encoder)
    for name, control in loaded.controlnets.items():
        if isinstance(control.spec, ControlNetSpec):
            found[f"controlnet {name}"] = ("controlnet", control.spec)
    return found
