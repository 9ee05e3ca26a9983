"""What a user asks for, checked once and then trusted."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from .errors import RequestError
from .masks import FITS, Mask, mask_values

Picture: TypeAlias = "Image.Image | npt.NDArray[Any]"
"""A PIL image, or an array (H, W, 3) or (H, W): uint8, or float in [0, 1]."""

Scale: TypeAlias = "float | Mapping[str, Any]"
"""A number, or diffusers' nested dict of blocks: {"down": {"block_2": [0.0, 1.0]}, "up": …}."""

MAX_SIDE = 8192
MAX_STEPS = 1000


@dataclass(frozen=True, slots=True)
class ImagePrompt:
    """A picture, or several, as a prompt.

    Attributes:
        image: The picture, or a sequence of pictures whose tokens are attended to jointly, in one
            softmax, as in diffusers. Where `scale` or `mask` is a list, with one entry per picture,
            each picture is attended to in a softmax of its own, as diffusers does with masks.
        adapter: Name of a loaded adapter; None takes the only one.
        scale: λ, the weight of the image branch: a number (0 is the base model, 1 is usual), or
            diffusers' nested dict of blocks, or a list of them. None takes the adapter's own scale.
        mask: Where in the picture the prompt acts, or a list: a PIL picture or array (H, W), bool,
            uint8, or float in [0, 1]; white is on, soft edges are kept. It multiplies what the
            picture adds in every cross-attention; where masks overlap, their pictures add up. None
            is everywhere. Any size of the picture's own aspect, but for a pixel of rounding.
        fit: What to do with a mask of another aspect: "stretch" it, or "crop" it about its middle.
            None refuses it.
        start: The fraction of the steps before which the prompt is off, in [0, 1].
        end: The fraction after which it is off. Step i of n is on if start ≤ i/n and
            (i+1)/n ≤ end (IP-Adapter's own rule, ip_adapter/custom_pipelines.py).
    """

    image: Picture | Sequence[Picture] = field(repr=False)
    adapter: str | None = field(default=None, kw_only=True)
    scale: Scale | Sequence[Scale] | None = field(default=None, kw_only=True)
    mask: Mask | Sequence[Mask | None] | None = field(default=None, kw_only=True, repr=False)
    fit: str | None = field(default=None, kw_only=True)
    start: float = field(default=0.0, kw_only=True)
    end: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.image, (Image.Image, np.ndarray, list, tuple)):
            raise RequestError(
                "an image prompt needs a picture, or a list of pictures",
                found=type(self.image).__name__,
                remedy="open files with ipa.prepare.images.open_image",
            )
        if not self.images:
            raise RequestError("an image prompt needs a picture", found="an empty list")
        if self.adapter is not None and not isinstance(self.adapter, str):
            raise RequestError("ImagePrompt.adapter must be a name", found=repr(self.adapter))
        object.__setattr__(self, "scale", self._each("scale", self.scale, plain_scale))
        object.__setattr__(self, "mask", self._each("mask", self.mask, mask_values))
        if self.fit is not None and self.fit not in FITS:
            raise RequestError(
                "ImagePrompt.fit is unknown", found=repr(self.fit), remedy=f"one of {FITS}, or None"
            )
        numbers = _is_finite(self.start) and _is_finite(self.end)
        if not numbers or not 0.0 <= self.start <= self.end <= 1.0:
            raise RequestError(
                "an image prompt's window must satisfy 0 ≤ start ≤ end ≤ 1",
                found=f"start={self.start!r}, end={self.end!r}",
            )
        for name in ("start", "end"):
            object.__setattr__(self, name, float(getattr(self, name)))

    @property
    def images(self) -> tuple[Picture, ...]:
        """The pictures, one or more."""
        if isinstance(self.image, (Image.Image, np.ndarray)):
            return (self.image,)
        return tuple(self.image)

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
        if len(value) != len(self.images):
            raise RequestError(
                f"{name} has one entry per picture, if it is a list",
                found=f"{len(value)} entries, {len(self.images)} needed",
                remedy=f"pass one {field_name} for all of them, or as many as pictures",
            )
        return tuple(
            None if entry is None else read(entry, f"{name}[{number}]")
            for number, entry in enumerate(value)
        )


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
