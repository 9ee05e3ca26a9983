"""The ControlNets and T2I-Adapters that a pipeline has loaded, and what a run asks of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ipa.backend.protocol import ControlBranch
from ipa.errors import RequestError
from ipa.model.control_files import ControlFiles, ControlSpec
from ipa.model.controlnet import ControlNetSpec
from ipa.model.t2i_adapter import T2IAdapterSpec
from ipa.prepare.scaling.curves import is_open
from ipa.request.control import Control, check_controls
from ipa.request.editing import Crop

from .pixels import adapter_pixels, control_pixels, has_holes


@dataclass(frozen=True, slots=True)
class AttachedControl:
    """A loaded ControlNet or T2I-Adapter as the pipeline keeps it: its files, its bytes."""

    files: ControlFiles
    nbytes: int

    @property
    def file(self) -> str:
        """The name of the control's file, folder or repository."""
        return self.files.label

    @property
    def ignored(self) -> dict[str, list[str]]:
        """Names of what was left out of its file, as it was asked for; for a record."""
        asked = self.files.ignore.patterns
        return {"ignored": list(asked)} if asked else {}

    @property
    def spec(self) -> ControlSpec:
        """The control's structure."""
        return self.files.spec


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedControl:
    """A control of a request, prepared for the backend, with its weights.

    `kind` says what it is for, as in the names of arguments. `table` is results × steps, in
    float64: 0 where it is off.
    """

    control: Control
    branch: ControlBranch
    kind: str
    file: str
    table: npt.NDArray[np.float64]


def requested_controls(
    controls: object, controlnet_image: Any, controlnets: Mapping[str, AttachedControl]
) -> tuple[Control, ...]:
    """The controls of a call, from `controls` or from diffusers' `controlnet_image`.

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
    nets = [
        name for name, control in controlnets.items() if isinstance(control.spec, ControlNetSpec)
    ]
    if len(entries) != len(nets):
        raise RequestError(
            "controlnet_image needs one picture per loaded ControlNet",
            found=f"{len(entries)} pictures; loaded: {', '.join(nets) or 'no ControlNet'}",
            remedy="load them with load_controlnet, or name one with controls=[Control(…)]",
        )
    return tuple(Control(e, name=name) for e, name in zip(entries, nets, strict=True))


def plan_controls(
    controls: Sequence[Control],
    controlnets: Mapping[str, AttachedControl],
    size: tuple[int, int],
    steps: int,
    crop: Crop | None = None,
) -> tuple[PlannedControl, ...]:
    """Plan each control of a run; `size` is (width, height) in pixels, `crop` of what.

    Raises:
        RequestError: A name is unknown, a scale has the wrong length, or a picture is unusable.
    """
    return tuple(_planned(control, controlnets, size, steps, crop) for control in controls)


def _planned(
    control: Control,
    controlnets: Mapping[str, AttachedControl],
    size: tuple[int, int],
    steps: int,
    crop: Crop | None,
) -> PlannedControl:
    name = control_name(control.name, controlnets)
    attached = controlnets[name]
    spec = attached.spec
    if isinstance(spec, T2IAdapterSpec):
        _check_adapter(control, spec, name, size)
        pooled, pixels = False, adapter_pixels(control, *size, spec.in_channels, crop)
    else:
        pooled, pixels = spec.global_pool_conditions, control_pixels(control, *size, crop)
    weights = _weights(control, spec, name, graded=not pooled)
    window = [float(is_open(control.start, control.end, step, steps)) for step in range(steps)]
    branch = ControlBranch(
        name=name,
        pixels=pixels,
        conditional_only=control.guess_mode or pooled,
    )
    return PlannedControl(
        control=replace(control, name=name),
        branch=branch,
        kind=spec.word,
        file=attached.file,
        table=np.outer(weights, window),
    )


def _check_adapter(
    control: Control, spec: T2IAdapterSpec, name: str, size: tuple[int, int]
) -> None:
    """Raise RequestError for what a T2I-Adapter cannot do."""
    if control.guess_mode:
        raise RequestError(
            "guess_mode is for ControlNets", found=f"{name}, a T2I-Adapter", remedy="leave it out"
        )
    if control.mask is not None or has_holes(control.pictures[0]):
        raise RequestError(
            "a mask, and -1 in a control picture, are for ControlNets for inpainting",
            found=f"{name}, a T2I-Adapter",
            remedy="leave it out",
        )
    factor = spec.downscale_factor
    if any(side % factor for side in size):
        whole = [-(-side // factor) * factor for side in size]
        raise RequestError(
            f"with the T2I-Adapter {name} width and height must be multiples of {factor}",
            found=f"{size[0]} × {size[1]}",
            remedy=f"try {whole[0]} × {whole[1]}",
        )


def _weights(
    control: Control, spec: ControlSpec, name: str, *, graded: bool
) -> npt.NDArray[np.float64]:
    """The weights of all residuals; those of guess mode rise from 0.1 to 1 (ControlNetModel)."""
    scale, count = control.scale, spec.results
    if isinstance(scale, tuple) and len(scale) != count:
        raise RequestError(
            f"Control.scale needs a weight for each result of {name}",
            found=f"{len(scale)} weights",
            remedy=f"{count} are needed: {count - 1} on the way down, then the middle's"
            if isinstance(spec, ControlNetSpec)
            else f"{count} are needed, one for each feature",
        )
    weights = np.broadcast_to(np.asarray(scale, np.float64), (count,))
    return weights * np.logspace(-1, 0, count) if control.guess_mode and graded else weights


def control_name(name: str | None, controlnets: Mapping[str, AttachedControl]) -> str:
    """The name of a loaded control; None is the only one. Raises RequestError if none fits."""
    if name is None and len(controlnets) == 1:
        return next(iter(controlnets))
    if name in controlnets:
        return str(name)
    raise RequestError(
        "a control must name a loaded ControlNet or T2I-Adapter",
        found=f"{name!r}; loaded: {', '.join(controlnets) or 'none'}",
        remedy="load one with load_controlnet or load_t2i_adapter, and pass Control(…, name=name)",
    )
