"""Whether two captures are of the same run; if not, exactly what differs."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from ipa.errors import IncompatibleCaptures, RequestError
from ipa.parity.capture.capture import Capture, Header
from ipa.pipeline.fingerprints import agreement
from ipa.pipeline.replay import in_present_form

Found: TypeAlias = tuple[str, str, str]
"""A difference: a name, a's value, b's value."""

FILE_NAMES = frozenset({"file"})
"""Parts of a request that may differ: fingerprints tell what is in the files."""

FOLLOWS: Mapping[str, str] = {"seeds": "seed"}
"""Parts of a request that are made of others, and are listed only where those are equal."""

_LISTS = (list, tuple)
_ABSENT = "nothing"
_SHOWN = 60


def check_compatible(a: Capture, b: Capture, allow: Collection[str] = ()) -> None:
    """Raise IncompatibleCaptures with every difference that is not allowed by name.

    Args:
        a: The reference.
        b: The other.
        allow: Names as the error lists them: parts of a request ("seed", "image_prompts.0.scale"),
            "weights.unet" and so on, "format", "stages". One covers all whose names go on from it
            after a dot: "weights" is all of them.

    Raises:
        RequestError: A name is of nothing that could differ.
    """
    alone: list[Found] = []
    if not a.stages.keys() & b.stages.keys():
        alone.append(("stages", f"{len(a.stages)}", f"{len(b.stages)}, none of them in both"))
    check_headers(a.header, b.header, allow, alone)


def check_headers(
    a: Header, b: Header, allow: Collection[str] = (), more: Sequence[Found] = ()
) -> None:
    """Check that the headers of two runs agree; `more` is what else is known to differ."""
    _check_names(allow, a, b)
    found = [one for one in (*differing(a, b), *more) if not _allowed(one[0], allow)]
    if found:
        raise IncompatibleCaptures(found)


def _check_names(allow: Collection[str], *headers: Header) -> None:
    names = {"format", "stages"}
    for header in headers:
        names |= {f"weights.{component}" for component in header.fingerprints}
        names |= set(_names("", header.request))
    heads = {name[:end] for name in names for end in _ends(name)}
    for given in allow:
        if given not in heads:
            ends = sorted(name for name in heads if name.rpartition(".")[2] == given)
            near = ends[:3] or difflib.get_close_matches(given, sorted(heads), 3, 0.5)
            raise RequestError(
                f"nothing that may differ is called {given!r}",
                remedy=f"did you mean {' or '.join(near)}?"
                if near
                else f"one of {', '.join(sorted(name for name in heads if '.' not in name))}",
            )


def _names(name: str, value: Any) -> Iterator[str]:
    """The dotted names of all values in a request, as `_request` has them."""
    if name:
        yield name
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _names(f"{name}.{key}" if name else str(key), entry)
    elif isinstance(value, _LISTS) and _deep(value):
        for number, entry in enumerate(value):
            yield from _names(f"{name}.{number}", entry)


def _ends(name: str) -> Iterator[int]:
    yield from (place for place, sign in enumerate(name) if sign == ".")
    yield len(name)


def differing(a: Header, b: Header) -> list[Found]:
    """All differences of two runs' requests and weights."""
    versions = a.format_version, b.format_version
    found: list[Found] = []
    if versions[0] != versions[1]:
        found.append(("format", str(versions[0]), str(versions[1])))
    found += _weights(a.fingerprints, b.fingerprints)
    found += request_differences(a.request, b.request)
    return found


def request_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Found]:
    """The differences of two requests, as `Result.info` describes them."""
    found = list(_request("", in_present_form(a), in_present_form(b)))
    names = {name for name, _, _ in found}
    yield from (one for one in found if FOLLOWS.get(one[0]) not in names)


def _weights(
    a: Mapping[str, Mapping[str, str]], b: Mapping[str, Mapping[str, str]]
) -> Iterator[Found]:
    for component in dict.fromkeys((*a, *b)):
        first, second = a.get(component), b.get(component)
        if first is None or second is None or agreement(first, second) is None:
            yield f"weights.{component}", _one(first), _one(second)


def _one(fingerprint: Mapping[str, str] | None) -> str:
    """The first of a component's hashes, short."""
    return next(iter(fingerprint.values()))[:8] if fingerprint else _ABSENT


def _request(name: str, a: Any, b: Any) -> Iterator[Found]:
    """Walk both requests, down to single values, for their differences."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in dict.fromkeys((*a, *b)):
            if key not in FILE_NAMES:
                yield from _request(f"{name}.{key}" if name else key, a.get(key), b.get(key))
    elif isinstance(a, _LISTS) and isinstance(b, _LISTS):
        yield from _lists(name, [*a], [*b])
    elif a != b:
        yield name, _told(a), _told(b)


def _lists(name: str, a: list[Any], b: list[Any]) -> Iterator[Found]:
    """A value with lists for tuples, as it is in a file."""
    if len(a) == len(b) and _deep(a, b):
        for number, (first, second) in enumerate(zip(a, b, strict=True)):
            yield from _request(f"{name}.{number}", first, second)
    elif a != b:
        yield name, _told(a), _told(b)


def _deep(*values: Sequence[Any]) -> bool:
    return all(isinstance(entry, Mapping) for value in values for entry in value)


def _told(value: Any) -> str:
    text = _ABSENT if value is None else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _allowed(name: str, allow: Collection[str]) -> bool:
    return any(name == given or name.startswith(f"{given}.") for given in allow)
