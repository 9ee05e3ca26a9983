"""From the description of a request back to the request: the inverse of `.description`."""

from __future__ import annotations

from typing import Any, get_args

from ipa.errors import RequestError
from ipa.model.control_files import ControlSpec

from .field import Told, read_fields, refuse_lost
from .fields import DEFAULTS, REQUEST_FIELDS
from .picture_store import PictureStore

_KINDS = tuple(kind.word for kind in get_args(ControlSpec))
_LOST = {"weights": "weights from a function"}  # which a call has, and no request


def is_description(fields: Told) -> bool:
    """Whether a request is one that we described: it has what nobody writes."""
    return "seeds" in fields and "given_latents_sha256" in fields


def in_present_form(description: Told) -> Told:
    """A description as it would be written today.

    Older ones say the name of a control under the word for its kind, and lack the fields that there
    were not: these are as they are by default.
    """
    is_ours = is_description(description)
    defaults = DEFAULTS if is_ours else {name: {} for name in DEFAULTS}
    present = {**defaults["request"], **description}
    for name, rewritten in (("image_prompts", dict), ("controls", _present_control)):
        entries = description.get(name)
        if isinstance(entries, list) and all(isinstance(one, dict) for one in entries):
            present[name] = [{**defaults[name], **rewritten(one)} for one in entries]
    return present


def _present_control(control: Told) -> dict[str, Any]:
    for kind in _KINDS:
        if kind in control:
            rest = {key: value for key, value in control.items() if key != kind}
            return {"control": control[kind], "kind": kind} | rest
    return dict(control)


def from_description(description: Told, pictures: PictureStore) -> dict[str, Any]:
    """The arguments of the call, image prompts and controls as dicts, pictures opened.

    Raises:
        RequestError: A picture is not at hand, or it was made of more than pictures and numbers.
    """
    refuse_lost(description, _LOST)
    try:
        return read_fields(REQUEST_FIELDS, in_present_form(description), pictures)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise RequestError(
            "the description of a request is damaged",
            found=f"{error!r:.120}",
            remedy="write the request as a JSON file",
        ) from error
