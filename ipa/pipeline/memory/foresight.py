"""What a planned run will take in memory, stage by stage, and what would make it less."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any

from ipa.backend.protocol import Backend
from ipa.backend.vae_memory import VaeMemory
from ipa.backend.work import DenoiseWork, VaeWork, Work, WorkMemory
from ipa.memory.plan import MemoryPlan, Offer, StageMemory
from ipa.model.quantization import BITS

from ..plan import Plan
from .parts import stage_parts
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
    return _Foresight(plan, backend).of(Way(staged, vae), budget)


def with_offers(plan: Plan, backend: Backend, found: MemoryPlan, vae: VaeMemory) -> MemoryPlan:
    """The same with what would take less, each alone and then together, as a person would try."""
    foresight, start = _Foresight(plan, backend), Way(found.staged, vae)
    offers: list[Offer] = []
    for change in _changes(plan, backend, start, fits=found.fits):
        peak = foresight.of(change.way(start)).peak
        if peak < found.peak:
            offers.append(Offer(change.name, change.words, peak, change.same_picture))
    return replace(found, offers=tuple(_useful(offers)))


def _useful(offers: list[Offer]) -> Iterator[Offer]:
    """Those that are no worse than one of which they are a part."""
    for offer in offers:
        parts = {*offer.name.split(" + ")}
        fewer = [other for other in offers if {*other.name.split(" + ")} < parts]
        if all(offer.peak < other.peak for other in fewer):
            yield offer


_STAGED = "parts in memory for their stages alone: memory_budget"
_STRIPS = 'the VAE in strips, the same picture: vae_memory="strips"'
_FEWER = "one picture at a time: num_images=1"
_SMALLER = "half the width and height"
_BITS = "matrices in few bits, nearly the same picture:"


@dataclass(frozen=True, slots=True)
class _Change:
    """A change of a run: its name and words as an offer, and what of a `Way` it replaces."""

    name: str
    words: str
    fields: Mapping[str, Any]
    same_picture: bool = True

    def way(self, start: Way) -> Way:
        """The way with the change."""
        return replace(start, **self.fields)

    def __add__(self, other: _Change) -> _Change:
        return _Change(
            f"{self.name} + {other.name}",
            f"{self.words}; {other.words}",
            {**self.fields, **other.fields},
            self.same_picture and other.same_picture,
        )


def _changes(plan: Plan, backend: Backend, start: Way, *, fits: bool) -> list[_Change]:
    """What may be changed: each alone, all that keep the picture, and these with one more.

    Another size only where the run does not fit.
    """
    same: list[_Change] = []
    if not start.staged and backend.residency.can_release:
        same.append(_Change("staged", _STAGED, {"staged": True}))
    if start.vae in (None, "whole"):
        same.append(_Change("strips", _STRIPS, {"vae": "strips"}))
    if len(plan.seeds) > 1:
        same.append(_Change("fewer pictures", _FEWER, {"pictures": 1}))
    others = [
        _Change(f"quantize {n}", f"{_BITS} quantize={n}", {"bits": n}, same_picture=False)
        for n in sorted(BITS, reverse=True)
        if backend.residency.in_bits(n)
    ]
    if not fits:
        others.append(_Change("smaller", _SMALLER, {"sides": 2}, same_picture=False))
    joined: list[_Change] = []
    if same:
        every = reduce(add, same)
        joined = [every] if len(same) > 1 else []
        joined += [every + one for one in others]
    return [*same, *others, *joined]


class _Foresight:
    """The memory of one planned run on a backend, in any way that it may be made."""

    def __init__(self, plan: Plan, backend: Backend) -> None:
        self.plan, self.backend = plan, backend
        found = backend.residency.parts()
        self.parts = {name: part.nbytes for name, part in found.items()}
        self.reading = {name: part.reading for name, part in found.items()}
        self.used = stage_parts(plan, backend.residency.encoders())
        self.beside = _loras(plan)
        self.changes = _changes_by_faces(plan, _ITEMS.get(backend.dtype, 2))

    def of(self, way: Way, budget: int | None = None) -> MemoryPlan:
        """The memory of the run made in a way."""
        parts = self._parts(way.bits)
        works = stage_works(self.plan, way.vae)
        stages, kept, notes = list[StageMemory](), 0, tuple[str, ...]()
        for name in RUN_ORDER:
            if name not in self.used and name not in works:
                continue
            used = self.used.get(name, frozenset())
            held = {p: n for p, n in parts.items() if not way.staged or p in used}
            told = [_memory(work, self.backend, way) for work in works.get(name, ())]
            found = [memory for memory in told if memory is not None]
            notes = notes if len(found) == len(told) else (NOT_FORETOLD,)
            before, kept = kept, _kept(name, self.plan, found, kept)
            made = self.changes if name == "condition" else 0
            kept += made
            resident = {**held, **self.beside, **({KEPT: before} if before else {})}
            reading = max((self.reading[p] for p in held), default=0) if way.staged else 0
            stages.append(StageMemory(name, resident, max(_peak(found) + made, reading)))
        return MemoryPlan(tuple(stages), budget, way.staged, notes=notes)

    def _parts(self, bits: int | None) -> dict[str, int]:
        return self.parts | (self.backend.residency.in_bits(bits) if bits is not None else {})


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
        return results + (results // 2 if plan.guided and not all(plan.computed.guided) else 0)
    return 0


def _loras(plan: Plan) -> dict[str, int]:
    """The bytes of each LoRA: loaded, once more at its strength, and the layers that it is fused
    with."""
    found = {}
    for name, lora in plan.loaded.loras.items():
        found[f"lora {name}"] = lora.loaded.nbytes
        if plan.loras.scales.get(name):
            found[f"lora {name}"] += lora.loaded.nbytes + lora.loaded.originals_nbytes
    for name, path in plan.loras.files.items():  # read when the call begins
        found[f"lora {name}"] = 2 * path.stat().st_size
    return found


def _changes_by_faces(plan: Plan, item: int) -> int:
    """The bytes of what FaceID's LoRAs change in every attention, at their strength."""
    context, total = plan.loaded.model.unet.context_width, 0
    for name in {prompt.adapter for prompt in plan.prompts}:
        rank = plan.loaded.adapters[name].loaded.spec.lora_rank
        # Self-attention has four matrices from width to width, cross-attention two, and two from
        # the context.
        widths = sum(14 * site.width + 2 * context for site in plan.loaded.model.sites)
        total += rank * widths * item
    return total
