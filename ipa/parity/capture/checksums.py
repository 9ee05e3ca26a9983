"""Checksums of a capture: of each stage's numbers, and of what its header says."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

_DIGITS = 16
_SUMMED = ("format_version", "header", "stages", "floors", "sums")


def checksum(data: bytes | memoryview) -> str:
    """The first digits of the SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()[:_DIGITS]


def checksum_of(metadata: Mapping[str, str]) -> str:
    """The checksum of all metadata that describe the run."""
    return checksum("\n".join(metadata[name] for name in _SUMMED).encode())
