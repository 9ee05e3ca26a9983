"""The pictures of a call as files that lie inside its own picture, for its rerun."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

FileKind = Literal["picture", "mask", "array", "embeds", "face"]
KINDS: tuple[FileKind, ...] = ("picture", "mask", "array", "embeds", "face")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceFile:
    """A file that is embedded.

    Attributes:
        kind: A PNG ("picture", "mask"), or safetensors ("array", "embeds", "face").
        sha256: What a description knows its contents by.
        data: Its bytes.
    """

    kind: FileKind
    sha256: str
    data: bytes = field(repr=False)

    def describe(self) -> dict[str, Any]:
        """JSON-able: enough to know the bytes again."""
        return {
            "kind": self.kind,
            "sha256": self.sha256,
            "bytes": len(self.data),
            "file_sha256": hashlib.sha256(self.data).hexdigest(),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class References:
    """The pictures of a call, and the call as it is with these in the place of what was given.

    Attributes:
        request: The description of that call.
        requests: Those of its prompts, each as a call of its own.
        files: The pictures and arrays that it names by their hashes.
        missing: What is not among them, in words: then it cannot be run again from these alone.
    """

    request: Mapping[str, Any]
    requests: tuple[Mapping[str, Any], ...]
    files: tuple[ReferenceFile, ...]
    missing: tuple[str, ...] = ()
