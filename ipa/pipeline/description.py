"""A request as it was understood: JSON-able, all that is needed to run it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict
from typing import Any

import numpy as np

from ipa.arrays import Floats
from ipa.prepare.image_prompts.attached import AttachedAdapter, lora_scale
from ipa.prepare.image_prompts.faces import shortcut_scale
from ipa.request.batch import Batch
from ipa.request.editing import is_latents, sources
from ipa.request.embeds import ImageEmbeds
from ipa.request.faces import Face, FaceEntry
from ipa.request.image_prompt import ImagePrompt, Negative
from ipa.request.masks import describe_mask
from ipa.request.picture_options import CENTER_CROP
from ipa.request.pictures import picture_sha256, pictures_of, sha256
from ipa.request.profiles import Profile
from ipa.request.request import SIZE_NAMES

from .call_loras import describe_loras
from .plan import Plan

NOT_DESCRIBED = ("output_type", "influence", "preview", "preview_every")
"""The fields of a request that change no number of a picture: how a run is watched and given."""


def describe_request(plan: Plan) -> dict[str, Any]:
    """A request as it was understood, JSON-able."""
    request = plan.request
    names = plan.adapters()
    return {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        **_describe_xl(plan),
        "image_prompts": [
            _describe_prompt(prompt, names[number], plan)
            for number, prompt in enumerate(request.image_prompts)
        ],
        "width": plan.width,
        "height": plan.height,
        "num_inference_steps": request.steps,
        "guidance_scale": plan.guidance_scale,
        "scheduler": plan.schedule.name,
        "seed": int(request.seed),
        "num_images": int(request.num_images),
        "seeds": list(plan.seeds),
        "given_latents_sha256": None if request.latents is None else sha256(request.latents),
        "profile": plan.profile.name,
        "controls": [control.describe() for control in plan.controls],
        "clip_skip": request.clip_skip,
        "long_prompts": request.long_prompts,
        "prompt_syntax": request.prompt_syntax,
        "textual_inversions": [word.describe() for word in plan.texts[-1].inversions],
        "guidance_rescale": float(request.guidance_rescale),
        "eta": float(request.eta),
        "timestep_spacing": request.timestep_spacing,
        **asdict(request.custom_steps),
        **_describe_editing([plan]),
        "loras": describe_loras(plan.loras, plan.loaded.loras),
    }


def describe_batch(batch: Batch, plans: Sequence[Plan]) -> dict[str, Any]:
    """A call with several prompts, JSON-able; lists where it had lists."""
    names = plans[0].adapters()
    first = describe_request(plans[0])
    given = [request.latents for request in batch.requests if request.latents is not None]
    return {
        **first,
        **{name: list(texts) for name, texts in batch.texts.items() if name in first},
        "image_prompts": [
            _describe_prompt(prompt, names[number], plans[0]) | {"batched": prompt.batched}
            for number, prompt in enumerate(batch.image_prompts)
        ],
        "controls": [
            _joined_control([control.describe() for control in own])
            for own in zip(*(plan.controls for plan in plans), strict=True)
        ],
        "loras": _joined_loras([describe_loras(plan.loras, plan.loaded.loras) for plan in plans]),
        "seeds": [seed for plan in plans for seed in plan.seeds],
        "given_latents_sha256": sha256(np.concatenate(given)) if given else None,
        **_describe_editing(plans),
    }


def _joined_loras(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The LoRAs of all prompts; of one named in prompts, its strength in the others."""
    joined: dict[str, Any] = {}
    for own in each:
        for name, told in own.items():
            if name not in joined or "tag" in joined[name]:
                joined[name] = told
    return joined


def _joined_control(each: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A control of all prompts; hashes and masks are lists where its pictures differ."""
    told = {name: [own[name] for own in each] for name in ("image_sha256", "mask")}
    joined = {n: values for n, values in told.items() if any(v != values[0] for v in values)}
    return each[0] | joined | {"has_holes": any(own["has_holes"] for own in each)}


def _describe_editing(plans: Sequence[Plan]) -> dict[str, Any]:
    """The start pictures of a run: hashes of a list as given, or of the one of all."""
    requests = [plan.request for plan in plans]
    first = requests[0]
    if first.image is None:
        return {}
    given: dict[str, list[str]] = {}
    for name in ("image", "mask_image"):
        entries = [entry for r in requests for entry in sources(getattr(r, name))]
        distinct = {id(entry): entry for entry in entries if entry is not None}
        hashed = sha256 if is_latents(getattr(first, name)) else picture_sha256
        known = {number: hashed(entry) for number, entry in distinct.items()}
        hashes = [known[id(entry)] for entry in entries if entry is not None]
        given[f"{name}_sha256"] = hashes[:1] if len(set(hashes)) == 1 else hashes
    return {
        **given,
        "strength": float(first.strength),
        "padding_mask_crop": first.padding_mask_crop,
        "crop_boxes": _describe_crops(plans),
        "mask_blur": float(first.mask_blur),
        "overlay": first.overlay,
    }


def _describe_crops(plans: Sequence[Plan]) -> list[list[int]] | None:
    """The crop of each start picture by padding_mask_crop: left, top, right, bottom."""
    crops = [crop for plan in plans if plan.edits is not None for crop in plan.edits.crops]
    return [list(crop.box) for crop in crops] or None


def _describe_xl(plan: Plan) -> dict[str, Any]:
    """The arguments that only SDXL takes."""
    sizes = plan.texts[-1].sizes
    if sizes is None:
        return {}
    return {
        "prompt_2": plan.request.prompt_2,
        "negative_prompt_2": plan.request.negative_prompt_2,
        **{name: getattr(plan.request, name) for name in SIZE_NAMES},
        **asdict(sizes),
    }


def _describe_prompt(prompt: ImagePrompt, adapter: str, plan: Plan) -> dict[str, Any]:
    attached = plan.loaded.adapters[adapter]
    scale = attached.scale if prompt.scale is None else prompt.scale
    return {
        "adapter": adapter,
        "file": attached.file,
        **_describe_pictures(prompt),
        **_describe_face(prompt, attached, plan.profile),
        "scale": deepcopy(scale),
        "layers": prompt.layers,
        "curve": prompt.curve,
        "masks": None if prompt.mask is None else _describe_masks(prompt.mask),
        "mask_fit": prompt.mask_fit,
        "start": prompt.start,
        "end": prompt.end,
        "embeds_scaling": prompt.embeds_scaling,
    }


def _describe_face(
    prompt: ImagePrompt, attached: AttachedAdapter, profile: Profile
) -> dict[str, Any]:
    """The arguments that only FaceID adapters take."""
    spec = attached.loaded.spec
    told = {
        "lora_scale": lora_scale(attached, profile) if spec.lora_rank else None,
        "shortcut_scale": shortcut_scale(prompt, spec, profile),
    }
    return {name: value for name, value in told.items() if value is not None}


def _describe_pictures(prompt: ImagePrompt) -> dict[str, Any]:
    """An image prompt's pictures and their options, JSON-able."""
    return {
        "images_sha256": [picture_sha256(image) for image in prompt.images],
        "embeds_sha256": _embeds_sha256(prompt.image),
        "negative": _describe_negative(prompt.negative),
        "combine": prompt.combine,
        "fit": prompt.fit or CENTER_CROP,
        "sharpen": prompt.sharpen,
        "faces_sha256": [sha256(_vector(face)) for face in prompt.faces],
        "encoder_masks": None
        if prompt.encoder_mask is None
        else _describe_masks(prompt.encoder_mask),
        "enhance_tiles": prompt.enhance_tiles,
        "enhance_ratio": prompt.enhance_ratio,
        "neg_content_prompt": prompt.neg_content_prompt,
        "neg_content_scale": prompt.neg_content_scale,
    }


def _describe_negative(negative: Negative | None) -> Any:
    if negative is None or isinstance(negative, str):
        return negative
    return {
        "images_sha256": [picture_sha256(image) for image in pictures_of(negative)],
        "embeds_sha256": _embeds_sha256(negative),
    }


def _embeds_sha256(given: object) -> str | None:
    if not isinstance(given, ImageEmbeds):
        return None
    return sha256(np.concatenate([given.conditional, given.unconditional]))


def _describe_masks(given: Any) -> list[Any]:
    return [describe_mask(m) for m in (given if isinstance(given, tuple) else (given,))]


def _vector(face: FaceEntry) -> Floats:
    return face.embedding if isinstance(face, Face) else face


METADATA_KEY = "ipa-mlx"
"""The PNG text chunk that holds `Result.info` as JSON, and the command that was typed."""
