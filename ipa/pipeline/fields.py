"""Every field of a request, of its image prompts and controls: how it is described, and read back.

One that has no row here is described by its own value, and read as it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ipa.prepare.controls.pixels import has_holes
from ipa.prepare.controls.planning import PlannedControl
from ipa.prepare.image_prompts.attached import AttachedAdapter, lora_scale
from ipa.prepare.image_prompts.faces import shortcut_scale
from ipa.prepare.text.tags import tag_name
from ipa.request.control import Control
from ipa.request.editing import is_latents, sources
from ipa.request.embeds import ImageEmbeds
from ipa.request.faces import Face
from ipa.request.image_prompt import ImagePrompt, Negative
from ipa.request.masks import describe_mask
from ipa.request.picture_options import CENTER_CROP
from ipa.request.pictures import picture_sha256, pictures_of, sha256
from ipa.request.profiles import Profile
from ipa.request.request import Request

from .call_loras import describe_loras
from .field import (
    UNSEEN,
    Field,
    Fields,
    Told,
    as_is,
    complete,
    defaults,
    describe_fields,
    read_fields,
    refuse_lost,
)
from .picture_store import PictureStore, embeds_sha256
from .plan import Plan

# Requests: described from plans.


def _is_xl(plan: Plan) -> bool:
    return plan.texts[-1].sizes is not None


def _is_edited(plan: Plan) -> bool:
    return plan.request.image is not None


def _asked(
    name: str,
    value: Callable[[Plan], Any] | None = None,
    *,
    when: Callable[[Plan], bool] = lambda _: True,
) -> Field[Plan]:
    return as_is(name, value or (lambda plan: getattr(plan.request, name)), when=when)


def _size(name: str) -> Field[Plan]:
    """As the model is told it, where it is told."""

    def told(plan: Plan) -> Any:
        sizes = plan.texts[-1].sizes
        asked = getattr(plan.request, name)
        return asked if sizes is None else asdict(sizes).get(name, asked)

    return _asked(name, told, when=_is_xl)


def _edited(name: str) -> Field[Plan]:
    """Pictures as hashes: of a list as given, or of the one of all."""
    key = f"{name}_sha256"

    def describe(plans: Sequence[Plan]) -> dict[str, Any]:
        first = plans[0].request
        if not _is_edited(plans[0]):
            return {}
        entries = [e for plan in plans for e in sources(getattr(plan.request, name))]
        distinct = {id(entry): entry for entry in entries if entry is not None}
        hashed = sha256 if is_latents(getattr(first, name)) else picture_sha256
        known = {number: hashed(entry) for number, entry in distinct.items()}
        hashes = [known[id(entry)] for entry in entries if entry is not None]
        return {key: hashes[:1] if len(set(hashes)) == 1 else hashes}

    def read(told: Told, pictures: PictureStore) -> Any:
        entries = [pictures.start(sha256) for sha256 in told[key]]
        if entries and all(isinstance(entry, np.ndarray) for entry in entries):
            return np.stack(entries)  # latents, which are described row by row
        return _one_or_all(entries) if entries else None

    return Field(describe=describe, read=read, keys=(key,))


def _latents(plans: Sequence[Plan]) -> dict[str, Any]:
    given = [plan.request.latents for plan in plans if plan.request.latents is not None]
    return {"given_latents_sha256": sha256(np.concatenate(given)) if given else None}


def _image_prompts(plans: Sequence[Plan]) -> dict[str, Any]:
    prompts = plans[0].request.image_prompts
    return {"image_prompts": describe_prompts(prompts, plans[0])}


def describe_prompts(
    prompts: Sequence[ImagePrompt], plan: Plan, *, in_batch: bool = False
) -> list[dict[str, Any]]:
    """Image prompts for the adapters of a plan; those of a whole batch say whether they are."""
    placed = [
        PlacedPrompt(prompt, name, plan.loaded.adapters[name], plan.profile, in_batch)
        for prompt, name in zip(prompts, plan.adapters(), strict=True)
    ]
    return [_of_adapter(one) | describe_fields(PROMPT_FIELDS, [one]) for one in placed]


def _of_adapter(placed: PlacedPrompt) -> dict[str, Any]:
    """What is known of a prompt's adapter and is no field of the prompt."""
    facts: dict[str, Any] = {"adapter": placed.adapter, "file": placed.attached.file}
    if placed.attached.loaded.spec.lora_rank:
        facts["lora_scale"] = lora_scale(placed.attached, placed.profile)
    return facts


def _controls(plans: Sequence[Plan]) -> dict[str, Any]:
    each = zip(*(plan.controls for plan in plans), strict=True)
    return {
        "controls": [
            {"file": own[0].file} | describe_fields(CONTROL_FIELDS, own) for own in map(list, each)
        ]
    }


def _loras(plans: Sequence[Plan]) -> dict[str, Any]:
    """Those of all prompts; of one that a prompt names, its strength in the prompts that do not."""
    joined: dict[str, Any] = {}
    for plan in plans:
        for name, told in describe_loras(plan.loras, plan.loaded.loras).items():
            if name not in joined or "tag" in joined[name]:
                joined[name] = told
    return {"loras": joined}


def _read_loras(told: Told, _: PictureStore) -> dict[str, Any]:
    """Those with a tag are named in the prompt, by the name there, and must be found again."""
    return {
        tag_name(one["tag"]) if "tag" in one else name: one["scale"]
        for name, one in told["loras"].items()
    }


_REQUEST: Fields[Plan] = {
    "prompt_2": _asked("prompt_2", when=_is_xl),
    "negative_prompt_2": _asked("negative_prompt_2", when=_is_xl),
    "original_size": _size("original_size"),
    "crops_coords_top_left": _size("crops_coords_top_left"),
    "target_size": _size("target_size"),
    "negative_original_size": _size("negative_original_size"),
    "negative_crops_coords_top_left": _size("negative_crops_coords_top_left"),
    "negative_target_size": _size("negative_target_size"),
    "image_prompts": Field(
        describe=_image_prompts,
        read=lambda told, pictures: [
            read_fields(PROMPT_FIELDS, one, pictures) for one in told["image_prompts"]
        ],
        keys=("image_prompts",),
    ),
    "width": _asked("width", lambda plan: plan.width),
    "height": _asked("height", lambda plan: plan.height),
    "num_inference_steps": _asked("num_inference_steps", lambda plan: plan.request.steps),
    "guidance_scale": _asked("guidance_scale", lambda plan: plan.guidance_scale),
    "scheduler": _asked("scheduler", lambda plan: plan.schedule.name),
    "latents": Field(
        describe=_latents,
        lost={"given_latents_sha256": "latents that were given"},
        restore=lambda told, pictures: pictures.array(told["given_latents_sha256"]),
    ),
    "output_type": UNSEEN,
    "influence": UNSEEN,
    "embed_references": UNSEEN,
    "profile": _asked("profile", lambda plan: plan.profile.name),
    "controls": Field(
        describe=_controls,
        read=lambda told, pictures: [
            read_fields(CONTROL_FIELDS, one, pictures) for one in told["controls"]
        ],
        keys=("controls",),
    ),
    "preview": UNSEEN,
    "preview_every": UNSEEN,
    "image": _edited("image"),
    "mask_image": _edited("mask_image"),
    "strength": _asked("strength", when=_is_edited),
    "padding_mask_crop": _asked("padding_mask_crop", when=_is_edited),
    "mask_blur": _asked("mask_blur", when=_is_edited),
    "overlay": _asked("overlay", when=_is_edited),
    "loras": Field(describe=_loras, read=_read_loras, keys=("loras",)),
}
"""The fields of a request that are not described by their own values alone."""

REQUEST_FIELDS: Fields[Plan] = complete(Request, _REQUEST, _asked)
"""Those of `ipa.request.request.Request`."""


# Image prompts: described from what they are for.


@dataclass(frozen=True, slots=True)
class PlacedPrompt:
    """An image prompt, the adapter that it is for, and whether it is one of a whole batch."""

    prompt: ImagePrompt
    adapter: str
    attached: AttachedAdapter
    profile: Profile
    in_batch: bool


def _of_prompt(
    name: str,
    value: Callable[[PlacedPrompt], Any] | None = None,
    *,
    when: Callable[[PlacedPrompt], bool] = lambda _: True,
) -> Field[PlacedPrompt]:
    return as_is(name, value or (lambda placed: getattr(placed.prompt, name)), when=when)


def _scale(placed: PlacedPrompt) -> Any:
    own = placed.prompt.scale
    return deepcopy(placed.attached.scale if own is None else own)


def _shortcut(placed: PlacedPrompt) -> float | None:
    return shortcut_scale(placed.prompt, placed.attached.loaded.spec, placed.profile)


def _pictures(placed: Sequence[PlacedPrompt]) -> dict[str, Any]:
    prompt = placed[0].prompt
    return {"images_sha256": [picture_sha256(image) for image in prompt.images]} | _embeds(
        prompt.image
    )


def _embeds(given: object) -> dict[str, Any]:
    if not isinstance(given, ImageEmbeds):
        return {"embeds_sha256": None}
    return {"embeds_sha256": embeds_sha256(given)}


def _faces(placed: Sequence[PlacedPrompt]) -> dict[str, Any]:
    faces = placed[0].prompt.faces
    vectors = [face.embedding if isinstance(face, Face) else face for face in faces]
    return {"faces_sha256": [sha256(vector) for vector in vectors]}


def _fit(placed: Sequence[PlacedPrompt]) -> dict[str, Any]:
    """None where nothing is seen but faces: such an adapter takes no fit."""
    sees = placed[0].attached.loaded.spec.feature != "face"
    return {"fit": placed[0].prompt.fit or (CENTER_CROP if sees else None)}


def _read_faces(told: Told, pictures: PictureStore) -> Any:
    found = [pictures.face(sha256) for sha256 in told["faces_sha256"]]
    return None if any(face is None for face in found) else found


def _masks(name: str, key: str) -> Field[PlacedPrompt]:
    def describe(placed: Sequence[PlacedPrompt]) -> dict[str, Any]:
        given = getattr(placed[0].prompt, name)
        several = given if isinstance(given, tuple) else (given,)
        return {key: None if given is None else [describe_mask(mask) for mask in several]}

    def read(told: Told, pictures: PictureStore) -> Any:
        return _one_or_all([_mask(one, pictures) for one in told[key]]) if told[key] else None

    return Field(describe=describe, read=read, keys=(key,))


def _describe_negative(placed: Sequence[PlacedPrompt]) -> dict[str, Any]:
    negative: Negative | None = placed[0].prompt.negative
    if negative is None or isinstance(negative, str):
        return {"negative": negative}
    hashes = [picture_sha256(image) for image in pictures_of(negative)]
    return {"negative": {"images_sha256": hashes} | _embeds(negative)}


def _read_negative(told: Told, pictures: PictureStore) -> Any:
    negative = told["negative"]
    if not isinstance(negative, dict):
        return negative
    if negative["embeds_sha256"]:
        embeds = pictures.embeds(negative["embeds_sha256"])
        if embeds is None:
            refuse_lost(negative, _EMBEDS)
        return embeds
    return _one_or_all([pictures.picture(sha256) for sha256 in negative["images_sha256"]])


_EMBEDS = {"embeds_sha256": "image embeds"}

_PROMPT: Fields[PlacedPrompt] = {
    "image": Field(
        describe=_pictures,
        read=lambda told, pictures: _one_or_all(
            [pictures.picture(sha256) for sha256 in told["images_sha256"]] or [None]
        ),
        keys=("images_sha256",),
        lost=_EMBEDS,
        restore=lambda told, pictures: pictures.embeds(told["embeds_sha256"]),
    ),
    "adapter": _of_prompt("adapter", lambda placed: placed.adapter),
    "negative": Field(describe=_describe_negative, read=_read_negative, keys=("negative",)),
    "fit": Field(
        describe=_fit,
        read=lambda told, _: told["fit"] if told["images_sha256"] else None,
        keys=("fit",),
    ),
    "face": Field(describe=_faces, lost={"faces_sha256": "faces"}, restore=_read_faces),
    "encoder_mask": _masks("encoder_mask", "encoder_masks"),
    "shortcut_scale": _of_prompt(
        "shortcut_scale", _shortcut, when=lambda placed: _shortcut(placed) is not None
    ),
    "scale": _of_prompt("scale", _scale),
    "mask": _masks("mask", "masks"),
    "batched": _of_prompt("batched", when=lambda placed: placed.in_batch),
}
"""The fields of an image prompt that are not described by their own values alone."""

PROMPT_FIELDS: Fields[PlacedPrompt] = complete(ImagePrompt, _PROMPT, _of_prompt)
"""Those of `ipa.request.image_prompt.ImagePrompt`."""


# Controls: described from what is planned of one, for each prompt.


def _of_control(name: str) -> Field[PlannedControl]:
    return as_is(name, lambda planned: getattr(planned.control, name), when=lambda _: True)


def _control_name(planned: Sequence[PlannedControl]) -> dict[str, Any]:
    return {"control": planned[0].branch.name, "kind": planned[0].kind}


def _control_picture(planned: Sequence[PlannedControl]) -> dict[str, Any]:
    pictures = [own.control.pictures[0] for own in planned]
    holes = [has_holes(picture) for picture in pictures]
    pairs = zip(pictures, holes, strict=True)
    hashes = [sha256(np.asarray(p)) if has else picture_sha256(p) for p, has in pairs]
    return {"image_sha256": _one_of_all(hashes), "has_holes": any(holes)}


def _control_mask(planned: Sequence[PlannedControl]) -> dict[str, Any]:
    return {"mask": _one_of_all([describe_mask(own.control.mask) for own in planned])}


def _preprocessor(planned: Sequence[PlannedControl]) -> dict[str, Any]:
    how = planned[0].control.preprocessor
    return {"preprocessor": None if how is None else getattr(how, "__name__", type(how).__name__)}


def _each_prompts(told: Told) -> int | None:
    """For how many prompts a control has pictures or masks of their own."""
    lengths = {len(told[k]) for k in ("image_sha256", "mask") if isinstance(told.get(k), list)}
    if not lengths:
        return None
    (count,) = lengths
    return count


def _for_each(key: str, read: Callable[[Any, PictureStore], Any]) -> Any:
    """What reads an entry that may be a list, one for each prompt."""

    def read_all(told: Told, pictures: PictureStore) -> Any:
        entry, count = told[key], _each_prompts(told)
        if count is None:
            return read(entry, pictures)
        entries = entry if isinstance(entry, list) else [entry] * count
        return [read(one, pictures) for one in entries]

    return read_all


def _read_holes(told: Told, pictures: PictureStore) -> Any:
    """Control pictures that are arrays, if all of them are at hand."""
    hashes = told["image_sha256"]
    several = hashes if isinstance(hashes, list) else [hashes] * (_each_prompts(told) or 1)
    found = [pictures.array(sha256) for sha256 in several]
    if any(array is None for array in found):
        return None
    return found[0] if _each_prompts(told) is None else found


_CONTROL: Fields[PlannedControl] = {
    "name": Field(
        describe=_control_name,
        read=lambda told, _: told["control"],
        keys=("control",),
    ),
    "image": Field(
        describe=_control_picture,
        read=_for_each("image_sha256", lambda told, pictures: pictures.picture(told)),
        keys=("image_sha256",),
        lost={"has_holes": "a control picture with -1 in it (Control.mask is described)"},
        restore=lambda told, pictures: _read_holes(told, pictures),
    ),
    "preprocessor": Field(describe=_preprocessor, lost={"preprocessor": "a preprocessor"}),
    "mask": Field(
        describe=_control_mask,
        read=_for_each("mask", lambda told, pictures: _mask(told, pictures)),
        keys=("mask",),
    ),
    "batched": Field(
        describe=lambda _: {},  # its picture and mask are lists
        read=lambda told, _: _each_prompts(told) is not None,
        keys=("image_sha256",),
    ),
}
"""The fields of a control that are not described by their own values alone."""

CONTROL_FIELDS: Fields[PlannedControl] = complete(Control, _CONTROL, _of_control)
"""Those of `ipa.request.control.Control`."""


DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "request": defaults(Request, _REQUEST),
    "image_prompts": defaults(ImagePrompt, _PROMPT),
    "controls": defaults(Control, _CONTROL),
}
"""Of fields that a description lacks because it is older than they are."""


def _mask(told: Told | None, pictures: PictureStore) -> Any:
    return None if told is None else pictures.mask(told["sha256"])


def _one_or_all(entries: Sequence[Any]) -> Any:
    return entries[0] if len(entries) == 1 else list(entries)


def _one_of_all(entries: Sequence[Any]) -> Any:
    """One that all have, or a list."""
    return list(entries) if any(entry != entries[0] for entry in entries) else entries[0]
