"""A1111's text of parameters: its grammar, written and read.

    PROMPT
    Negative prompt: TEXT
    Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 1, Size: 512x768, …

Source: `parse_generation_parameters` and `quote` of stable-diffusion-webui's infotext_utils.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

KEY = "parameters"
"""The key of the text in a PNG."""

_NEGATIVE = "Negative prompt:"
_LEAST = 3  # settings in a line that is one of settings
# Bounded, where A1111's own takes the square of the length for a line without a colon.
_SETTING = re.compile(r'\s{0,8}(\w[\w \-/]{1,99}):\s{0,8}("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
_FALSE_SETTINGS = re.compile(r"^(\s*Steps):", re.MULTILINE)
_UNWRITABLE = re.compile(r"[\0\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameters:
    """A text of parameters in its parts.

    Attributes:
        prompt: May have lines.
        negative_prompt: Likewise; "" is none.
        settings: Texts by name, in order.
    """

    prompt: str = ""
    negative_prompt: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """The text, in which no line of a prompt can be taken for something else.

        An empty prompt leaves its line: some readers look for what follows a line's end.
        """
        lines = [sanitised(self.prompt)]
        negative = sanitised(self.negative_prompt)
        if negative:
            lines.append(f"{_NEGATIVE} {negative}")
        pairs = ((name, _one_line(value)) for name, value in self.settings.items())
        lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in pairs if value))
        return "\n".join(lines)


def parse(text: str) -> Parameters:
    """Read a text of parameters, as A1111 does. Any text is one: it may be all prompt."""
    *lines, last = text.strip().split("\n")
    found = _SETTING.findall(last)
    if len(found) < _LEAST:
        lines, found = [*lines, last], []
    parts: dict[bool, list[str]] = {False: [], True: []}
    is_negative = False
    for line in (line.strip() for line in lines):
        rest = line
        if line.startswith(_NEGATIVE):
            is_negative, rest = True, line[len(_NEGATIVE) :].strip()
        if rest or parts[is_negative]:
            parts[is_negative].append(rest)
    return Parameters(
        prompt="\n".join(parts[False]),
        negative_prompt="\n".join(parts[True]),
        settings={name: _unquoted(value) for name, value in found},
    )


def sanitised(prompt: str) -> str:
    """A prompt as it is written: without NUL, and no words of it that end the prompt for a reader.

    A blank goes before the colon of those, which CLIP's tokens do not show.
    """
    text = _UNWRITABLE.sub("", prompt).replace("\r\n", "\n").replace("\r", "\n")
    text = "\n".join(line.strip() for line in text.split("\n")).strip()
    text = text.replace(_NEGATIVE, f"{_NEGATIVE[:-1]} :")
    return _FALSE_SETTINGS.sub(r"\1 :", text)


def plain_value(text: str) -> str:
    """A value for the inside of another: without what parts those."""
    return " ".join(re.sub(r'[,:"\\\x00-\x1f\ud800-\udfff]', " ", text).split())


def _one_line(value: str) -> str:
    return _UNWRITABLE.sub("", value).strip()


def _quoted(value: str) -> str:
    needs = any(sign in value for sign in ',:\n\r"')
    return json.dumps(value, ensure_ascii=False) if needs else value


def _unquoted(value: str) -> str:
    if not (len(value) > 1 and value[0] == value[-1] == '"'):
        return value
    try:
        text = json.loads(value)
    except ValueError:
        return value
    return text if isinstance(text, str) else value
