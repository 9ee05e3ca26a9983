"""A control picture for a ControlNet or T2I-Adapter: checked, then trusted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from ipa.checks import is_finite, plain_number
from ipa.errors import RequestError, shown

from .masks import Mask, mask_values
from .pictures import Picture, pictures_of
from .reads import Read, Reads
from .scales import is_list, window_fault

Preprocessor: TypeAlias = Callable[[Image.Image], Picture]
"""A function from an RGB picture to a control picture: edges, depth, a pose."""


@dataclass(frozen=True, slots=True)
class Control:
    """A control picture for one of the loaded ControlNets or T2I-Adapters.

    Attributes:
        image: Edges, depth, a pose, …: a PIL picture or array. It is resized to the picture's
            width × height as diffusers does (Lanczos, whatever its aspect); with padding_mask_crop
            it lies over all of the picture, and is cropped by the same box. For a ControlNet for
            inpainting an array of floats may hold -1, in all channels of a pixel, where there is
            to be painted (`ipa.prepare.controls.pixels`). If batched, a list.
        name: Of a loaded ControlNet or T2I-Adapter; None takes the only one of both.
        scale: What the ControlNet's results are multiplied with before they are added to the
            UNet's: a number (0 is the base model, 1 is usual), or a list with one for each of its
            results on the way down, in order, and one for the middle's (13 for Stable Diffusion
            1.5, 10 for SDXL). Of a T2I-Adapter the same with its features (4), diffusers'
            adapter_conditioning_scale.
        start: The fraction of the steps before which it is off, in [0, 1].
        end: The fraction after which it is off. Step i of n is on if start ≤ i/n and (i+1)/n ≤ end
            (diffusers' control_guidance_start and control_guidance_end; for a T2I-Adapter `end` is
            its adapter_conditioning_factor).
        guess_mode: diffusers' guess_mode, of this control alone: the unconditional half of guidance
            is left as it is, and the results are weighted from 0.1 (the finest) to 1 (the middle).
            ControlNets that average over the picture (shuffle) always do the first. T2I-Adapters
            have no such mode.
        preprocessor: Makes the control picture of `image`, such as `ipa.controls.canny`.
        mask: For ControlNets for inpainting, such as control_v11p_sd15_inpaint: where there is to
            be painted, usually the call's own mask_image. The ControlNet sees -1 where it is
            white, as it was trained; cut at a half. Resized as the picture is.
        batched: Where a call has several prompts, each gets one of the pictures, in order, and one
            of the masks, if those are a list.
    """

    image: Picture | Sequence[Picture] = field(repr=False)
    name: str | None = field(default=None, kw_only=True)
    scale: float | Sequence[float] = field(default=1.0, kw_only=True)
    start: float = field(default=0.0, kw_only=True)
    end: float = field(default=1.0, kw_only=True)
    guess_mode: bool = field(default=False, kw_only=True)
    preprocessor: Preprocessor | None = field(default=None, kw_only=True)
    mask: Mask | Sequence[Mask | None] | None = field(default=None, kw_only=True, repr=False)
    batched: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        self._check_image()
        if self.name is not None and not isinstance(self.name, str):
            raise RequestError("Control.name must be a name", found=shown(self.name))
        object.__setattr__(self, "scale", _plain(self.scale))
        _check_window(self.start, self.end)
        for name in ("start", "end"):
            object.__setattr__(self, name, float(getattr(self, name)))
        if not isinstance(self.guess_mode, bool):
            raise RequestError(
                "Control.guess_mode must be True or False", found=shown(self.guess_mode)
            )
        if self.preprocessor is not None and not callable(self.preprocessor):
            raise RequestError(
                "Control.preprocessor must be a function of a picture",
                found=shown(self.preprocessor),
            )
        object.__setattr__(self, "mask", self._masks())

    def _masks(self) -> Any:
        """The control's mask as values, or those of all prompts."""
        if not isinstance(self.mask, (list, tuple)):
            return None if self.mask is None else mask_values(self.mask, "Control.mask")
        if not self.batched or len(self.mask) != len(self.pictures):
            raise RequestError(
                "Control.mask is a list with one entry for each picture of a batched control",
                found=f"{len(self.mask)} masks, batched={self.batched}",
                remedy="pass one mask, or batched=True with as many as pictures",
            )
        names = [f"Control.mask[{number}]" for number in range(len(self.mask))]
        return tuple(
            None if mask is None else mask_values(mask, name)
            for mask, name in zip(self.mask, names, strict=True)
        )

    def _check_image(self) -> None:
        if not isinstance(self.batched, bool):
            raise RequestError("Control.batched must be True or False", found=shown(self.batched))
        several = self.batched and isinstance(self.image, (list, tuple)) and len(self.image) > 0
        for entry in self.pictures if several else (self.image,):
            if not isinstance(entry, (Image.Image, np.ndarray)):
                raise RequestError(
                    "a control needs its picture",
                    argument="image",
                    found="none" if entry is None else type(entry).__name__,
                    remedy="open files with ipa.open_image; a list, one for each "
                    "prompt, needs batched=True",
                )

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The one picture, or those of all prompts."""
        return pictures_of(self.image)

    def share(self, number: int) -> Control:
        """The control of one prompt."""
        if not self.batched:
            return self
        mask = self.mask[number] if isinstance(self.mask, tuple) else self.mask
        return replace(self, image=self.pictures[number], mask=mask, batched=False)


READS: Reads = {
    "image": Read.PICTURES,
    "mask": Read.PICTURES,
    "preprocessor": Read.NEVER,
}


def check_controls(controls: object) -> tuple[Control, ...]:
    """Check one control or several, as a tuple. Raises RequestError for anything else."""
    entries = (controls,) if isinstance(controls, Control) else controls
    if not isinstance(entries, (list, tuple)):
        entries = (entries,)
    for entry in entries:
        if not isinstance(entry, Control):
            raise RequestError(
                "controls must be a list of Control",
                found=type(entry).__name__,
                remedy='write controls=[ipa.Control(edges, name="canny")]',
            )
    return tuple(entries)


def _plain(scale: object) -> float | tuple[float, ...]:
    if is_list(scale):
        entries = enumerate(scale)
        return tuple(plain_number(value, f"Control.scale[{number}]") for number, value in entries)
    return plain_number(scale, "Control.scale")


def _check_window(start: object, end: object) -> None:
    if not (is_finite(start) and is_finite(end)) or not 0.0 <= start <= end <= 1.0:
        raise RequestError(
            "a control's window must satisfy 0 ≤ start ≤ end ≤ 1",
            found=f"start={shown(start)}, end={shown(end)}",
            argument=window_fault(start),
        )
