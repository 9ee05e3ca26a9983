"""Tags of A1111 and ComfyUI in a prompt, beside words and their weights.

A1111 takes every `<kind:arguments>` out of a prompt before it is read (modules/extra_networks.py):
`<lora:name:0.8>` is a LoRA, and so is `<lyco:…>`; a second number is the UNet's, the first then the
text encoders'; both may be named, `te=` and `unet=`. In negative prompts A1111 knows none. ComfyUI
has `embedding:NAME` (comfy/sd1_clip.py). What is not done of all that is said by `prompt_notes`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ipa.backend.protocol import LoraScale
from ipa.checks import is_finite
from ipa.errors import RequestError
from ipa.request.request import Request

from .learned_words import TextualInversion

TAG = re.compile(r"<(\w+):([^>]+)>")
"""A pattern for the tags that A1111 takes out of a prompt."""

LORA_KINDS = ("lora", "lyco")
_POSITIONS = ("te", "unet", "dyn")  # of arguments without a name, behind that of the LoRA
TEXTS = ("prompt", "prompt_2")
"""The arguments with texts in which a LoRA may be named."""

EMBEDDING = re.compile(r"(?:^|(?<=\s))embedding:(\S+)")
"""A pattern for ComfyUI's embedding:NAME: at the beginning, or behind a space."""

_ENDINGS = (".safetensors", ".pt", ".bin")
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class LoraTag:
    """`<lora:name:weight>`: what it asks for, and how it was written."""

    name: str
    scale: LoraScale
    text: str


def without_tags(text: str) -> str:
    """A text without the tags that A1111 takes out of it."""
    return TAG.sub("", text)


def tag_name(text: str) -> str:
    """The name in the text of a LoRA's tag."""
    return text.strip("<>").split(":")[1].strip()


def lora_tags(request: Request) -> tuple[LoraTag, ...]:
    """The LoRAs that the prompts of a request name in A1111's way, each once.

    Raises:
        RequestError: A weight is no number, or one LoRA is named twice with different ones.
    """
    if request.prompt_syntax != "a1111":
        return ()
    found: dict[str, LoraTag] = {}
    for field in TEXTS:
        names: set[str] = set()
        for match in TAG.finditer(getattr(request, field) or ""):
            if match[1] not in LORA_KINDS:
                continue
            tag = _lora_tag(match[0], match[2])
            if tag.name in names or found.setdefault(tag.name, tag).scale != tag.scale:
                raise RequestError(
                    f"{field} names the LoRA {tag.name!r} twice",
                    found=tag.text[:_SHOWN],
                    remedy="name it once, with the weight that it shall have",
                )
            names.add(tag.name)
    return tuple(found.values())


def _lora_tag(text: str, inside: str) -> LoraTag:
    name, *arguments = inside.split(":")
    given: dict[str, str] = {}
    positions = iter(_POSITIONS)
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals:
            given[key] = value
        else:
            given.setdefault(next(positions, "more"), argument)
    weights = {key: _weight(given.pop(key), text) for key in ("te", "unet") if key in given}
    if given:
        raise RequestError(
            "a LoRA in a prompt has a name and one or two weights",
            found=text[:_SHOWN],
            remedy="write <lora:name:0.8>; other ranks and weights by block are not supported",
        )
    first = weights.get("te", 1.0)
    return LoraTag(name.strip(), LoraScale(weights.get("unet", first), first), text)


def _weight(value: str, text: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not is_finite(number):
        raise RequestError(
            "the weight of a LoRA in a prompt must be a finite number",
            found=text[:_SHOWN],
            remedy="write <lora:name:0.8>",
        )
    return number


def named_words(text: str, inversions: Sequence[TextualInversion]) -> str:
    """A text with `embedding:NAME` replaced by the learned word of that name, or removed.

    ComfyUI's NAME is that of a file, with its ending or without; here also the word itself.
    """

    def word(match: re.Match[str]) -> str:
        token, rest = find_word(match[1], inversions)
        return rest if token is None else token + rest

    return EMBEDDING.sub(word, text)


def find_word(name: str, inversions: Sequence[TextualInversion]) -> tuple[str | None, str]:
    """The learned word that a name means, if any, and the commas behind the name."""
    table: dict[str, str] = {}
    for inversion in inversions:
        stem = Path(inversion.file).stem
        for spelled in (
            inversion.token,
            stem,
            *(f"{base}{e}" for base in (inversion.token, stem) for e in _ENDINGS),
        ):
            table.setdefault(spelled, inversion.token)
    for tried in (name, name.rstrip(",")):
        if tried in table:
            return table[tried], name[len(tried) :]
    return None, name[len(name.rstrip(",")) :]
