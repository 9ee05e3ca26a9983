"""Fields of a body as a table: from one row come its check and its schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ipa.checks import is_finite
from ipa.errors import shown

from .faults import Fault


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """A field of a body. None is as if it were absent.

    Attributes:
        kind: "text", "whole", "number", "flag", "list", "object", "picture" or "any".
        about: What it is.
        ours: The argument of a call that takes its value as it is; None where more is to be done.
        low: The least number.
        high: The largest.
        longest: The characters of a text, or entries of a list.
        names: The texts that it may be.
    """

    kind: str
    about: str = ""
    ours: str | None = None
    low: float | None = None
    high: float | None = None
    longest: int | None = None
    names: tuple[str, ...] = field(default=())

    def schema(self) -> dict[str, Any]:
        """Its JSON Schema."""
        told: dict[str, Any] = dict(_SCHEMAS[self.kind])
        for key, value in (("minimum", self.low), ("maximum", self.high)):
            told |= {} if value is None else {key: value}
        if self.longest is not None:
            told["maxItems" if self.kind == "list" else "maxLength"] = self.longest
        if self.names:
            told = {"type": "string", "enum": list(self.names)}
        nullable = told if not told else {"anyOf": [told, {"type": "null"}]}
        return nullable | ({"description": self.about} if self.about else {})

    def read(self, name: str, value: Any) -> Any:
        """Its value, checked. Raises Fault with the field, what was found, and what it may be."""
        if self.kind == "whole" and isinstance(value, float) and value.is_integer():
            value = int(value)  # 20.0 is a whole number of JSON
        is_right, needed = _KINDS[self.kind]
        if not is_right(value):
            raise _wrong(name, needed, value)
        if self.names and value not in self.names:
            raise _wrong(name, f"one of {', '.join(self.names)}", value)
        if self.kind in ("whole", "number"):
            self._check_range(name, value)
        if self.longest is not None and len(value) > self.longest:
            raise Fault(
                422,
                f"{name} is too long",
                field=name,
                found=str(len(value)),
                remedy=f"at most {self.longest}",
            )
        return value

    def _check_range(self, name: str, value: float) -> None:
        low = self.low is not None and value < self.low
        if low or (self.high is not None and value > self.high):
            ends = f"from {self.low:g}" if self.low is not None else ""
            ends += f" to {self.high:g}" if self.high is not None else ""
            raise _wrong(name, f"a number {ends.strip()}", value)


def read_fields(body: Mapping[str, Any], table: Mapping[str, Field]) -> dict[str, Any]:
    """The fields of a body that are in a table and not null, checked. Raises Fault."""
    return {
        name: row.read(name, body[name])
        for name, row in table.items()
        if body.get(name) is not None
    }


def from_texts(form: Mapping[str, str], table: Mapping[str, Field]) -> dict[str, Any]:
    """The fields of a form, whose values are all texts, as those of JSON. Raises Fault."""
    return {
        name: _of_text(name, text, table[name].kind) if name in table else text
        for name, text in form.items()
        if text != "" or name == "prompt"
    }


def schema_of(table: Mapping[str, Field], required: tuple[str, ...] = ()) -> dict[str, Any]:
    """The JSON Schema of a body; it may have other fields too."""
    rows = {name: row.schema() for name, row in table.items()}
    for name in required:
        rows[name] = rows[name].get("anyOf", [rows[name]])[0]
    return {"type": "object", "properties": rows} | ({"required": [*required]} if required else {})


def renamed(given: Mapping[str, Any], table: Mapping[str, Field]) -> dict[str, Any]:
    """The values that are a call's arguments as they are, by the names that they have there."""
    return {
        row.ours: given[name]
        for name, row in table.items()
        if row.ours is not None and name in given
    }


def names_of(table: Mapping[str, Field]) -> dict[str, str]:
    """Our names with those of a table."""
    return {row.ours: name for name, row in table.items() if row.ours is not None}


def _wrong(name: str, needed: str, value: Any) -> Fault:
    return Fault(422, f"{name} must be {needed}", field=name, found=shown(value))


def _of_text(name: str, text: str, kind: str) -> Any:
    reading = _READINGS.get(kind)
    if reading is None:
        return text
    try:
        return reading(text)
    except (ValueError, KeyError) as error:
        raise _wrong(name, _KINDS[kind][1], text) from error


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_KINDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "text": (lambda value: isinstance(value, str), "a text"),
    "whole": (_is_whole, "a whole number"),
    "number": (is_finite, "a finite number"),
    "flag": (lambda value: isinstance(value, bool), "true or false"),
    "list": (lambda value: isinstance(value, list), "a list"),
    "object": (lambda value: isinstance(value, dict), "an object"),
    "picture": (lambda value: isinstance(value, (str, dict)), "a picture in base64"),
    "any": (lambda value: True, ""),
}
"""By kind: whether a value is of it, and what it is called."""

_READINGS: Mapping[str, Callable[[str], Any]] = {
    "whole": int,
    "number": float,
    "flag": {"true": True, "false": False, "True": True, "False": False}.__getitem__,
}
_SCHEMAS: Mapping[str, Mapping[str, Any]] = {
    "text": {"type": "string"},
    "whole": {"type": "integer"},
    "number": {"type": "number"},
    "flag": {"type": "boolean"},
    "list": {"type": "array"},
    "object": {"type": "object"},
    "picture": {"$ref": "#/components/schemas/Picture"},
    "any": {},
}
