"""The ControlNets that a pipeline has loaded, and what a run asks of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ipa.contract.backend import Backend
from ipa.contract.control import Control, check_controls
from ipa.contract.controlnet import ControlBranch, ControlNetFiles
from ipa.contract.controlnet_spec import ControlNetSpec
from ipa.contract.errors import RequestError
from ipa.prepare.control_pixels import control_pixels
from ipa.prepare.curves import is_open


@dataclass(frozen=True, slots=True)
class AttachedControlNet:
    """A loaded ControlNet as the pipeline keeps it: its file's name, its structure, its bytes."""

    file: str
    spec: ControlNetSpec
    nbytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedControl:
    """A control of a request: what the backend is given, and its weights.

    `table` is results × steps, in float64: 0 where it is off.
    """

    control: Control
    branch: ControlBranch
    file: str
    table: npt.NDArray[np.float64]

    def describe(self) -> dict[str, Any]:
        """JSON-able."""
        scale, how = self.control.scale, self.control.preprocessor
        pixels = np.asarray(self.control.pictures[0])
        return {
            "controlnet": self.branch.name,
            "file": self.file,
            "image_sha256": hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest(),
            "scale": list(scale) if isinstance(scale, tuple) else scale,
            "start": self.control.start,
            "end": self.control.end,
            "guess_mode": self.control.guess_mode,
            "preprocessor": None if how is None else getattr(how, "__name__", type(how).__name__),
        }


class ControlNets(Mapping[str, AttachedControlNet]):
    """By name, in the order of loading. Not thread-safe: the pipeline serialises changes."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._known: dict[str, AttachedControlNet] = {}

    def __getitem__(self, name: str) -> AttachedControlNet:
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def load(self, name: str, files: ControlNetFiles) -> None:
        """Load a ControlNet, all or nothing.

        Raises:
            CheckpointError: It is damaged, or made for another base model.
            RequestError: The name is taken.
        """
        if name in self._known:
            raise RequestError(
                "a ControlNet of this name is loaded",
                found=name,
                remedy="pass another name=, or unload_controlnet first",
            )
        files.spec.check_base(self._backend.model, files.label)
        nbytes = self._backend.controlnets.load(name, files)
        self._known[name] = AttachedControlNet(files.label, files.spec, nbytes)

    def unload(self, name: str | None) -> None:
        """Forget one, or all of them. Raises RequestError if there is no such."""
        for own in list(self) if name is None else [controlnet_name(name, self)]:
            self._backend.controlnets.unload(own)
            del self._known[own]

    def describe(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            name: {
                "file": attached.file,
                "results": residuals(attached.spec),
                "bytes": attached.nbytes,
            }
            for name, attached in self.items()
        }


def residuals(spec: ControlNetSpec) -> int:
    """How many results a ControlNet adds: those on the way down, and the middle's."""
    return len(spec.residual_channels) + 1


def requested_controls(
    controls: object, controlnet_image: Any, controlnets: Mapping[str, AttachedControlNet]
) -> tuple[Control, ...]:
    """The controls of a call.

    Args:
        controls: One or several.
        controlnet_image: The simple form: a picture, or a list with one per loaded ControlNet.
        controlnets: Those that are loaded.

    Raises:
        RequestError: Both are given, one is missing, or it is no control.
    """
    checked = check_controls(controls)
    if controlnet_image is None:
        return checked
    if checked:
        raise RequestError("pass controls or controlnet_image, not both")
    is_list = isinstance(controlnet_image, (list, tuple))
    entries = list(controlnet_image) if is_list else [controlnet_image]
    if len(entries) != len(controlnets):
        raise RequestError(
            "controlnet_image needs one picture per loaded ControlNet",
            found=f"{len(entries)} pictures; loaded: {', '.join(controlnets) or 'no ControlNet'}",
            remedy="load them with load_controlnet, or name one with controls=[Control(…)]",
        )
    return tuple(Control(e, name=name) for e, name in zip(entries, controlnets, strict=True))


def plan_controls(
    controls: Sequence[Control],
    controlnets: Mapping[str, AttachedControlNet],
    size: tuple[int, int],
    steps: int,
) -> tuple[PlannedControl, ...]:
    """What a run is given of each control; `size` is (width, height) in pixels.

    Raises:
        RequestError: A name is unknown, a scale has the wrong length, or a picture is unusable.
    """
    return tuple(_planned(control, controlnets, size, steps) for control in controls)


def _planned(
    control: Control,
    controlnets: Mapping[str, AttachedControlNet],
    size: tuple[int, int],
    steps: int,
) -> PlannedControl:
    name = controlnet_name(control.name, controlnets)
    attached = controlnets[name]
    pooled = attached.spec.global_pool_conditions
    weights = _weights(control, residuals(attached.spec), name, graded=not pooled)
    window = [float(is_open(control.start, control.end, step, steps)) for step in range(steps)]
    branch = ControlBranch(
        name=name,
        pixels=control_pixels(control, *size),
        conditional_only=control.guess_mode or pooled,
    )
    return PlannedControl(
        control=replace(control, name=name),
        branch=branch,
        file=attached.file,
        table=np.outer(weights, window),
    )


def _weights(control: Control, count: int, name: str, *, graded: bool) -> npt.NDArray[np.float64]:
    """Of every result; those of guess mode rise from 0.1 to 1 (diffusers' ControlNetModel)."""
    scale = control.scale
    if isinstance(scale, tuple) and len(scale) != count:
        raise RequestError(
            f"Control.scale needs a weight for each result of {name}",
            found=f"{len(scale)} weights",
            remedy=f"{count} are needed: {count - 1} on the way down, then the middle's",
        )
    weights = np.broadcast_to(np.asarray(scale, np.float64), (count,))
    return weights * np.logspace(-1, 0, count) if control.guess_mode and graded else weights


def controlnet_name(name: str | None, controlnets: Mapping[str, AttachedControlNet]) -> str:
    """A loaded ControlNet; None is the only one. Raises RequestError if there is no such."""
    if name is None and len(controlnets) == 1:
        return next(iter(controlnets))
    if name in controlnets:
        return str(name)
    raise RequestError(
        "a control must name a loaded ControlNet",
        found=f"{name!r}; loaded: {', '.join(controlnets) or 'none'}",
        remedy="load one with load_controlnet, and pass Control(…, name=name)",
    )
