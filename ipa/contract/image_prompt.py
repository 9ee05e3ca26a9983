"""A picture as a prompt: what a user says of it, checked once and then trusted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from .combining import CONCAT, check_combine
from .embeds import ImageEmbeds
from .errors import RequestError
from .fit import Fit, check_fit, check_sharpen
from .masks import FITS, Mask, mask_values
from .weights import Curve, Layers, Scale, is_finite, plain_curve, plain_layers, plain_scale

Picture: TypeAlias = "Image.Image | npt.NDArray[Any]"
"""A PIL image, or an array (H, W, 3) or (H, W): uint8, or float in [0, 1]."""

Negative: TypeAlias = "Picture | Sequence[Picture] | ImageEmbeds | str"
"""Pictures or embeds to steer away from, or NOISE."""

NOISE = "noise"


@dataclass(frozen=True, slots=True)
class ImagePrompt:
    """A picture, or several, as a prompt.

    Attributes:
        image: The picture, or a sequence of pictures whose tokens are attended to jointly, in one
            softmax, as in diffusers. Where `scale` or `mask` is a list, with one entry per picture,
            each picture is attended to in a softmax of its own, as diffusers does with masks. Or
            embeds: what `encode_image_prompt` made of them.
        adapter: Name of a loaded adapter; None takes the only one.
        scale: λ, the weight of the image branch: a number (0 is the base model, 1 is usual, below 0
            steers away), diffusers' nested dict of blocks, a table of sites (see
            `ipa.contract.weights.Scale`), or a list of them. None takes the adapter's own scale.
        layers: Which layers it enters: a preset such as "style", "layout" or "ease in", several
            added, or ComfyUI's layer weights (`ipa.prepare.layers`). λ is multiplied by it.
        curve: Its weight over the steps: a name such as "fade_out", or points (fraction, factor)
            with straight lines between them (`ipa.prepare.curves`). λ is multiplied by it.
        mask: Where in the picture the prompt acts, or a list: a PIL picture or array (H, W), bool,
            uint8, or float in [0, 1]; white is on, soft edges are kept. It multiplies what the
            picture adds in every cross-attention; where masks overlap, their pictures add up. None
            is everywhere. Any size of the picture's own aspect, but for a pixel of rounding.
        mask_fit: What to do with a mask of another aspect: "stretch" it, or "crop" it about its
            middle. None refuses it.
        start: The fraction of the steps before which the prompt is off, in [0, 1].
        end: The fraction after which it is off. Step i of n is on if start ≤ i/n and
            (i+1)/n ≤ end (IP-Adapter's own rule, ip_adapter/custom_pipelines.py).
        combine: How several pictures become one before the projector; see `ImageEmbeds.combine`.
        negative: Pictures, or embeds, to steer away from: they replace what the unconditional half
            sees. "noise" is a picture of uniform noise (`ipa.prepare.noise_picture`).
        fit: How a picture becomes square: "center-crop", "squash", "pad" (on black), the edge that
            a crop keeps ("top", "bottom", "left", "right"), or a box (left, top, right, bottom) in
            fractions. None is "center-crop", with a warning where it loses part of a picture.
        sharpen: Contrast-adaptive sharpening of what the encoder sees, from 0 to 1.
        batched: Where a call has several prompts, each gets one of the pictures (or rows of
            embeds), in order, as in IP-Adapter's own pipelines; a list of scales, masks or negative
            pictures goes with them. False gives every prompt all pictures, as diffusers does.
    """

    image: Picture | Sequence[Picture] | ImageEmbeds = field(repr=False)
    adapter: str | None = field(default=None, kw_only=True)
    scale: Scale | Sequence[Scale] | None = field(default=None, kw_only=True)
    layers: Layers | None = field(default=None, kw_only=True)
    curve: Curve | None = field(default=None, kw_only=True)
    mask: Mask | Sequence[Mask | None] | None = field(default=None, kw_only=True, repr=False)
    mask_fit: str | None = field(default=None, kw_only=True)
    start: float = field(default=0.0, kw_only=True)
    end: float = field(default=1.0, kw_only=True)
    combine: str = field(default=CONCAT, kw_only=True)
    negative: Negative | None = field(default=None, kw_only=True, repr=False)
    fit: Fit | None = field(default=None, kw_only=True)
    sharpen: float = field(default=0.0, kw_only=True)
    batched: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.image, (Image.Image, np.ndarray, list, tuple, ImageEmbeds)):
            raise RequestError(
                "an image prompt needs a picture, or a list of pictures",
                found=type(self.image).__name__,
                remedy="open files with ipa.prepare.images.open_image",
            )
        if not isinstance(self.image, ImageEmbeds) and not self.images:
            raise RequestError("an image prompt needs a picture", found="an empty list")
        self._check_encoding()
        if self.adapter is not None and not isinstance(self.adapter, str):
            raise RequestError("ImagePrompt.adapter must be a name", found=repr(self.adapter))
        object.__setattr__(self, "scale", self._each("scale", self.scale, plain_scale))
        object.__setattr__(self, "mask", self._each("mask", self.mask, mask_values))
        if self.mask_fit is not None and self.mask_fit not in FITS:
            raise RequestError(
                "ImagePrompt.mask_fit is unknown",
                found=repr(self.mask_fit),
                remedy=f"one of {FITS}, or None",
            )
        if self.combine != CONCAT and (
            isinstance(self.scale, tuple) or isinstance(self.mask, tuple)
        ):
            raise RequestError(
                "pictures that become one have one scale and one mask",
                found=f"combine={self.combine!r} with a list of them",
                remedy="leave combine out, or pass one for all pictures",
            )
        if self.layers is not None:
            object.__setattr__(self, "layers", plain_layers(self.layers, "ImagePrompt.layers"))
        if self.curve is not None:
            object.__setattr__(self, "curve", plain_curve(self.curve, "ImagePrompt.curve"))
        numbers = is_finite(self.start) and is_finite(self.end)
        if not numbers or not 0.0 <= self.start <= self.end <= 1.0:
            raise RequestError(
                "an image prompt's window must satisfy 0 ≤ start ≤ end ≤ 1",
                found=f"start={self.start!r}, end={self.end!r}",
            )
        for name in ("start", "end"):
            object.__setattr__(self, name, float(getattr(self, name)))

    def _check_encoding(self) -> None:
        check_combine(self.combine)
        if not isinstance(self.batched, bool):
            raise RequestError(
                "ImagePrompt.batched must be True or False", found=repr(self.batched)[:80]
            )
        if self.batched and self.combine != CONCAT:
            raise RequestError(
                "batched gives each prompt one picture: there is nothing to combine",
                found=f"combine={self.combine!r}",
                remedy="leave one of the two out",
            )
        known = (Image.Image, np.ndarray, list, tuple, ImageEmbeds)
        empty = isinstance(self.negative, (list, tuple)) and not self.negative
        noise = isinstance(self.negative, str) and self.negative == NOISE
        if empty or not (self.negative is None or noise or isinstance(self.negative, known)):
            raise RequestError(
                f'ImagePrompt.negative must be a picture, pictures, embeds or "{NOISE}"',
                found=repr(self.negative)[:80],
                remedy="open files with ipa.prepare.images.open_image",
            )
        if self.fit is not None:
            object.__setattr__(self, "fit", check_fit(self.fit))
        object.__setattr__(self, "sharpen", check_sharpen(self.sharpen))
        if isinstance(self.image, ImageEmbeds) and (self.fit is not None or self.sharpen):
            raise RequestError(
                "fit and sharpen are for pictures; embeds are encoded already",
                found=f"fit={self.fit!r}, sharpen={self.sharpen:g}",
                remedy="pass them to encode_image_prompt",
            )

    @property
    def images(self) -> tuple[Picture, ...]:
        """The pictures, one or more; none if embeds were given."""
        return pictures_of(self.image)

    @property
    def count(self) -> int:
        """How many pictures there are, or rows of embeds."""
        return len(self.image) if isinstance(self.image, ImageEmbeds) else len(self.images)

    @property
    def parts(self) -> tuple[ImagePrompt, ...]:
        """Itself; or a prompt per picture where each has its own scale or mask."""
        if not isinstance(self.scale, tuple) and not isinstance(self.mask, tuple):
            return (self,)
        count = len(self.images)
        scales = self.scale if isinstance(self.scale, tuple) else (self.scale,) * count
        masks = self.mask if isinstance(self.mask, tuple) else (self.mask,) * count
        return tuple(
            replace(self, image=image, scale=scale, mask=mask)
            for image, scale, mask in zip(self.images, scales, masks, strict=True)
        )

    def _each(self, field_name: str, value: Any, read: Callable[[Any, str], Any]) -> Any:
        """A value, or a tuple of one per picture, read; None stays."""
        adapter = "" if self.adapter is None else f"(adapter={self.adapter!r})"
        name = f"ImagePrompt{adapter}.{field_name}"
        if not isinstance(value, (list, tuple)):
            return None if value is None else read(value, name)
        count = self.count if self.batched else len(self.images)
        if len(value) != count:
            raise RequestError(
                f"{name} has one entry per picture, if it is a list",
                found=f"{len(value)} entries, {count} needed",
                remedy=f"pass one {field_name} for all of them, or as many as pictures",
            )
        return tuple(
            None if entry is None else read(entry, f"{name}[{number}]")
            for number, entry in enumerate(value)
        )


def pictures_of(given: Picture | Sequence[Picture] | ImageEmbeds) -> tuple[Picture, ...]:
    """One picture or several as a tuple; embeds have none."""
    if isinstance(given, ImageEmbeds):
        return ()
    return (given,) if isinstance(given, (Image.Image, np.ndarray)) else tuple(given)
