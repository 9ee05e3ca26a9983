"""From the description of a request back to the request."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image

from ipa import demo
from ipa.errors import RequestError
from ipa.model.control_files import ControlSpec
from ipa.prepare.images.pictures import open_image
from ipa.request.control import Control
from ipa.request.image_prompt import ImagePrompt
from ipa.request.masks import mask_values
from ipa.request.request import Request


@dataclass(frozen=True, slots=True)
class PictureStore:
    """Picture files that are looked up by hash, the demo's references among them."""

    files: tuple[Path, ...] = ()

    @classmethod
    def of(cls, given: Iterable[Path]) -> PictureStore:
        """A store of files, and of all files in folders."""
        found: list[Path] = []
        for path in given:
            inside = sorted(path.iterdir()) if path.is_dir() else [path]
            found += [file for file in inside if file.is_file() or inside == [path]]
        return cls(tuple(found))

    def picture(self, sha256: str) -> Image.Image:
        """The picture whose pixels have this hash. Raises RequestError if there is none."""
        return self._found(sha256, np.asarray)

    def mask(self, sha256: str) -> Image.Image:
        """The mask whose values have this hash. Raises RequestError if there is none."""
        return self._found(sha256, lambda image: mask_values(image, "a mask"))

    def _found(self, sha256: str, seen: Callable[[Image.Image], Any]) -> Image.Image:
        for file in (*self.files, *demo.references()):
            try:
                image = open_image(file)
                pixels = np.ascontiguousarray(seen(image))
            except RequestError:
                if not file.exists():
                    raise
                continue  # a folder may hold other files
            if hashlib.sha256(pixels.tobytes()).hexdigest() == sha256:
                return image
        raise RequestError(
            "a picture of the request is not at hand",
            found=f"sha256 {sha256[:16]}… among {len(self.files)} files",
            remedy="name it, or its folder, with --picture",
        )


_ARGUMENTS = frozenset(field.name for field in fields(Request)) - {"image", "mask_image"}


_PROMPT_FIELDS = frozenset(field.name for field in fields(ImagePrompt))


_CONTROL_FIELDS = frozenset(field.name for field in fields(Control))


_CONTROL_KINDS = tuple(kind.word for kind in get_args(ControlSpec))


# What a description alone does not bring back, by where it is told of, in words.
_LOST: Mapping[str, str] = {
    "given_latents_sha256": "latents that were given",
    "weights": "weights from a function",
    "embeds_sha256": "image embeds",
    "faces_sha256": "faces",
    "preprocessor": "a preprocessor",
    "has_holes": "a control picture with -1 in it (Control.mask is described)",
}


def is_description(told: Mapping[str, Any]) -> bool:
    """Whether a request is a description of ours: it has keys that nobody writes."""
    return "seeds" in told and "given_latents_sha256" in told


def from_description(told: Mapping[str, Any], pictures: PictureStore) -> dict[str, Any]:
    """The call's arguments of a description, image prompts and controls as dicts.

    Raises:
        RequestError: A picture is not at hand, or it was made of more than pictures and numbers.
    """
    try:
        return _arguments(told, pictures)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise RequestError(
            "the description of a request is damaged",
            found=f"{error!r:.120}",
            remedy="write the request as a JSON file",
        ) from error


def _arguments(told: Mapping[str, Any], pictures: PictureStore) -> dict[str, Any]:
    _refuse_lost(told)
    arguments = {name: value for name, value in told.items() if name in _ARGUMENTS}
    arguments["image_prompts"] = [_prompt(one, pictures) for one in told["image_prompts"]]
    arguments["controls"] = [_control(one, pictures) for one in told.get("controls", ())]
    # Those with a tag are named in the prompt.
    arguments["loras"] = {
        name: one["scale"] for name, one in told.get("loras", {}).items() if "tag" not in one
    }
    for name in ("image", "mask_image"):
        if told.get(f"{name}_sha256"):
            arguments[name] = _one_or_all([pictures.picture(h) for h in told[f"{name}_sha256"]])
    return arguments


def _prompt(told: Mapping[str, Any], pictures: PictureStore) -> dict[str, Any]:
    _refuse_lost(told)
    images = [pictures.picture(sha256) for sha256 in told["images_sha256"]]
    prompt = {name: value for name, value in told.items() if name in _PROMPT_FIELDS}
    prompt["image"] = _one_or_all(images)
    for name, described in (("mask", "masks"), ("encoder_mask", "encoder_masks")):
        if told.get(described):
            prompt[name] = _one_or_all([_mask(one, pictures) for one in told[described]])
    if isinstance(told.get("negative"), dict):
        _refuse_lost(told["negative"])
        away = told["negative"]["images_sha256"]
        prompt["negative"] = _one_or_all([pictures.picture(sha256) for sha256 in away])
    return prompt


def _control(told: Mapping[str, Any], pictures: PictureStore) -> dict[str, Any]:
    _refuse_lost(told)
    control = {name: value for name, value in told.items() if name in _CONTROL_FIELDS}
    control.pop("preprocessor", None)
    (control["name"],) = (told[kind] for kind in _CONTROL_KINDS if kind in told)
    hashes, masks = told["image_sha256"], told.get("mask")
    lengths = {len(entries) for entries in (hashes, masks) if isinstance(entries, list)}
    if not lengths:
        return control | {"image": pictures.picture(hashes), "mask": _mask(masks, pictures)}
    (count,) = lengths  # one for each prompt
    hashes = hashes if isinstance(hashes, list) else [hashes] * count
    masks = masks if isinstance(masks, list) else [masks] * count
    return control | {
        "image": [pictures.picture(sha256) for sha256 in hashes],
        "mask": [_mask(mask, pictures) for mask in masks],
        "batched": True,
    }


def _mask(told: Mapping[str, Any] | None, pictures: PictureStore) -> Image.Image | None:
    return None if told is None else pictures.mask(told["sha256"])


def _one_or_all(entries: Sequence[Any]) -> Any:
    return entries[0] if len(entries) == 1 else list(entries)


def _refuse_lost(told: Mapping[str, Any]) -> None:
    for name, words in _LOST.items():
        if told.get(name):
            raise RequestError(
                f"the request was made with {words}, which its description does not hold",
                found=name,
                remedy="write the request as a JSON file, or call ipa.parity.capture",
            )
