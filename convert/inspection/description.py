"""The words in which a checkpoint is described."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """A checkpoint's description: words for a person, empty where there is nothing to say."""

    variant: str = ""
    base: str = ""
    encoder: str = ""
    remarks: tuple[str, ...] = ()
