"""A request as it was understood: JSON-able, all that is needed to run it again (`.replay`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ipa.metadata.reading import METADATA_KEY as METADATA_KEY
from ipa.request.batch import Batch

from .field import describe_fields
from .fields import REQUEST_FIELDS, describe_prompts
from .plan import Plan


def describe_request(plan: Plan) -> dict[str, Any]:
    """The request as it was understood, JSON-able."""
    return describe_fields(REQUEST_FIELDS, [plan]) | _facts([plan])


def describe_batch(batch: Batch, plans: Sequence[Plan]) -> dict[str, Any]:
    """A call with several prompts, JSON-able: lists where it had lists, pictures of all prompts."""
    description = describe_fields(REQUEST_FIELDS, plans) | _facts(plans)
    texts = {name: list(entries) for name, entries in batch.texts.items() if name in description}
    prompts = describe_prompts(batch.image_prompts, plans[0], in_batch=True)
    return description | texts | {"image_prompts": prompts}


def _facts(plans: Sequence[Plan]) -> dict[str, Any]:
    """What is known of a run and was not asked for."""
    facts = {
        "seeds": [seed for plan in plans for seed in plan.seeds],
        "textual_inversions": [word.describe() for word in plans[0].texts[-1].inversions],
    }
    if plans[0].request.image is not None:
        crops = [crop for plan in plans if plan.edits is not None for crop in plan.edits.crops]
        facts["crop_boxes"] = [list(crop.box) for crop in crops] or None
    return facts
