"""OpenAI's images API: its bodies become ours, our results become its answers.

Shapes as the package openai 3.57 sends and reads them. `POST /v1/images/edits` is the one call of
it that takes pictures: without a mask they are image prompts; with one the first is edited.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ipa.errors import RequestError, shown

from ..asked import Asked
from ..faults import Fault
from ..fields import Field, from_texts, names_of, read_fields, renamed
from ..limits import Limits
from ..pictures import Derived

_LIMITS = Limits()
STEPS_BY_QUALITY: Mapping[str, int] = {"low": 12, "medium": 20, "high": 30, "hd": 30}
"""The steps that a quality means; others leave the model's usual number."""

SCALE_BY_FIDELITY: Mapping[str | None, float] = {"high": 0.8, "low": 0.5, None: 0.5}
"""The weight of pictures that input_fidelity means."""

_WITHOUT_EFFECT = ("style", "moderation", "user", "safety_identifier")
_FORMATS = ("png", "jpeg", "webp")

_BOTH: Mapping[str, Field] = {
    "prompt": Field(kind="text", about="What to show.", ours="prompt", longest=_LIMITS.prompt),
    "model": Field(kind="text", about="An offered model; OpenAI's own names mean the first one."),
    "n": Field(kind="whole", about="Pictures.", ours="num_images", low=1, high=10),
    "size": Field(kind="text", about='"auto" or WIDTHxHEIGHT.', longest=11),
    "quality": Field(
        kind="text",
        about="How many steps, where `steps` does not say: low 12, medium 20, high and hd 30.",
        longest=20,
    ),
    "background": Field(kind="text", names=("opaque", "auto", "transparent")),
    "output_format": Field(kind="text", names=_FORMATS),
    "output_compression": Field(
        kind="whole", about="Quality of JPEG and WebP, in percent.", low=0, high=100
    ),
    "response_format": Field(kind="text", names=("b64_json", "url")),
    "partial_images": Field(kind="whole", about="Previews of a stream.", low=0, high=3),
    "stream": Field(kind="flag", about="Answer by server-sent events."),
    "moderation": Field(kind="text", about="Without effect."),
    "style": Field(kind="text", about="Without effect."),
    "user": Field(kind="text", about="Without effect."),
    "safety_identifier": Field(kind="text", about="Without effect."),
    "negative_prompt": Field(kind="text", ours="negative_prompt", longest=_LIMITS.prompt),
    "seed": Field(kind="whole", about="0 where absent.", ours="seed", low=0, high=2**64 - 1),
    "steps": Field(kind="whole", ours="num_inference_steps", low=1, high=1000),
    "guidance_scale": Field(kind="number", ours="guidance_scale"),
    "scheduler": Field(kind="text", ours="scheduler", longest=80),
    "profile": Field(kind="text", ours="profile", longest=80),
}
GENERATION: Mapping[str, Field] = {
    **_BOTH,
    "image_prompts": Field(
        kind="list", about="Ours: pictures as prompts, as in a native job.", longest=16
    ),
    "controls": Field(kind="list", about="Ours: control pictures likewise.", longest=16),
}
"""The fields of a generation's body."""

EDIT: Mapping[str, Field] = {
    **_BOTH,
    "input_fidelity": Field(
        kind="text", about="The pictures' weight: high 0.8, low 0.5.", names=("high", "low")
    ),
    "scale": Field(
        kind="text",
        about="Ours: the pictures' weight; several with commas, one for each picture.",
        longest=200,
    ),
    "adapter": Field(kind="text", about="Ours: an offered IP-Adapter.", longest=200),
    "layers": Field(kind="text", about='Ours: the layers, such as "style".', longest=400),
    "mode": Field(
        kind="text",
        about="Ours: img2img starts from the first picture; reference takes all as prompts.",
        names=("reference", "img2img"),
    ),
    "strength": Field(
        kind="number", about="Ours: how far from the first.", ours="strength", low=0, high=1
    ),
}
"""The fields of an edit's form, beside image, image[] and mask."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """How a client wants its pictures.

    Attributes:
        by_url: As addresses of this server instead of base64.
        kind: png, jpeg or webp.
        quality: Of JPEG and WebP; None is the usual.
        stream: By events.
        partial_images: The previews of a stream.
        told: Words that an answer repeats.
        size: (width, height) that was asked for; None is the model's own.
        edits: Whether it is an edit's: events are called otherwise.
    """

    by_url: bool
    kind: str
    quality: int | None
    stream: bool
    partial_images: int
    told: Mapping[str, str]
    size: tuple[int, int] | None = None
    edits: bool = False


def read_generation(body: Mapping[str, Any]) -> tuple[Asked, Delivery]:
    """A generation's body as what is asked for. Raises Fault."""
    given = read_fields(body, GENERATION)
    if "prompt" not in given:
        raise Fault(422, "prompt is needed", field="prompt")
    request = _request(given)
    request |= {key: given[key] for key in ("image_prompts", "controls") if key in given}
    unknown = sorted(set(body) - set(GENERATION))
    return _asked(given, request, GENERATION, unknown), _delivery(given, edits=False)


def read_edit(
    form: Mapping[str, str], pictures: Sequence[bytes], mask: bytes | None
) -> tuple[Asked, Delivery]:
    """An edit's form as what is asked for. Raises Fault.

    Args:
        form: Its texts.
        pictures: The files of image or image[], in order.
        mask: The file of mask.
    """
    given = read_fields(from_texts(form, EDIT), EDIT)
    if "prompt" not in given:
        raise Fault(422, "prompt is needed", field="prompt")
    if not pictures:
        raise Fault(422, "image is needed", field="image", remedy="send one or several files")
    request, mode = _request(given), given.get("mode")
    prompts = list(pictures)
    if mask is not None or mode == "img2img":
        request["image"] = prompts.pop(0)
    if mask is not None:
        edited = {"mask_image": Derived(mask, clear_parts), "overlay": True}
        request |= edited | {"strength": given.get("strength", 1.0)}
    if prompts:
        request["image_prompts"] = _image_prompts(given, prompts)
    unknown = sorted(set(form) - set(EDIT))
    taken = _taken(mask is not None, mode, len(prompts))
    return _asked(given, request, EDIT, unknown, taken), _delivery(given, edits=True)


def _image_prompts(given: Mapping[str, Any], pictures: list[bytes]) -> list[dict[str, Any]]:
    """All pictures as one image prompt, attended to jointly; each its own where it has a weight."""
    own = {key: given[key] for key in ("adapter", "layers") if key in given}
    scales = _scales(given)
    if len(scales) == 1:
        return [{"image": pictures, "scale": scales[0], **own}]
    if len(scales) != len(pictures):
        raise Fault(
            422,
            "scale is one number, or one for each picture that is a prompt",
            field="scale",
            found=f"{len(scales)} for {len(pictures)} pictures",
        )
    return [
        {"image": one, "scale": scale, **own} for one, scale in zip(pictures, scales, strict=True)
    ]


def _scales(given: Mapping[str, Any]) -> list[float]:
    if "scale" not in given:
        return [SCALE_BY_FIDELITY[given.get("input_fidelity")]]
    try:
        return [float(text) for text in given["scale"].split(",")]
    except ValueError as error:
        raise Fault(
            422, "scale must be numbers with commas", field="scale", found=shown(given["scale"])
        ) from error


def _taken(has_mask: bool, mode: str | None, count: int) -> list[str]:
    """What was made of the pictures, in words."""
    if has_mask:
        first = "the first picture is edited where the mask is clear"
    elif mode == "img2img":
        first = "the first picture is what it starts from"
    else:
        return [f"{count} picture{'s are image prompts' if count > 1 else ' is an image prompt'}"]
    return [f"{first}; the others ({count}) are image prompts"]


def _request(given: Mapping[str, Any]) -> dict[str, Any]:
    request = renamed(given, EDIT)
    steps = STEPS_BY_QUALITY.get(given.get("quality", ""))
    if steps is not None:
        request.setdefault("num_inference_steps", steps)
    request |= _size(given.get("size", "auto"))
    if given.get("background") == "transparent":
        raise Fault(
            422,
            "background cannot be transparent here",
            field="background",
            found="transparent",
            remedy="opaque or auto",
        )
    if given.get("partial_images") and given.get("stream"):
        steps = request.get("num_inference_steps", 30)
        every = max(1, -(-steps // (given["partial_images"] + 1)))
        request |= {"preview": "latent", "preview_every": every}
    return request


def _size(text: str) -> dict[str, int]:
    if text == "auto":
        return {}
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if match is None:
        raise Fault(422, 'size must be "auto" or WIDTHxHEIGHT', field="size", found=shown(text))
    return {"width": int(match[1]), "height": int(match[2])}


def _asked(
    given: Mapping[str, Any],
    request: Mapping[str, Any],
    table: Mapping[str, Field],
    unknown: Sequence[str],
    taken: Sequence[str] = (),
) -> Asked:
    warnings = [*taken, *(f"{name} has no effect here" for name in unknown)]
    warnings += [f"{name} has no effect here" for name in _WITHOUT_EFFECT if name in given]
    quality = given.get("quality", "auto")
    if quality in STEPS_BY_QUALITY and "steps" not in given:
        warnings.append(f"quality {quality} is {STEPS_BY_QUALITY[quality]} steps here")
    names = names_of(table) | {"width": "size", "height": "size", "image_prompts": "image"}
    if "image_prompts" in table:
        names["image_prompts"] = "image_prompts"
    return Asked(request=request, model=given.get("model"), warnings=tuple(warnings), names=names)


def _delivery(given: Mapping[str, Any], *, edits: bool) -> Delivery:
    size = _size(given.get("size", "auto"))
    return Delivery(
        size=(size["width"], size["height"]) if size else None,
        by_url=given.get("response_format") == "url",
        kind=given.get("output_format", "png"),
        quality=given.get("output_compression"),
        stream=given.get("stream", False),
        partial_images=given.get("partial_images", 0),
        told={
            "output_format": given.get("output_format", "png"),
            "quality": given.get("quality", "auto"),
            "background": "opaque",
        },
        edits=edits,
    )


def clear_parts(mask: Image.Image) -> Image.Image:
    """OpenAI's mask as ours: white where it is fully clear, which is what is to be made anew.

    Raises:
        RequestError: It has no transparency, or none of it is clear.
    """
    if "A" not in mask.getbands():
        raise RequestError(
            "mask has no transparency",
            found=f"a picture of mode {mask.mode}",
            remedy="a PNG that is clear where the picture is to be made anew",
        )
    clear = np.asarray(mask.getchannel("A")) == 0
    if not clear.any():
        raise RequestError("mask is clear nowhere", remedy="there is nothing to make anew")
    return Image.fromarray(np.where(clear, 255, 0).astype(np.uint8))


USAGE: Mapping[str, Any] = {
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
}
"""Nothing is billed here; clients that read usage need all of its fields."""


def answer(
    pictures: Sequence[Mapping[str, str]],
    delivery: Delivery,
    size: str,
    created: int,
    warnings: Sequence[str],
) -> dict[str, Any]:
    """The answer to a generation or an edit.

    Args:
        pictures: {"b64_json": …} or {"url": …} each.
        delivery: How they are wanted.
        size: WIDTHxHEIGHT.
        created: Seconds since 1970.
        warnings: Ours: what was asked for and is not so.
    """
    told = {"created": created, "data": [dict(one) for one in pictures], "size": size}
    return {**told, **delivery.told, **({"warnings": list(warnings)} if warnings else {})}


def partial_event(data: str, number: int, delivery: Delivery, size: str, created: int) -> Any:
    """The event of a preview."""
    told = {"b64_json": data, "partial_image_index": number, "created_at": created, "size": size}
    return {"type": f"{_word(delivery)}.partial_image", **told, **delivery.told}


def completed_event(data: str, delivery: Delivery, size: str, created: int) -> Any:
    """The event of a finished picture."""
    told = {"b64_json": data, "created_at": created, "size": size, "usage": dict(USAGE)}
    return {"type": f"{_word(delivery)}.completed", **told, **delivery.told}


def _word(delivery: Delivery) -> str:
    return "image_edit" if delivery.edits else "image_generation"


def models(names: Sequence[str], created: int) -> dict[str, Any]:
    """The answer to a list of models."""
    return {"object": "list", "data": [model(name, created) for name in names]}


def model(name: str, created: int) -> dict[str, Any]:
    """One model of a list."""
    return {"id": name, "object": "model", "created": created, "owned_by": "ipa-mlx"}
