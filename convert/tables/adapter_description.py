"""What a converted adapter says of itself: its structure as JSON, in the file's metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, get_args

from ipa.errors import CheckpointError
from ipa.model.adapter import AdapterSpec, Feature, Projector
from ipa.model.adapter_kinds import adapter_kinds
from ipa.model.config import MOST, MOST_LAYERS

DESCRIPTION = "ip_adapter"
"""The key of the description in the file's metadata."""

_MOST: Mapping[str, int] = {"layers": MOST_LAYERS, "heads": MOST_LAYERS}
_WORDS: Mapping[str, tuple[str, ...]] = {
    "projector": get_args(Projector),
    "feature": get_args(Feature),
}


def describe(spec: AdapterSpec) -> str:
    """An adapter's structure as JSON."""
    return json.dumps(asdict(spec))


def parse_description(text: str | None, where: str) -> AdapterSpec:
    """Parse the structure in a file's metadata, which anybody may have written.

    Raises:
        CheckpointError: There is none, or it is not one that `describe` writes.
    """
    if text is None:
        raise _refusal(where, "no description")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refusal(where, str(error)) from error
    names = {field.name for field in fields(AdapterSpec)}
    if not isinstance(value, dict) or value.keys() != names:
        raise _refusal(where, f"a description without exactly {', '.join(sorted(names))}")
    wrong = [name for name, entry in value.items() if not _is_good(name, entry)]
    if wrong:
        raise _refusal(where, f"{wrong[0]} {str(value[wrong[0]])[:40]!r} in the description")
    spec = AdapterSpec(**value)
    if spec.kind not in ("", *adapter_kinds(spec).names):
        raise _refusal(where, f"the kind {spec.kind[:40]!r}, which no such adapter has")
    return spec


def _is_good(name: str, value: Any) -> bool:
    if name == "kind":
        return isinstance(value, str)
    if name in _WORDS:
        return value in _WORDS[name]
    return type(value) is int and 0 <= value <= _MOST.get(name, MOST)


def _refusal(where: str, found: str) -> CheckpointError:
    return CheckpointError(
        f"{where} does not say which adapter it is",
        found=found,
        remedy="convert the original adapter again",
    )
