"""A ControlNet on its way from files to a backend, and where a backend keeps what controls it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from .controlnet_spec import ControlNetSpec
from .ignoring import NOTHING, Ignore
from .t2i_adapter import T2IAdapterFiles
from .t2i_adapter_spec import T2IAdapterSpec

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
        """For messages and descriptions: the file's name, or the folder's or repository's."""
        return self.path.name if self.path.is_file() else self.name


class ControlNetStore(Protocol):
    """The ControlNets and T2I-Adapters beside a backend's model, by name."""

    def load(self, name: str, files: ControlFiles) -> int:
        """Load one that fits the model, all or nothing: the bytes that it holds."""

    def unload(self, name: str) -> None:
        """Forget one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlBranch:
    """One control as the network sees it.

    `name` is the ControlNet's, and `pixels` are (1, 3, H, W) in [0, 1], red first; or a
    T2I-Adapter's, which may take (1, 1, H, W). With `conditional_only` nothing is added to the
    unconditional half, for which a ControlNet is not run; a T2I-Adapter never is.
    """

    name: str
    pixels: npt.NDArray[np.float32] = field(repr=False)
    conditional_only: bool = False
