"""A request of another program in the words of ours: what was understood, and what was lost."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ipa.errors import RequestError, shown
from ipa.prepare.samplers.names import own_name
from ipa.prepare.samplers.schedules import NAMES
from ipa.request.request import Request

_LONGEST = 120


@dataclass(frozen=True, slots=True)
class Weights:
    """A file of weights that a picture names.

    Attributes:
        role: "model", "LoRA", "adapter", "control", "VAE".
        name: As the program calls it.
        sha256: What is known of its hash, or "".
        scale: How strongly it acts, where that is said.
    """

    role: str
    name: str
    sha256: str = ""
    scale: float | None = None

    def words(self) -> str:
        """It in words."""
        told = f"{self.role} {self.name}"
        told += f" (hash {self.sha256})" if self.sha256 else ""
        return told if self.scale is None else f"{told} at {self.scale:g}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Foreign:
    """What a picture of another program says.

    Attributes:
        tool: The program.
        arguments: Those of a call of ours.
        weights: The files of weights that it names: to be given by who plays it again.
        lost: What a call of ours does not have, or what is not in the file, in words.
    """

    tool: str
    arguments: Mapping[str, Any]
    weights: tuple[Weights, ...] = ()
    lost: tuple[str, ...] = ()


class Reading:
    """The entries of a request of another program, taken one by one; the rest is lost."""

    def __init__(self, tool: str, given: Mapping[str, Any]) -> None:
        self.tool, self.given = tool, dict(given)
        self.arguments = dict[str, Any]()
        self.weights = list[Weights]()
        self.lost = list[str]()

    def pop(self, *keys: str) -> Any:
        """The first entry of these names that says something; all of them are taken."""
        found = [self.given.pop(key, None) for key in keys]
        return next((value for value in found if value not in (None, "")), None)

    def text(self, name: str, *keys: str) -> None:
        """Take an entry as a text."""
        self._take(name, keys, lambda value: value if isinstance(value, str) else None)

    def number(self, name: str, *keys: str) -> None:
        """Take an entry as a number."""
        self._take(name, keys, as_number)

    def integer(self, name: str, *keys: str, less: int = 0) -> None:
        """Take an entry as an integer, less something."""

        def read(value: Any) -> int | None:
            number = as_integer(value)
            return None if number is None else number - less

        self._take(name, keys, read)

    def size(self, *keys: str) -> None:
        """Take an entry such as 512x768 as the size."""
        value = self.pop(*keys)
        if value is None:
            return
        width, _, height = str(value).lower().replace("×", "x").partition("x")
        self.put("width", as_integer(width), value)
        self.put("height", as_integer(height), value)

    def sampler(self, name: Any, levels: Any = None) -> None:
        """Take a sampler, and its noise levels where they are said apart."""
        if name in (None, ""):
            return
        told = f"{name} {levels}" if levels not in (None, "") else str(name)
        ours = next((one for one in (own_name(told, NAMES),) if one in NAMES), None)
        if ours is None:
            ours = next((one for one in (own_name(str(name), NAMES),) if one in NAMES), None)
            self.lost.append(f"sampler {told[:_LONGEST]}" + (f" ({ours} is near)" if ours else ""))
        if ours is not None:
            self.put("scheduler", ours, told)

    def put(self, name: str, value: Any, told: Any) -> None:
        """Take an argument, if a call can have it."""
        try:
            if value is None:
                raise RequestError("not understood")
            Request(**{name: value})
        except (RequestError, TypeError):
            self.lost.append(f"{name} {shown(told)}")
        else:
            self.arguments[name] = value

    def named(self, role: str, name: Any, sha256: Any = "", scale: Any = None) -> None:
        """Note a file of weights."""
        if isinstance(name, str) and name:
            known = sha256[:64] if isinstance(sha256, str) else ""
            self.weights.append(Weights(role, name[:_LONGEST], known, as_number(scale)))

    def done(self, ignored: Sequence[str] = ()) -> Foreign:
        """All of it, with what nobody asked for."""
        rest = ((key, value) for key, value in self.given.items() if key not in ignored)
        unknown = [f"{key}: {told(value)}" for key, value in rest if value not in (None, "")]
        return Foreign(
            tool=self.tool,
            arguments=self.arguments,
            weights=tuple(dict.fromkeys(self.weights)),
            lost=tuple(dict.fromkeys([*self.lost, *unknown])),
        )

    def _take(self, name: str, keys: Sequence[str], read: Callable[[Any], Any]) -> None:
        value = self.pop(*keys)
        if value is not None:
            self.put(name, read(value), value)


def told(value: Any) -> str:
    """A value in words, cut."""
    words = value if isinstance(value, str) else shown(value)
    return words if len(words) <= _LONGEST else f"{words[:_LONGEST]}…"


def as_number(value: Any) -> float | None:
    """A finite number, also where it is written as a text."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def as_integer(value: Any) -> int | None:
    """An integer, also where it is written as a text or with .0."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().isdecimal() and len(value) <= 30:
        return int(value)
    number = as_number(value)
    return int(number) if number is not None and number == int(number) else None


def as_object(text: Any) -> dict[str, Any] | None:
    """The object of a text of JSON, or None for any other."""
    if isinstance(text, str) and text.lstrip()[:1] == "{":
        try:
            text = json.loads(text)
        except (ValueError, RecursionError):
            return None
    return text if isinstance(text, dict) else None


def objects(value: Any) -> Iterator[Mapping[str, Any]]:
    """The objects in a list."""
    return (one for one in (value if isinstance(value, list) else ()) if isinstance(one, dict))
