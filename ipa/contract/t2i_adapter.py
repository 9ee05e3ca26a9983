"""A T2I-Adapter on its way from files to a backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .t2i_adapter_spec import T2IAdapterSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class T2IAdapterFiles:
    """A T2I-Adapter, its config parsed, its weights not yet read; see `ControlNetFiles`."""

    name: str
    path: Path
    config: Mapping[str, Any]
    spec: T2IAdapterSpec
    variant: str | None = None

    @property
    def label(self) -> str:
        """For messages and descriptions: the file's name, or the folder's or repository's."""
        return self.path.name if self.path.is_file() else self.name
