"""A ControlNet or T2I-Adapter on its way from files to a backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from .controlnet import ControlNetSpec
from .ignoring import NOTHING, Ignore
from .t2i_adapter import T2IAdapterSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class T2IAdapterFiles:
    """A T2I-Adapter, its config parsed, its weights not yet read; see `ControlNetFiles`."""

    name: str
    path: Path
    config: Mapping[str, Any]
    spec: T2IAdapterSpec
    variant: str | None = None
    ignore: Ignore = NOTHING

    @property
    def label(self) -> str:
        """The name for messages: that of the file, folder or repository."""
        return self.path.name if self.path.is_file() else self.name


ControlSpec: TypeAlias = ControlNetSpec | T2IAdapterSpec


ControlFiles: TypeAlias = "ControlNetFiles | T2IAdapterFiles"


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlNetFiles:
    """A ControlNet, its config parsed, its weights not yet read.

    `path` is a folder in diffusers' layout (original or converted), or a file. `name` is what a
    person would call it. `config` is in diffusers' words; a file's is told from its tensors.
    `ignore` names tensors that it does not know and that may be left out.
    """

    name: str
    path: Path
    config: Mapping[str, Any]
    spec: ControlNetSpec
    variant: str | None = None
    ignore: Ignore = NOTHING

    @property
    def label(self) -> str:
        """The name for messages: that of the file, folder or repository."""
        return self.path.name if self.path.is_file() else self.name
