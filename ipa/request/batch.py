"""A call with several prompts: one request for each, in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ipa.errors import RequestError

from .control import Control, check_controls
from .editing import split_sources
from .image_prompt import ImagePrompt
from .request import Request

TEXTS = ("prompt", "negative_prompt", "prompt_2", "negative_prompt_2")
"""The arguments that may be lists, with an entry for each prompt."""

EDITED = ("image", "mask_image")
"""The arguments that may be lists, with an entry for each picture of all prompts."""

SEEDS = 2**64


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """A call as one request a prompt.

    Attributes:
        requests: One after another; their seeds go on where those of the request before end.
        texts: The arguments of TEXTS that were given as lists, by name.
        image_prompts: As they were given, with the pictures of all prompts.
    """

    requests: tuple[Request, ...]
    texts: Mapping[str, tuple[str | None, ...]]
    image_prompts: tuple[ImagePrompt, ...]


def make_batch(image_prompts: Sequence[ImagePrompt], arguments: Mapping[str, Any]) -> Batch:
    """Make the requests of a call.

    Args:
        image_prompts: Each gives every prompt all its pictures, as in diffusers; or one each, if it
            is batched.
        arguments: Those of `Request`; the texts may be lists. `latents` has num_images rows for
            every prompt, those of the first prompt first. Controls that are batched give each
            prompt one of their pictures.

    Raises:
        RequestError: Counts differ, or an argument is wrong whatever the prompt.
    """
    texts = {name: _texts(name, arguments[name]) for name in TEXTS if _is_list(arguments, name)}
    prompts = tuple(image_prompts)
    controls = check_controls(arguments.get("controls", ()))
    count = _count(texts, prompts, controls)
    shared = {name: value for name, value in arguments.items() if name not in texts}
    latents = shared.pop("latents", None)
    edited = {name: shared.pop(name) for name in EDITED if name in shared}
    first = Request(**shared)
    rows = int(first.num_images)
    shares = {name: split_sources(name, given, count, rows) for name, given in edited.items()}
    parts = _split_latents(latents, count, rows)
    requests = []
    for number, part in enumerate(parts):
        changes: dict[str, Any] = {name: entries[number] for name, entries in texts.items()}
        changes["image_prompts"] = tuple(_one_prompt(prompt, number) for prompt in prompts)
        changes["controls"] = tuple(control.share(number) for control in controls)
        changes["seed"] = (int(first.seed) + number * rows) % SEEDS
        changes |= {name: entries[number] for name, entries in shares.items()}
        requests.append(replace(first, latents=part, **changes))
    return Batch(requests=tuple(requests), texts=texts, image_prompts=prompts)


def _one_prompt(prompt: ImagePrompt, number: int) -> ImagePrompt:
    is_batched = isinstance(prompt, ImagePrompt) and prompt.batched  # Request tells of others
    return prompt.share(number) if is_batched else prompt


def _is_list(arguments: Mapping[str, Any], name: str) -> bool:
    return isinstance(arguments.get(name), (list, tuple))


def _texts(name: str, given: Sequence[Any]) -> tuple[str | None, ...]:
    for number, text in enumerate(given):
        if not isinstance(text, str) and (name == "prompt" or text is not None):
            raise RequestError(f"{name}[{number}] must be a string", found=type(text).__name__)
    return tuple(given)


def _count(
    texts: Mapping[str, Sequence[Any]],
    prompts: Sequence[ImagePrompt],
    controls: Sequence[Control],
) -> int:
    """The number of prompts. All lists must agree; a single string goes with all."""
    found = {f"{name}=": len(entries) for name, entries in texts.items()}
    for number, prompt in enumerate(prompts):
        if isinstance(prompt, ImagePrompt) and prompt.batched:
            found[f"image_prompts[{number}] (batched)"] = prompt.count
    for number, control in enumerate(controls):
        if control.batched:
            found[f"controls[{number}] (batched)"] = len(control.pictures)
    counts = set(found.values()) or {1}
    if len(counts) > 1 or 0 in counts:
        raise RequestError(
            "a list of prompts and the lists that go with it need as many entries, one or more",
            found=", ".join(f"{name} {count}" for name, count in found.items()),
            remedy="pass one string for all prompts, or pictures that are not batched",
        )
    return counts.pop()


def _split_latents(latents: Any, count: int, rows: int) -> Iterator[Any]:
    """The rows of latents for each prompt; other values are left to the request's checks."""
    if not isinstance(latents, np.ndarray) or not latents.ndim or count == 1:
        yield from [latents] * count
        return
    if len(latents) != count * rows:
        raise RequestError(
            "latents have the wrong number of rows",
            found=str(latents.shape),
            remedy=f"{count * rows} rows are needed: {count} prompts, num_images={rows}",
        )
    yield from np.split(latents, count)
