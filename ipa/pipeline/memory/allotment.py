"""The memory of a run, settled before it starts: what it will take, and what is changed to fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace

from ipa.backend.protocol import Backend
from ipa.backend.vae_memory import VaeMemory
from ipa.errors import RequestError
from ipa.memory.limits import Limits
from ipa.memory.plan import MemoryPlan, in_words

from ..plan import Plan
from .foresight import foresee, with_offers
from .staging import Allotment

_UNASKED = 768 * 768
"""Pixels of all pictures of a run up to which none is foretold without a budget."""

_MUCH = 0.25
"""The share of what "auto" means from which a run says how much it takes."""


@dataclass(frozen=True, slots=True)
class Allotted:
    """A call as it is run: pieces of its plans, the memory of each, and the backend for them.

    None stands for the memory of small runs without a budget, which is not foretold.
    """

    plans: tuple[Plan, ...]
    memory: tuple[Allotment | None, ...]
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
    ways = list(_ways(plans, backend, limits, watched=watched))
    if limits.budget is None:
        return _unlimited(plans, backend, ways[0].vae)
    for way in ways:
        pieces = tuple(piece for plan in plans for piece in _pieces(plan, way.most))
        found = [foresee(piece, backend, limits.budget, way.vae) for piece in pieces]
        if all(memory.fits for memory in found):
            if "strips" in way.taken:
                backend = copy(backend)
                backend.vae_memory = way.vae
            releases = backend.residency.can_release
            memory = tuple(Allotment(one, way.taken, releases) for one in found)
            return Allotted(pieces, memory, backend)
    plan_memory(plans, backend, limits, ways[0].vae).require_fit()
    raise AssertionError("a plan that does not fit was let through")


def plan_memory(
    plans: Sequence[Plan], backend: Backend, limits: Limits, vae: VaeMemory
) -> MemoryPlan:
    """The memory of the largest run of a call as it stands, with what would take less."""
    found = [(foresee(plan, backend, limits.budget, vae), plan) for plan in plans]
    memory, plan = max(found, key=lambda pair: pair[0].peak)
    return with_offers(plan, backend, memory, vae)


def _unlimited(plans: Sequence[Plan], backend: Backend, vae: VaeMemory) -> Allotted:
    if all(plan.width * plan.height * len(plan.seeds) <= _UNASKED for plan in plans):
        return Allotted(tuple(plans), (None,) * len(plans), backend)
    found = (foresee(plan, backend, None, vae) for plan in plans)
    return Allotted(tuple(plans), tuple(_large(one, backend) for one in found), backend)


def _large(memory: MemoryPlan, backend: Backend) -> Allotment:
    """An allotment that says how much a run takes, with a warning if that is too much for ease.

    Raises:
        RequestError: It takes more than the machine has.
    """
    machine = backend.residency.machine()
    figure = f"{in_words(memory.peak)} in the stage {memory.largest.name}"
    if memory.peak > machine.total:
        raise RequestError(
            "this run takes more memory than the machine has",
            found=f"{figure}, of {in_words(machine.total)}",
            remedy="ipa-mlx plan says what takes less; with a memory_budget it may fit",
        )
    if memory.peak > machine.automatic:
        warning = (
            f"this run takes {figure}, more than the {in_words(machine.automatic)} that are "
            f"{machine.automatic_words}: the machine may swap; ipa-mlx plan says what takes less"
        )
        return Allotment(memory, notes=(warning,), announced=(warning,))
    is_much = memory.peak > machine.automatic * _MUCH
    return Allotment(memory, announced=(f"this run takes {figure}",) if is_much else ())


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
