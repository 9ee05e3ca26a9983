"""A job in less memory: what is done for a second try, after memory ran out or a worker died."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ipa.memory.budget import LEAST, MOST, Budget
from ipa.memory.plan import GIB, MemoryPlan
from ipa.pipeline.pipeline import Pipeline

SHARE = 0.75
"""The share that a frugal run may take of what the run would take as it stands."""


@contextmanager
def in_less_memory(pipeline: Pipeline, call: Mapping[str, Any]) -> Iterator[None]:
    """A context in which a pipeline makes a call in less memory, and as the same picture.

    Parts of the model are in memory for their stages alone. Where that is not enough the picture
    goes through the VAE in strips, and of several fewer are made at once, which both leave it as it
    is but for rounding; `Result.info["memory"]["taken"]` says so. A backend that keeps everything
    (torch) has nothing to spare, and runs as it is.

    Raises:
        RequestError: An argument of the call cannot be honoured.
    """
    before = pipeline.memory_budget
    asked = {name: value for name, value in call.items() if name != "weights"}
    budget = lesser_budget(pipeline.plan(**asked))
    if budget is None:
        yield
        return
    pipeline.memory_budget = budget
    try:
        yield
    finally:
        pipeline.memory_budget = before


def lesser_budget(plan: MemoryPlan) -> Budget:
    """A smaller budget in GiB that a planned call can keep to as the same picture.

    `SHARE` of its peak (or of its budget, if that is less), but no less than can be met; None where
    nothing that leaves the picture as it is takes less.
    """
    peaks = [offer.peak for offer in plan.offers if offer.same_picture]
    least = min(peaks, default=plan.peak)
    if least >= plan.peak:
        return None
    now = plan.peak if plan.budget is None else min(plan.peak, plan.budget)
    return min(MOST, max(LEAST, max(now * SHARE, least) / GIB))
