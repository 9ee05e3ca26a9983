"""The plans of a call with one prompt or several, all made before the first is run."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from ipa.errors import RequestError
from ipa.prepare.samplers.noise import Share
from ipa.prepare.text.tags import lora_tags
from ipa.request.batch import Batch
from ipa.request.editing import sources
from ipa.request.request import Request

from .plan import Plan, make_plan
from .snapshot import Snapshot


def plan_batch(batch: Batch, loaded: Snapshot) -> list[Plan]:
    """Plan each prompt of a call.

    Raises:
        RequestError: One of them cannot be honoured; with several prompts it says which.
    """
    plans: list[Plan] = []
    named = {tag.name for request in batch.requests for tag in lora_tags(request)}
    for request in batch.requests:
        try:
            plans.append(make_plan(_of_prompt(request, named - loaded.loras.keys()), loaded))
        except RequestError as error:
            if len(batch.requests) == 1:
                raise
            raise RequestError(
                f"prompt {len(plans) + 1}: {error.what}", found=error.found, remedy=error.remedy
            ) from error
    return _sharing(plans)


def _of_prompt(request: Request, named: Collection[str]) -> Request:
    """A request without the strengths of LoRAs that other prompts of the call name."""
    if not request.loras or not named:
        return request
    names = {tag.name for tag in lora_tags(request)}
    loras = {k: v for k, v in request.loras.items() if k in names or k not in named}
    return replace(request, loras=loras)


def _sharing(plans: list[Plan]) -> list[Plan]:
    """Plans of one call, whose noise one generator draws if the profile has but one."""
    if len(plans) == 1 or plans[0].profile.seeds != "one generator":
        return plans
    first, each = plans[0].request, len(plans[0].seeds)
    has_one = each == 1 or len(sources(first.image)) < 2
    one_source = has_one and all(plan.request.image is first.image for plan in plans)
    return [
        replace(
            plan,
            request=replace(plan.request, seed=first.seed),
            seeds=plans[0].seeds,
            share=Share(each * len(plans), each * number, one_source),
        )
        for number, plan in enumerate(plans)
    ]
