"""The pictures of a call, made files that lie inside its own picture, so that it runs again alone.

Of an image prompt that is what the encoder sees, if it sees the same of that, bit for bit; else the
picture. Whether a rerun from these files has the inputs of the first is found out by planning it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from ipa.errors import IpaError
from ipa.pipeline.batch_plan import plan_batch
from ipa.pipeline.description import describe_batch, describe_request
from ipa.pipeline.picture_store import PictureStore
from ipa.pipeline.plan import Plan
from ipa.pipeline.replay import from_description
from ipa.prepare.controls.pixels import has_holes
from ipa.prepare.image_prompts.encoder_views import views
from ipa.prepare.image_prompts.encoding import Reader, plan_features
from ipa.prepare.images.pictures import to_rgb
from ipa.request.batch import Batch, make_batch
from ipa.request.control import Control
from ipa.request.editing import is_latents, sources
from ipa.request.embeds import ImageEmbeds
from ipa.request.image_prompt import ImagePrompt
from ipa.request.masks import describe_mask
from ipa.request.picture_options import CENTER_CROP, TILE
from ipa.request.pictures import Picture, eight_bits, picture_sha256, pictures_of, sha256
from ipa.request.references import FileKind, ReferenceFile, References

from .arguments import build_objects
from .array_files import array_file, embeds_file, face_file

MAX_BYTES = 64 << 20
"""The bytes of all pictures that are embedded in one."""

_KEPT_MODES = {"1", "L", "LA", "RGB", "RGBA"}
_INPUTS = ("texts", "prompts", "controls", "edits", "schedule", "seeds", "guidance")
_UNCOMPARED = {"warnings", "control", "request", "loaded"}


class Collection:
    """Files as they are found, each once, and what was left out."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], ReferenceFile] = {}
        self.missing: list[str] = []

    def add(self, kind: FileKind, known: str, data: bytes, words: str) -> None:
        """Add a file, if there is room."""
        if (kind, known) in self.files:
            return
        if len(data) + sum(len(file.data) for file in self.files.values()) > MAX_BYTES:
            self.missing.append(f"{words}: {len(data)} bytes, of {MAX_BYTES} in all")
            return
        self.files[kind, known] = ReferenceFile(kind=kind, sha256=known, data=data)

    def picture(self, picture: Picture, words: str) -> None:
        """Add a picture that `storable` gave."""
        self.add("picture", picture_sha256(picture), _png(eight_bits(picture)), words)

    def mask(self, mask: Any, words: str) -> None:
        """Add the values of a mask."""
        described = describe_mask(mask)
        if described is None:
            return
        image = _mask_picture(np.asarray(mask))
        if image is None:
            self.add("array", described["sha256"], array_file(np.asarray(mask)), words)
        else:
            self.add("mask", described["sha256"], _png(image), words)

    def array(self, array: Any, words: str) -> None:
        """Add an array."""
        self.add("array", sha256(array), array_file(array), words)

    def embeds(self, embeds: ImageEmbeds, words: str) -> None:
        """Add image embeds."""
        known = sha256(np.concatenate([embeds.conditional, embeds.unconditional]))
        self.add("embeds", known, embeds_file(embeds), words)


def collect(batch: Batch, plans: Sequence[Plan], arguments: Mapping[str, Any]) -> References:
    """The pictures of a call.

    Args:
        batch: Its requests.
        plans: Their plans.
        arguments: Those of the call, but for its image prompts, which are the batch's.
    """
    found = Collection()
    prompts = [_seen(prompt, plans[0], name) for prompt, name in _placed(batch, plans[0])]
    controls = [_drawn(control) for control in arguments.get("controls", ())]
    given = {**arguments, "controls": controls}
    for name in ("image", "mask_image"):
        if given.get(name) is not None and not is_latents(given[name]):
            stored = [storable(one) for one in sources(given[name])]
            given[name] = stored if isinstance(given[name], (list, tuple)) else stored[0]
    _collect(found, prompts, controls, given)
    again = _planned(make_batch(prompts, given), plans)
    described, requests = _described(*again)
    missing = [*found.missing, *_differences(described, found, plans)]
    files = tuple(found.files.values())
    return References(
        request=described, requests=requests, files=files, missing=tuple(dict.fromkeys(missing))
    )


def _placed(batch: Batch, plan: Plan) -> Iterator[tuple[ImagePrompt, str]]:
    return zip(batch.image_prompts, plan.adapters(), strict=True)


def _planned(batch: Batch, plans: Sequence[Plan]) -> tuple[Batch, list[Plan]]:
    return batch, plan_batch(batch, plans[0].loaded)


def _described(
    batch: Batch, plans: Sequence[Plan]
) -> tuple[dict[str, Any], tuple[dict[str, Any], ...]]:
    requests = tuple({**describe_request(plan), "weights": None} for plan in plans)
    if len(plans) == 1:
        return requests[0], requests
    return {**describe_batch(batch, plans), "weights": None}, requests


def _differences(
    described: Mapping[str, Any], found: Collection, plans: Sequence[Plan]
) -> Iterator[str]:
    """What a run from the files has that is not as it was, or why there is none."""
    if found.missing:
        return
    store = PictureStore(embedded=tuple(found.files.values()))
    try:
        again = build_objects(from_description(described, store))
        prompts = again.pop("image_prompts", ())
        _, others = _planned(make_batch(prompts, again), plans)
    except IpaError as error:
        yield str(error)
        return
    for name in _INPUTS:
        if not all(
            same(getattr(a, name), getattr(b, name)) for a, b in zip(plans, others, strict=True)
        ):
            yield f"{name} are not the same from 8 bits"


# What stands for what was given.


def _seen(prompt: ImagePrompt, plan: Plan, adapter: str) -> ImagePrompt:
    """An image prompt of what the encoder sees of its pictures, if that is all that it sees."""
    if isinstance(prompt.image, ImageEmbeds) or prompt.image is None:
        return _whole(prompt)
    attached = plan.loaded.adapters[adapter]
    is_plain = (
        prompt.fit != TILE
        and prompt.encoder_mask is None
        and prompt.enhance_tiles == 1
        and not isinstance(prompt.negative, str)
        and attached.loaded.encoder is not None
        and not attached.loaded.spec.face_width
    )
    if not is_plain:
        return _whole(prompt)
    reader = Reader(adapter, attached, plan.profile)
    changes: dict[str, Any] = {"fit": CENTER_CROP, "sharpen": 0.0}
    for name in ("image", "negative"):
        given = getattr(prompt, name)
        pictures = pictures_of(given)
        if pictures:
            seen = views(replace(prompt, image=pictures, **_ALONE), attached.loaded, plan.profile)
            changes[name] = seen if isinstance(given, (list, tuple)) else seen[0]
    candidate = replace(prompt, **changes)
    a, b = (plan_features(replace(one, **_NO_TEXT), reader) for one in (prompt, candidate))
    return candidate if same(a, b) else _whole(prompt)


_ALONE: Mapping[str, Any] = {"scale": None, "mask": None, "negative": None, "batched": False}
_NO_TEXT: Mapping[str, Any] = {"neg_content_prompt": None, "batched": False}


def _whole(prompt: ImagePrompt) -> ImagePrompt:
    """An image prompt of its pictures as they are stored."""
    changes: dict[str, Any] = {}
    for name in ("image", "negative"):
        given = getattr(prompt, name)
        if isinstance(given, str) or not pictures_of(given):
            continue
        stored = [storable(picture) for picture in pictures_of(given)]
        changes[name] = stored if isinstance(given, (list, tuple)) else stored[0]
    return replace(prompt, **changes)


def _drawn(control: Control) -> Control:
    """A control of what its preprocessor draws."""
    pictures = control.pictures
    if control.preprocessor is not None:
        pictures = tuple(control.preprocessor(to_rgb(picture)) for picture in pictures)
    stored = [picture if has_holes(picture) else storable(picture) for picture in pictures]
    is_list = isinstance(control.image, (list, tuple))
    return replace(control, image=stored if is_list else stored[0], preprocessor=None)


def storable(picture: Picture) -> Image.Image:
    """A picture in 8 bits, in a mode that a PNG keeps."""
    image = eight_bits(picture)
    is_kept = image.mode in _KEPT_MODES and image.info.get("transparency") is None
    return image if is_kept else to_rgb(image)


# What is stored.


def _collect(
    found: Collection,
    prompts: Sequence[ImagePrompt],
    controls: Sequence[Control],
    given: Mapping[str, Any],
) -> None:
    for number, prompt in enumerate(prompts, start=1):
        _collect_prompt(found, prompt, f"image prompt {number}")
    for number, control in enumerate(controls, start=1):
        words = f"control {number}"
        for picture in control.pictures:
            (found.array if has_holes(picture) else found.picture)(picture, words)
        for mask in control.mask if isinstance(control.mask, tuple) else (control.mask,):
            found.mask(mask, f"the mask of {words}")
    for name, words in (("image", "the start picture"), ("mask_image", "its mask")):
        entries: Any = given.get(name)
        if is_latents(entries):
            for row in entries:
                found.array(row, words)
            continue
        for entry in () if entries is None else sources(entries):
            found.picture(entry, words)
    if given.get("latents") is not None:
        found.array(given["latents"], "latents")


def _collect_prompt(found: Collection, prompt: ImagePrompt, words: str) -> None:
    for given in (prompt.image, prompt.negative):
        if isinstance(given, ImageEmbeds):
            found.embeds(given, words)
        elif given is not None and not isinstance(given, str):
            for picture in pictures_of(given):
                found.picture(picture, words)
    for face in prompt.faces:
        vector: Any = getattr(face, "embedding", face)
        found.add("face", sha256(vector), face_file(face), f"a face of {words}")
    for name in ("mask", "encoder_mask"):
        masks = getattr(prompt, name)
        for mask in masks if isinstance(masks, tuple) else (masks,):
            found.mask(mask, f"a mask of {words}")


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    bare = image.copy()
    bare.info = {}  # nothing of where it comes from
    bare.save(file, "PNG", optimize=True)
    return file.getvalue()


def _mask_picture(values: Any) -> Image.Image | None:
    """A mask as a picture of 1 or 8 bits with the same values, or None if it has others."""
    steps = np.round(values * np.float32(255.0)).astype(np.uint8)
    if not np.array_equal(steps.astype(np.float32) / np.float32(255.0), values):
        return None
    is_binary = set(np.unique(steps)) <= {0, 255}
    return Image.fromarray(steps == 255 if is_binary else steps)


def same(a: Any, b: Any) -> bool:
    """Whether two plans' parts are of the same numbers, bit for bit."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, Image.Image) and isinstance(b, Image.Image):
        return a.size == b.size and same(np.asarray(to_rgb(a)), np.asarray(to_rgb(b)))
    if type(a) is not type(b):
        return False
    if is_dataclass(a):
        names = [entry.name for entry in fields(a) if entry.name not in _UNCOMPARED]
        return all(same(getattr(a, name), getattr(b, name)) for name in names)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return bool(a == b)
