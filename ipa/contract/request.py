"""What a user asks for, checked once and then trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from .combining import CONCAT, check_combine
from .embeds import ImageEmbeds
from .errors import RequestError
from .fit import Fit, check_fit, check_sharpen

Picture: TypeAlias = "Image.Image | npt.NDArray[Any]"
"""A PIL image, or an array (H, W, 3) or (H, W): uint8, or float in [0, 1]."""

Scale: TypeAlias = "float | Mapping[str, Any]"
"""A number, or diffusers' nested dict of blocks: {"down": {"block_2": [0.0, 1.0]}, "up": …}."""

Negative: TypeAlias = "Picture | Sequence[Picture] | ImageEmbeds | str"
"""Pictures or embeds to steer away from, or NOISE."""

NOISE = "noise"
MAX_SIDE = 8192
MAX_STEPS = 1000


@dataclass(frozen=True, slots=True)
class ImagePrompt:
    """A picture, or several, as a prompt.

    Attributes:
        image: The picture, or a sequence of pictures whose tokens are attended to jointly, in one
            softmax, as in diffusers. Or embeds: what `encode_image_prompt` made of them.
        adapter: Name of a loaded adapter; None takes the only one.
        scale: λ, the weight of the image branch: a number (0 is the base model, 1 is usual), or
            diffusers' nested dict of blocks. None takes the adapter's own scale.
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
    """

    image: Picture | Sequence[Picture] | ImageEmbeds = field(repr=False)
    adapter: str | None = field(default=None, kw_only=True)
    scale: Scale | None = field(default=None, kw_only=True)
    start: float = field(default=0.0, kw_only=True)
    end: float = field(default=1.0, kw_only=True)
    combine: str = field(default=CONCAT, kw_only=True)
    negative: Negative | None = field(default=None, kw_only=True, repr=False)
    fit: Fit | None = field(default=None, kw_only=True)
    sharpen: float = field(default=0.0, kw_only=True)

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
        if self.scale is not None:
            object.__setattr__(self, "scale", plain_scale(self.scale, "ImagePrompt.scale"))
        numbers = _is_finite(self.start) and _is_finite(self.end)
        if not numbers or not 0.0 <= self.start <= self.end <= 1.0:
            raise RequestError(
                "an image prompt's window must satisfy 0 ≤ start ≤ end ≤ 1",
                found=f"start={self.start!r}, end={self.end!r}",
            )
        for name in ("start", "end"):
            object.__setattr__(self, name, float(getattr(self, name)))

    def _check_encoding(self) -> None:
        check_combine(self.combine)
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One call of a pipeline; argument names are diffusers'.

    Attributes:
        prompt: Text; "" conditions on pictures alone.
        negative_prompt: What to steer away from; None is "".
        image_prompts: Pictures as prompts.
        width: Pixels; None takes the model's own size. A multiple of the VAE's factor.
        height: As width.
        num_inference_steps: Evaluations of the network.
        guidance_scale: Classifier-free guidance; at 1 or below the unconditional half is not run.
        scheduler: A name of `ipa.prepare.schedules.NAMES`; None takes the checkpoint's own.
        seed: Starting noise, the same as torch's CPU generator would draw. 0 is a seed.
        num_images: Pictures, made with the seeds seed, seed + 1, …
        latents: Starting noise instead of the seed's: (num_images, C, H/f, W/f), standard normal.
        output_type: "pil", "np" or "latent".
    """

    prompt: str = ""
    negative_prompt: str | None = None
    image_prompts: tuple[ImagePrompt, ...] = ()
    width: int | None = None
    height: int | None = None
    num_inference_steps: int = 30
    guidance_scale: float = 7.5
    scheduler: str | None = None
    seed: int = 0
    num_images: int = 1
    latents: npt.NDArray[np.float32] | None = field(default=None, repr=False)
    output_type: str = "pil"

    def __post_init__(self) -> None:
        for name in ("prompt", "negative_prompt"):
            value = getattr(self, name)
            if not isinstance(value, str) and not (name == "negative_prompt" and value is None):
                raise RequestError(f"{name} must be a string", found=type(value).__name__)
        for entry in self.image_prompts:
            if not isinstance(entry, ImagePrompt):
                raise RequestError(
                    "image_prompts must be a list of ImagePrompt",
                    found=type(entry).__name__,
                    remedy="write image_prompts=[ipa.ImagePrompt(picture)]",
                )
        _check_integer("num_inference_steps", self.num_inference_steps, 1, MAX_STEPS)
        _check_integer("num_images", self.num_images, 1, 1024)
        _check_integer("seed", self.seed, 0, 2**64 - 1)
        for name in ("width", "height"):
            if getattr(self, name) is not None:
                _check_integer(name, getattr(self, name), 1, MAX_SIDE)
        if not _is_finite(self.guidance_scale):
            raise RequestError(
                "guidance_scale must be a finite number", found=repr(self.guidance_scale)
            )
        if self.output_type not in {"pil", "np", "latent"}:
            raise RequestError(
                'output_type must be "pil", "np" or "latent"', found=repr(self.output_type)
            )

    @property
    def guided(self) -> bool:
        """Whether the unconditional half is computed."""
        return self.guidance_scale > 1.0


def pictures_of(given: Picture | Sequence[Picture] | ImageEmbeds) -> tuple[Picture, ...]:
    """One picture or several as a tuple; embeds have none."""
    if isinstance(given, ImageEmbeds):
        return ()
    return (given,) if isinstance(given, (Image.Image, np.ndarray)) else tuple(given)


def plain_scale(scale: object, name: str) -> Scale:
    """A scale in Python's own numbers, dicts and lists, which nobody else can change.

    Raises:
        RequestError: A number is not finite, at any depth of diffusers' nested form.
    """
    plain: Any = _plain(scale, name)
    if isinstance(plain, list):
        raise RequestError(
            f"{name} must be a number or a dict of blocks",
            found=repr(scale)[:80],
            remedy='write {"up": {"block_0": [0.0, 1.0, 0.0]}}',
        )
    return cast("Scale", plain)


def _plain(scale: object, name: str) -> object:
    if isinstance(scale, Mapping):
        return {str(key): _plain(value, f"{name}[{key!r}]") for key, value in scale.items()}
    if isinstance(scale, (list, tuple)):
        return [_plain(value, f"{name}[{index}]") for index, value in enumerate(scale)]
    if not _is_finite(scale):
        raise RequestError(
            f"{name} must be a finite number", found=repr(scale), remedy="0 to 1 is usual"
        )
    return float(cast("float", scale))


def _is_finite(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond float64
        return False


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    good = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not good or not low <= value <= high:  # type: ignore[operator]
        raise RequestError(f"{name} must be an integer from {low} to {high}", found=repr(value))
