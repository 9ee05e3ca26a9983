"""The plans of a call with one prompt or several, all made before the first is run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from ipa.errors import RequestError
from ipa.prepare.controls.planning import requested_controls
from ipa.prepare.image_prompts.parts import listed
from ipa.prepare.samplers.noise import Share
from ipa.prepare.text.tags import lora_tags
from ipa.request.batch import Batch, make_batch
from ipa.request.editing import sources
from ipa.request.image_prompt import ImagePrompt, check_image_prompts
from ipa.request.profiles import profile_named
from ipa.request.request import Request

from .adapters import joins_faces
from .plan import Plan, make_plan, prompts_from_ip_adapter_image
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


def asked_batch(
    arguments: dict[str, Any], pictures: tuple[Any, Any, Any], now: Snapshot
) -> tuple[dict[str, Any], Batch]:
    """A call's arguments but for its image prompts, and its requests.

    `pictures` are image_prompts, ip_adapter_image and controlnet_image.
    """
    image_prompts, ip_adapter_image, controlnet_image = pictures
    prompts: Sequence[ImagePrompt] = check_image_prompts(image_prompts)
    if ip_adapter_image is not None:
        if prompts:
            raise RequestError("pass image_prompts or ip_adapter_image, not both")
        prompts = prompts_from_ip_adapter_image(ip_adapter_image, now.adapters)
    profile = profile_named(arguments.get("profile"))
    prompts = [
        listed(entry, profile, joins_faces=joins_faces(entry, now.adapters)) for entry in prompts
    ]
    controls = requested_controls(arguments.get("controls", ()), controlnet_image, now.controlnets)
    asked = {**arguments, "controls": controls}
    return asked, make_batch(prompts, asked)
