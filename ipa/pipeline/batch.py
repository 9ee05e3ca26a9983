"""Several prompts in one call: planned before the first is run, then run one after another."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from ipa.backend.protocol import Backend
from ipa.request.batch import Batch
from ipa.request.influence import Influence
from ipa.request.result import Progress, Result
from ipa.request.scales import StepWeights
from ipa.watching import CancelSignal

from .batch_plan import plan_batch as plan_batch
from .call_loras import ActingLoras
from .description import describe_batch, describe_request
from .documents.references import collect
from .memory.allotment import Allotted
from .plan import Plan
from .run import Run


class BatchRun:
    """The runs of a call's prompts as one run.

    One after another, so that memory is that of a single one, and every prompt's pictures are those
    of a call of its own, bit for bit.
    """

    def __init__(
        self,
        backend: Backend,
        batch: Batch,
        plans: Sequence[Plan],
        loras: ActingLoras,
        cancel: CancelSignal | None = None,
        weights: StepWeights | None = None,
        allotted: Allotted | None = None,
        arguments: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.batch, self.plans, self.arguments = batch, plans, arguments
        pieces = plans if allotted is None else allotted.plans
        memory = (None,) * len(pieces) if allotted is None else allotted.memory
        pairs = zip(pieces, memory, strict=True)
        self.runs = [Run(backend, plan, loras, cancel, weights, found) for plan, found in pairs]
        self.request, self.prompts = None, len(plans)
        if len(plans) > 1:
            self.request = describe_batch(batch, plans)
        elif len(pieces) > 1:
            self.request = describe_request(plans[0])

    def events(self) -> Iterator[Progress]:
        """The events of all runs, with steps counted over them, and one result at the end."""
        for event in self._events():
            result = event.result
            if result is not None and self.plans[0].request.embed_references:
                references = collect(self.batch, self.plans, self.arguments)
                event = replace(event, result=replace(result, references=references))
            yield event

    def _events(self) -> Iterator[Progress]:
        if len(self.runs) == 1:
            yield from self.runs[0].events()
            return
        count, began, results = len(self.runs), time.perf_counter(), list[Result]()
        for number, run in enumerate(self.runs):
            for event in run.events():
                if event.result is not None:
                    results.append(event.result)
                    continue
                step, total = number * event.total + event.step, count * event.total
                eta = None
                if event.eta_s is not None:
                    eta = (time.perf_counter() - began) / step * (total - step)
                yield replace(event, step=step, total=total, eta_s=eta)
        yield Progress(stage="done", step=1, total=1, eta_s=0.0, result=self._joined(results))

    def _joined(self, results: Sequence[Result]) -> Result:
        images: Any = [image for result in results for image in result.images]
        if isinstance(results[0].images, np.ndarray):
            images = np.stack(images)
        latents = np.concatenate([result.latents for result in results])
        info = self._info([result.info for result in results])
        measured = [result.influence for result in results if result.influence is not None]
        if not measured:
            return Result(images=images, latents=latents, info=info)
        influence = Influence.join(measured)
        info |= {"influence": influence.describe()}
        return Result(images=images, latents=latents, info=info, influence=influence)

    def _info(self, infos: Sequence[dict[str, Any]]) -> dict[str, Any]:
        first, requests = infos[0], [info["request"] for info in infos]
        peaks = [info["peak_memory_bytes"] for info in infos]
        stages = [info["timings_s"] for info in infos]
        return {
            **infos[-1],
            "request": {**(self.request or {}), "weights": first["request"]["weights"]},
            **({"requests": requests} if self.prompts > 1 else {}),
            **(
                {"weights_by_step": [info["weights_by_step"] for info in infos]}
                if "weights_by_step" in first
                else {}
            ),
            "timings_s": {name: round(sum(s[name] for s in stages), 4) for name in stages[0]},
            "peak_memory_bytes": None if None in peaks else max(peaks),
            "warnings": _warnings([info["warnings"] for info in infos]),
        }


def _warnings(several: Sequence[Sequence[str]]) -> list[str]:
    """Warnings of every prompt once, others with the number of their prompt."""
    common = [text for text in several[0] if all(text in texts for texts in several)]
    return common + [
        f"prompt {number}: {text}"
        for number, texts in enumerate(several, start=1)
        for text in texts
        if text not in common
    ]
