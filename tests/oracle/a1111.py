"""A1111's own reader of parameters, restated: `parse_generation_parameters` and `unquote`."""

from __future__ import annotations

import json
import re

_PARAMETER = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
_SIZE = re.compile(r"^(\d+)x(\d+)$")


def read(text: str) -> tuple[str, str, dict[str, str]]:
    """Prompt, negative prompt and settings; a size is two of these, NAME-1 and NAME-2."""
    prompt = negative = ""
    is_negative = False
    *lines, last = text.strip().split("\n")
    if len(_PARAMETER.findall(last)) < 3:
        lines.append(last)
        last = ""
    for line in lines:
        line = line.strip()
        if line.startswith("Negative prompt:"):
            is_negative = True
            line = line[16:].strip()
        if is_negative:
            negative += ("" if negative == "" else "\n") + line
        else:
            prompt += ("" if prompt == "" else "\n") + line
    settings: dict[str, str] = {}
    for name, value in _PARAMETER.findall(last):
        if value[:1] == '"' and value[-1:] == '"':
            value = json.loads(value)
        size = _SIZE.match(value)
        if size is None:
            settings[name] = value
        else:
            settings[f"{name}-1"], settings[f"{name}-2"] = size.groups()
    return prompt, negative, settings
