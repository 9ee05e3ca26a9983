"""What is said of one picture of a result: the request that makes it again, alone if it can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ipa.metadata.references import references_json
from ipa.request.references import ReferenceFile
from ipa.request.result import Result

_LISTS = ("image_sha256", "mask_image_sha256")


def of_picture(request: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The description that makes one picture of a prompt again: alone, or with its generator's."""
    seeds = request["seeds"]
    shares_latents = len(seeds) > 1 and request.get("given_latents_sha256")
    if len(set(seeds)) < len(seeds) or shares_latents:
        return {**request, "picture": number + 1}
    alone = {**request, "seed": seeds[number], "seeds": [seeds[number]], "num_images": 1}
    for name in _LISTS:  # one for each picture, or one for all
        if len(request.get(name) or ()) == len(seeds) > 1:
            alone[name] = [request[name][number]]
    return alone


def picture_info(result: Result, number: int) -> tuple[dict[str, Any], tuple[bytes, ...]]:
    """`Result.info` of one picture, with the list of its references, and their files.

    Args:
        result: Of a call with one prompt or several.
        number: Of the picture, from 0.
    """
    info = dict(result.info)
    alone = info.pop("requests", None) or [info["request"]]
    info["request"] = _request(info["request"], alone, number)
    if result.influence is not None:
        info["influence"] = [result.info["influence"][number]]
    references = result.references
    if references is None:
        return info, ()
    request = _request(references.request, references.requests, number)
    files = tuple(file for file in references.files if _names(request, file))
    info["references"] = references_json(request, files, references.missing)
    return info, tuple(file.data for file in files)


def _request(
    whole: Mapping[str, Any], alone: Sequence[Mapping[str, Any]], number: int
) -> dict[str, Any]:
    if len(alone) == 1:
        return of_picture(whole, number)
    seeds = [seed for request in alone for seed in request["seeds"]]
    shares_latents = whole.get("given_latents_sha256")
    if len(set(seeds)) < len(seeds) or shares_latents:  # one generator drew for all prompts
        return {**whole, "picture": number + 1}
    for request in alone:
        if number < len(request["seeds"]):
            return of_picture({"weights": whole.get("weights"), **request}, number)
        number -= len(request["seeds"])
    raise IndexError(number)


def _names(value: Any, file: ReferenceFile) -> bool:
    """Whether a description names a file, anywhere."""
    if isinstance(value, Mapping):
        return any(_names(one, file) for one in value.values())
    if isinstance(value, (list, tuple)):
        return any(_names(one, file) for one in value)
    return bool(value == file.sha256)
