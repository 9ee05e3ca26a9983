"""Start pictures of a run, prepared: in its size, with masks and overlays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ipa.arrays import Floats
from ipa.errors import RequestError
from ipa.model.folder import ModelFolder
from ipa.prepare.images.pictures import check_pixels, to_rgb, vae_pixels
from ipa.request.editing import Box, Crop, is_latents, sources
from ipa.request.picture_options import TILE
from ipa.request.request import MAX_SIDE, Request

from .inpainting import Overlay, binary_mask, crop_box, mask_picture, sized

_NEEDS_MASK = {"padding_mask_crop": None, "mask_blur": 0.0, "overlay": False}  # and their defaults


@dataclass(frozen=True, slots=True)
class Source:
    """A start picture, RGB in the run's size, and its mask (H, W), 1 where it is made anew."""

    picture: Image.Image
    mask: Floats | None = None
    overlay: Overlay | None = None

    @property
    def crop(self) -> Crop | None:
        """The crop of the picture that this is; None for a whole one."""
        if self.overlay is None or self.overlay.box is None:
            return None
        return Crop(self.overlay.original.size, self.overlay.box)

    def pixels(self) -> Floats:
        """The picture as the VAE's encoder takes it: (1, 3, H, W) in [-1, 1]."""
        return vae_pixels(self.picture, *self.picture.size)

    def masked_pixels(self) -> Floats:
        """The picture's pixels with grey (0) where it is made anew."""
        assert self.mask is not None
        return self.pixels() * (self.mask < 0.5)

    def latent_mask(self, factor: int) -> Floats:
        """The mask at the latents' nearest pixels, (1, 1, H/f, W/f)."""
        assert self.mask is not None
        return np.ascontiguousarray(self.mask[None, None, ::factor, ::factor])


@dataclass(frozen=True, kw_only=True, slots=True)
class Edits:
    """The start of a run, prepared: start pictures or latents, strength, masks.

    Attributes:
        sources: One for all pictures that are made, or one for each; none where latents are given.
        latents: (1 or N, C, h, w), instead of sources.
        strength: The share of the steps that is run.
        has_masks: Whether a part is kept.
        is_channels: Whether the network is told of mask and masked picture in channels of its own.
    """

    sources: tuple[Source, ...] = ()
    latents: Floats | None = None
    strength: float
    has_masks: bool = False
    is_channels: bool = False

    @property
    def from_noise(self) -> bool:
        """Whether the run starts from noise alone: diffusers' is_strength_max."""
        return self.has_masks and self.strength == 1.0

    @property
    def crops(self) -> tuple[Crop, ...]:
        """The crop of each source; none where they are whole."""
        return tuple(source.crop for source in self.sources if source.crop is not None)

    def overlaid(self, images: Sequence[Image.Image]) -> list[Image.Image]:
        """Results with the old pixels where masks are black, if that was asked for."""
        done = []
        for number, image in enumerate(images):
            source = self.sources[number % len(self.sources)] if self.sources else None
            has_overlay = source is not None and source.overlay is not None
            done.append(source.overlay.over(image) if has_overlay else image)  # type: ignore[union-attr]
        return done


def takes_mask(model: ModelFolder) -> bool:
    """Whether a model is for inpainting: its UNet takes nine channels instead of four."""
    return model.unet.in_channels != model.vae.latent_channels


def start_size(request: Request, factor: int) -> tuple[int, int] | None:
    """The width and height of the start, rounded down to the VAE's factor; None without one.

    Raises:
        RequestError: It is too small or large, or pictures differ and no size was given.
    """
    if request.image is None or request.padding_mask_crop is not None:
        return None
    if is_latents(request.image):
        height, width = np.asarray(request.image).shape[2:]
        return int(width) * factor, int(height) * factor
    sizes = {to_rgb(picture).size for picture in sources(request.image)}
    if len(sizes) > 1 and None in (request.width, request.height):
        raise RequestError(
            "the pictures of image have several sizes",
            found=", ".join(f"{w} × {h}" for w, h in sorted(sizes)),
            remedy="say which is wanted: width=, height=",
        )
    width, height = next(iter(sizes))
    width, height = width - width % factor, height - height % factor
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise RequestError(
            "image has a size that no picture can be made in",
            found=" × ".join(map(str, next(iter(sizes)))),
            remedy=f"pass width= and height=, from {factor} to {MAX_SIDE}",
        )
    return width, height


def plan_edits(request: Request, model: ModelFolder, width: int, height: int) -> Edits | None:
    """Plan the start of a request; None without `image`.

    Raises:
        RequestError: Something of it cannot be used, does not fit, or needs a mask.
    """
    wide = takes_mask(model)
    _check_given(request, model.name, wide=wide)
    if request.image is None:
        return None
    settings: Mapping[str, Any] = {
        "strength": float(request.strength),
        "has_masks": request.mask_image is not None,
        "is_channels": wide,
    }
    if is_latents(request.image):
        factor = model.vae.scale_factor
        shape = (model.vae.latent_channels, height // factor, width // factor)
        return Edits(latents=_checked_latents(request, shape), **settings)
    pictures = sources(request.image)
    masks = [None] if request.mask_image is None else sources(request.mask_image)
    _check_counts(request, len(pictures), len(masks))
    count = max(len(pictures), len(masks))
    made = []
    for number in range(count):
        picture = to_rgb(pictures[number % len(pictures)])
        mask = masks[number % len(masks)]
        made.append(_source(picture, mask, request, (width, height), f"mask_image {number + 1}"))
    return Edits(sources=tuple(made), **settings)


def shared_crop(request: Request, edits: Edits | None) -> Crop | None:
    """The crop that all pictures of a run work on, by which all over them is cut.

    Raises:
        RequestError: They work on several, and something lies over them.
    """
    crops = dict.fromkeys(() if edits is None else edits.crops)
    if len(crops) < 2:
        return next(iter(crops), None)
    prompts = request.image_prompts
    over = {
        "controls": bool(request.controls),
        "masks of image prompts": any(prompt.mask is not None for prompt in prompts),
        f"fit={TILE!r}": any(prompt.fit == TILE for prompt in prompts),
    }
    found = [name for name, given in over.items() if given]
    if found:
        raise RequestError(
            f"{found[0]} are cropped as the picture is, and these pictures are cropped differently",
            found=f"{len(crops)} crops by padding_mask_crop",
            remedy='pass a list of prompts, one for each picture: ["a star"] * 2',
        )
    return None


def _source(
    picture: Image.Image, mask: Any, request: Request, size: tuple[int, int], where: str
) -> Source:
    if mask is None:
        return Source(sized(picture, *size, None))
    grey = mask_picture(mask, float(request.mask_blur), where)
    if grey.size != picture.size:
        raise RequestError(
            f"{where} has another size than its picture",
            found=f"{grey.width} × {grey.height}, needed {picture.width} × {picture.height}",
            remedy="resize the mask to the picture",
        )
    box: Box | None = None
    if request.padding_mask_crop is not None:
        box = crop_box(grey, *size, int(request.padding_mask_crop), where)
        check_pixels(*size, "the part that a mask is cropped to")
    inside = sized(picture, *size, box)
    overlay = None
    if box is not None:
        overlay = Overlay(picture, grey, box)
    elif request.overlay:
        overlay = Overlay(inside, sized(grey, *size, None))
    return Source(inside, binary_mask(grey, *size, box), overlay)


def _check_given(request: Request, name: str, *, wide: bool) -> None:
    """Check which arguments go together."""
    if wide and request.mask_image is None:
        raise RequestError(
            f"{name} makes a part of a picture anew: it needs image and mask_image",
            found="no mask_image",
            remedy="pass both; a white mask makes all of the picture anew",
        )
    if request.mask_image is not None and request.image is None:
        raise RequestError("mask_image needs image, the picture that it is a mask of")
    given = [n for n, default in _NEEDS_MASK.items() if getattr(request, n) != default]
    if given and request.mask_image is None:
        raise RequestError(f"{given[0]} needs mask_image", found="no mask_image")
    lays_over = request.padding_mask_crop is not None or request.overlay
    if lays_over and request.output_type == "np":
        raise RequestError(
            'padding_mask_crop and overlay put pictures together: they need output_type "pil"',
            found="output_type 'np'",
        )
    if request.mask_image is not None and is_latents(request.image):
        raise RequestError("a mask goes with pictures, not with latents", remedy="decode them")


def _check_counts(request: Request, *counts: int) -> None:
    for name, count in zip(("image", "mask_image"), counts, strict=True):
        if count not in {1, request.num_images}:
            raise RequestError(
                f"{name} needs one entry, or one for every picture that is made",
                found=f"{count} for num_images={request.num_images}",
            )


def _checked_latents(request: Request, shape: tuple[int, int, int]) -> Floats:
    given = np.asarray(request.image)
    if given.shape not in {(rows, *shape) for rows in (1, request.num_images)}:
        raise RequestError(
            "image holds latents of the wrong shape",
            found=str(given.shape),
            remedy=f"{(request.num_images, *shape)} is needed, or one row for all",
        )
    is_float = np.issubdtype(given.dtype, np.floating)
    if not is_float or not (np.abs(given) <= np.finfo(np.float32).max).all():
        raise RequestError(
            "image holds latents that are no finite float32", found=f"dtype {given.dtype}"
        )
    return np.ascontiguousarray(given, dtype=np.float32)
