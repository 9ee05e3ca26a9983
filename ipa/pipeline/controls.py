"""The ControlNets and T2I-Adapters that a pipeline has loaded."""

from __future__ import annotations

import logging
from typing import Any

from ipa.backend.protocol import Backend
from ipa.errors import RequestError
from ipa.model.control_files import ControlFiles, ControlSpec
from ipa.model.controlnet import ControlNetSpec
from ipa.prepare.controls.planning import AttachedControl

from .registry import Registry

_LOG = logging.getLogger("ipa.pipeline")


class Controls(Registry[AttachedControl]):
    """The loaded controls by name, in the order of loading."""

    def __init__(self, backend: Backend) -> None:
        super().__init__()
        self._backend = backend

    def of(self, kind: type[ControlSpec]) -> dict[str, AttachedControl]:
        """The controls of one kind."""
        return {name: control for name, control in self.items() if isinstance(control.spec, kind)}

    def load(self, name: str, files: ControlFiles) -> None:
        """Load a ControlNet or T2I-Adapter, all or nothing.

        Raises:
            CheckpointError: It is damaged, or made for another base model.
            RequestError: The name is taken.
        """
        if name in self:
            taken = self[name].spec
            raise RequestError(
                f"a {taken.title} of this name is loaded",
                found=name,
                remedy=f"pass another name=, or unload_{taken.word} first",
            )
        files.spec.check_base(self._backend.model, files.label)
        nbytes = self._backend.controlnets.load(name, files)
        _LOG.info("loaded the control %s from %s: %.1f MB", name, files.label, nbytes / 1e6)
        self._put(name, AttachedControl(files, nbytes))

    def unload(self, name: str | None, kind: type[ControlSpec] = ControlNetSpec) -> None:
        """Unload one of a kind, or all of them. Raises RequestError if there is none."""
        controls = self.of(kind)
        if name is not None and name not in controls:
            raise RequestError(
                f"no {kind.title} of this name is loaded",
                found=f"{name!r}; loaded: {', '.join(controls) or 'none'}",
            )
        for control in list(controls) if name is None else [name]:
            self._backend.controlnets.unload(control)
            self._remove(control)

    def describe(self, kind: type[ControlSpec]) -> dict[str, Any]:
        """The controls of one kind for `Pipeline.info`, JSON-able."""
        return {
            name: {
                "file": attached.file,
                "results": attached.spec.results,
                "bytes": attached.nbytes,
                **attached.ignored,
            }
            for name, attached in self.of(kind).items()
        }
