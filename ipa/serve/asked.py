"""The one form that every dialect is translated to, and how it becomes a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ipa.engine.document import JobDocument
from ipa.engine.needs import KINDS, Part
from ipa.errors import RequestError, shown
from ipa.pipeline.documents.arguments import read_arguments
from ipa.pipeline.documents.pictures import PictureShelf
from ipa.request.request import Request

from .faults import Fault, fault_of
from .limits import Limits
from .offers import Offers
from .pictures import CountedPictures

_USUAL_SIDE = 1024  # where neither the request nor a picture says a size
_USUAL_STEPS = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a client asks for.

    Attributes:
        request: The arguments of a call as JSON, but that pictures may be `Derived` or files.
        model: The offered model's name; None is the first.
        parts: By kind, offered names beside those that the request itself names, with their scales
            where they are LoRAs.
        warnings: What was asked for and has no effect here.
        priority: Higher ones first.
        deadline_s: Seconds after which it fails.
        names: The client's names of our arguments.
    """

    request: Mapping[str, Any]
    model: str | None = None
    parts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    priority: int = 0
    deadline_s: float | None = None
    names: Mapping[str, str] = field(default_factory=dict)


def make_job(asked: Asked, offers: Offers, shelf: PictureShelf, limits: Limits) -> JobDocument:
    """The job that a client asks for, checked as far as it can be before a model is loaded.

    Raises:
        Fault: It asks for what there is not, or for more than the limits allow.
    """
    try:
        model = offers.model(asked.model)
        parts = {
            kind: {offers.part(kind, name): scale for name, scale in named.items()}
            for kind, named in ((kind, asked.parts.get(kind, {})) for kind in KINDS)
        }
        request = _with_names(asked.request, offers, parts)
        _check_texts(request, limits)
        arguments = read_arguments(request, CountedPictures(shelf, limits))
        Request(**arguments)
        _check_work(arguments, limits)
    except RequestError as error:
        raise fault_of(error, field_names(asked.names)) from error
    if parts["loras"]:
        arguments["loras"] = parts["loras"] | dict(arguments.get("loras") or {})
    return JobDocument(
        needs=offers.needs(model, _chosen(parts, offers)),
        arguments=arguments,
        priority=asked.priority,
        deadline_s=asked.deadline_s,
    )


def field_names(own: Mapping[str, str]) -> dict[str, str]:
    """Our arguments' names with those that a client has for them; its own where it has others."""
    return {item.name: item.name for item in fields(Request)} | dict(own)


def _with_names(
    request: Mapping[str, Any], offers: Offers, parts: dict[str, dict[str, float]]
) -> dict[str, Any]:
    """A request whose image prompts and controls say whose they are; those are added to `parts`."""
    made = dict(request)
    for name, rows in _PARTS_OF.items():
        entries = made.get(name)
        if not isinstance(entries, list) or not all(isinstance(one, Mapping) for one in entries):
            continue  # the reader says what it should be
        made[name] = [_named_entry(entry, rows, offers, parts) for entry in entries]
    if isinstance(made.get("loras"), Mapping):
        made["loras"] = {offers.part("loras", name): at for name, at in made["loras"].items()}
        for name in made["loras"]:
            parts["loras"].setdefault(name, 1.0)
    return made


# The lists of a request whose entries name a part: by which key, and of which kinds.
_PARTS_OF: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "image_prompts": ("adapter", ("adapters",)),
    "controls": ("name", ("controlnets", "t2i_adapters")),
}


def _named_entry(
    entry: Mapping[str, Any],
    rows: tuple[str, tuple[str, ...]],
    offers: Offers,
    parts: dict[str, dict[str, float]],
) -> dict[str, Any]:
    key, kinds = rows
    name = entry.get(key)
    if name is not None and not isinstance(name, str):
        raise Fault(422, f"{key} must be a name", field=key, found=shown(name))
    asked = next((kind for kind in kinds if parts[kind]), kinds[0])
    kind = next((kind for kind in kinds if name and offers.has(kind, name)), asked)
    chosen = offers.part(kind, name or next(iter(parts[kind]), None))
    parts[kind].setdefault(chosen, 1.0)
    return {**entry, key: chosen}


def _chosen(parts: Mapping[str, Mapping[str, float]], offers: Offers) -> dict[str, Sequence[Part]]:
    """The parts to load; only adapters and LoRAs have scales."""
    return {
        kind: [replace(offers.parts[kind][name], scale=scale) for name, scale in named.items()]
        for kind, named in parts.items()
    }


def _check_texts(request: Mapping[str, Any], limits: Limits) -> None:
    for name in ("prompt", "negative_prompt", "prompt_2", "negative_prompt_2"):
        text = request.get(name)
        if isinstance(text, str) and len(text) > limits.prompt:
            raise RequestError(
                f"{name} is too long",
                found=f"{len(text)} characters",
                remedy=f"at most {limits.prompt}",
            )


def _check_work(arguments: Mapping[str, Any], limits: Limits) -> None:
    start = arguments.get("image")
    first = start[0] if isinstance(start, list) and start else start
    sides = [
        arguments.get(name) or getattr(first, name, None) or _USUAL_SIDE
        for name in ("width", "height")
    ]
    pixels = sides[0] * sides[1]
    steps = arguments.get("num_inference_steps") or _USUAL_STEPS
    work = arguments.get("num_images", 1) * steps * pixels
    for what, found, most in (
        ("width and height are more than this server makes", max(sides), limits.side),
        ("width and height are more than this server makes", pixels, limits.made_pixels),
        ("num_images, num_inference_steps and the size are too much work", work, limits.work),
    ):
        if found > most:
            raise RequestError(what, found=str(found), remedy=f"at most {most}")
