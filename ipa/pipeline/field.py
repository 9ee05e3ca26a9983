"""A field of a request as its description has it: one row says how it is written, and how read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Generic, TypeAlias, TypeVar

from ipa.errors import RequestError

from .picture_store import PictureStore

T = TypeVar("T")
Told: TypeAlias = Mapping[str, Any]
"""A description, or one of an image prompt or control in it: JSON-able."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Field(Generic[T]):
    """A field of a request: how it is described, and how it is read back.

    Attributes:
        describe: From what was planned, for each prompt of a call, to entries of the description;
            from none where there is nothing to say.
        read: From a description that has one of `keys` to what the field was.
        keys: The entries that it is read from.
        lost: Entries that say no more than that there was something, and what in words: it cannot
            be read back from them.
        restore: What reads such entries where the pictures have what they stand for; else None.
    """

    describe: Callable[[Sequence[T]], dict[str, Any]]
    read: Callable[[Told, PictureStore], Any] | None = None
    keys: tuple[str, ...] = ()
    lost: Mapping[str, str] = field(default_factory=dict)
    restore: Callable[[Told, PictureStore], Any] | None = None


Fields: TypeAlias = Mapping[str, Field[T]]


def complete(kind: Any, rows: Fields[T], plain: Callable[[str], Field[T]]) -> Fields[T]:
    """A row for every field of a dataclass, in its order: its own, or the plain one of its name."""
    return {one.name: rows.get(one.name) or plain(one.name) for one in fields(kind)}


def defaults(kind: Any, rows: Fields[T]) -> dict[str, Any]:
    """The defaults of a dataclass's plain fields, but for None: what an older description means."""
    plain = (one for one in fields(kind) if one.name not in rows)
    return {one.name: one.default for one in plain if one.default not in (None, MISSING)}


def describe_fields(rows: Fields[T], planned: Sequence[T]) -> dict[str, Any]:
    """The entries of all fields."""
    return {k: v for row in rows.values() for k, v in row.describe(planned).items()}


def read_fields(rows: Fields[T], description: Told, pictures: PictureStore) -> dict[str, Any]:
    """The fields of which a description tells.

    Raises:
        RequestError: One of them was more than the description holds, or a picture is not at hand.
    """
    found: dict[str, Any] = {}
    for name, row in rows.items():
        if not any(description.get(entry) for entry in row.lost):
            continue
        found[name] = None if row.restore is None else row.restore(description, pictures)
        if found[name] is None:
            refuse_lost(description, row.lost)
    return found | {
        name: row.read(description, pictures)
        for name, row in rows.items()
        if name not in found
        and row.read is not None
        and any(key in description for key in row.keys)
    }


def refuse_lost(description: Told, lost: Mapping[str, str]) -> None:
    """Raise RequestError for an entry that says no more than that there was something."""
    for name, words in lost.items():
        if description.get(name):
            raise RequestError(
                f"the request was made with {words}, which its description does not hold",
                found=name,
                remedy="write the request as a JSON file, or call ipa.parity.capture",
            )


def undescribed(rows: Fields[T]) -> Iterator[str]:
    """The names of fields that no description has: how a run is watched, and what it gives."""
    return (name for name, row in rows.items() if row is UNSEEN)


UNSEEN: Field[Any] = Field(describe=lambda _: {})


def as_is(name: str, value: Callable[[T], Any], *, when: Callable[[T], bool]) -> Field[T]:
    """A field that is described under its own name, the same for all prompts."""

    def describe(planned: Sequence[T]) -> dict[str, Any]:
        return {name: value(planned[0])} if when(planned[0]) else {}

    return Field(describe=describe, read=lambda description, _: description[name], keys=(name,))
