"""An image prompt: pictures and what a user says of them, checked once and then trusted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, cast

import numpy as np
from PIL import Image

from ipa.checks import plain_number
from ipa.errors import RequestError, shown

from .combining import CONCAT, check_combine
from .embeds import ImageEmbeds
from .faces import FaceEntry, GivenFace, faces_of
from .masks import FITS, Mask, mask_values
from .picture_options import (
    TILE,
    Fit,
    check_content,
    check_enhancement,
    check_fit,
    check_negative,
    check_sharpen,
)
from .pictures import Picture, pictures_of
from .reads import Read, Reads
from .scales import (
    V_ONLY,
    Curve,
    Layers,
    Scale,
    check_embeds_scaling,
    check_window,
    is_one_of,
    plain_curve,
    plain_layers,
    plain_scale,
)

Negative: TypeAlias = "Picture | Sequence[Picture] | ImageEmbeds | str"
"""Pictures or embeds to steer away from, or NOISE, or noise:KIND:STRENGTH:BLUR."""


@dataclass(frozen=True, slots=True)
class ImagePrompt:
    """An image prompt: a picture, or several, as a prompt.

    Attributes:
        image: The picture, or a sequence of pictures whose tokens are attended to jointly, in one
            softmax, as in diffusers. Where `scale` or `mask` is a list, with one entry per picture,
            each picture is attended to in a softmax of its own, as diffusers does with masks. Or
            embeds: what `encode_image_prompt` made of them.
        adapter: Name of a loaded adapter; None takes the only one.
        scale: λ, the weight of the image branch: a number (0 is the base model, 1 is usual, below 0
            steers away), diffusers' nested dict of blocks, a table of sites (see
            `ipa.request.scales.Scale`), or a list of them. None takes the adapter's own scale.
        layers: Which layers it enters: a preset such as "style", "layout" or "ease in", several
            added, or ComfyUI's layer weights (`ipa.prepare.scaling.layers`). λ is multiplied by it.
        curve: Its weight over the steps: a name such as "fade_out", or points (fraction, factor)
            with straight lines between them (`ipa.prepare.scaling.curves`). λ is multiplied by it.
        mask: Where in the picture the prompt acts, or a list: a PIL picture or array (H, W), bool,
            uint8, or float in [0, 1]; white is on, soft edges are kept. It multiplies what the
            picture adds in every cross-attention; where masks overlap, their pictures add up. None
            is everywhere. Any size of the picture's own aspect, but for a pixel of rounding; with
            padding_mask_crop of the whole picture, of which it is cropped.
        mask_fit: What to do with a mask of another aspect: "stretch" it, or "crop" it about its
            middle. None refuses it.
        start: The fraction of the steps before which the prompt is off, in [0, 1].
        end: The fraction after which it is off. Step i of n is on if start ≤ i/n and
            (i+1)/n ≤ end (IP-Adapter's own rule, ip_adapter/custom_pipelines.py).
        combine: How several pictures become one before the projector; see `ImageEmbeds.combine`.
        negative: Pictures, or embeds, to steer away from: they replace what the unconditional half
            sees. "noise" is a picture of uniform noise; "noise:KIND:STRENGTH:BLUR", its end left
            out at will, is the first picture gone under in it (`image_prompts.noise_picture`).
        fit: How a picture becomes square: "center-crop", "squash", "pad" (on black), the edge that
            a crop keeps ("top", "bottom", "left", "right"), or a box (left, top, right, bottom) in
            fractions. None is "center-crop", with a warning where it loses part of a picture.
            "tile" cuts it into two to four squares, each an image prompt of its own that acts where
            it lies in the picture (`ipa.prepare.image_prompts.tiles`).
        sharpen: Contrast-adaptive sharpening of what the encoder sees, from 0 to 1.
        face: For FaceID adapters: whose face, one or several (`ipa.request.faces`). None asks the
            adapter's face embedder to find them in the pictures. Where the adapter sees the
            identity alone, the picture may be left out.
        shortcut_scale: For FaceID-Plus v2: the weight of what is seen of the face beside its
            identity; diffusers' name. None is 1.
        embeds_scaling: Where λ enters the attention: "V only", the published way, or ComfyUI's
            "K+V", "K+V w/ C penalty", "K+mean(V) w/ C penalty" (`ipa.request.scales`).
        encoder_mask: A mask on the picture itself, in its aspect, or a list with one per picture:
            where it is black, the encoder sees its mean colour, which says nothing. It goes through
            the same fit. None shows all; negative pictures have none.
        enhance_tiles: For adapters that take states. n ≥ 2 looks at the n × n parts of the picture
            too, each as large as the encoder can see, and pools what it says about them onto the
            grid of one picture (`ipa.prepare.image_prompts.enhancement`).
        enhance_ratio: What the whole picture's states are multiplied with before they stand beside
            the pooled ones; for several pictures, the share of the whole in a sum of both.
        neg_content_prompt: A text whose direction is taken away from the embedding of every picture
            (InstantStyle): what is shown, so that how it is shown remains. For SDXL with an adapter
            whose encoder shares the space of the second text encoder.
        neg_content_scale: How much of it; 0 is nothing.
        batched: Where a call has several prompts, each gets one of the pictures (or rows of
            embeds, or faces), in order, as in IP-Adapter's own pipelines; a list of scales, masks
            or negative pictures goes with them. False gives every prompt all pictures, as diffusers
            does.
    """

    image: Picture | Sequence[Picture] | ImageEmbeds | None = field(default=None, repr=False)
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
    face: GivenFace | None = field(default=None, kw_only=True, repr=False)
    shortcut_scale: float | None = field(default=None, kw_only=True)
    embeds_scaling: str = field(default=V_ONLY, kw_only=True)
    encoder_mask: Mask | Sequence[Mask | None] | None = field(
        default=None, kw_only=True, repr=False
    )
    enhance_tiles: int = field(default=1, kw_only=True)
    enhance_ratio: float = field(default=1.0, kw_only=True)
    neg_content_prompt: str | None = field(default=None, kw_only=True)
    neg_content_scale: float = field(default=1.0, kw_only=True)
    batched: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        self._check_image()
        self._check_encoding()
        if self.adapter is not None and not isinstance(self.adapter, str):
            raise RequestError("ImagePrompt.adapter must be a name", found=shown(self.adapter))
        object.__setattr__(self, "scale", self._each("scale", self.scale, plain_scale))
        object.__setattr__(self, "mask", self._each("mask", self.mask, mask_values))
        if self.mask_fit is not None and not is_one_of(self.mask_fit, FITS):
            raise RequestError(
                "ImagePrompt.mask_fit is unknown",
                found=shown(self.mask_fit),
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
        check_window(self.start, self.end)
        for name in ("start", "end"):
            object.__setattr__(self, name, float(getattr(self, name)))
        object.__setattr__(self, "embeds_scaling", check_embeds_scaling(self.embeds_scaling))

    def _check_image(self) -> None:
        if self.face is not None:
            object.__setattr__(self, "face", faces_of(self.face, "ImagePrompt.face"))
        if self.shortcut_scale is not None:
            number = plain_number(self.shortcut_scale, "ImagePrompt.shortcut_scale")
            object.__setattr__(self, "shortcut_scale", number)
        if self.image is None and self.face is not None:
            return
        if not isinstance(self.image, (Image.Image, np.ndarray, list, tuple, ImageEmbeds)):
            raise RequestError(
                "an image prompt needs a picture, or a list of pictures",
                argument="image",
                found=type(self.image).__name__,
                remedy="open files with ipa.open_image",
            )
        if not isinstance(self.image, ImageEmbeds) and not self.images:
            raise RequestError(
                "an image prompt needs a picture", found="an empty list", argument="image"
            )

    def _check_encoding(self) -> None:
        check_combine(self.combine)
        if not isinstance(self.batched, bool):
            raise RequestError(
                "ImagePrompt.batched must be True or False", found=shown(self.batched)
            )
        if self.batched and self.combine != CONCAT:
            raise RequestError(
                "batched gives each prompt one picture: there is nothing to combine",
                found=f"combine={self.combine!r}",
                remedy="leave one of the two out",
            )
        check_negative(self.negative, has_pictures=bool(self.images))
        if self.fit is not None:
            object.__setattr__(self, "fit", check_fit(self.fit))
        object.__setattr__(self, "sharpen", check_sharpen(self.sharpen))
        tiles, ratio = check_enhancement(self.enhance_tiles, self.enhance_ratio)
        object.__setattr__(self, "enhance_tiles", tiles)
        object.__setattr__(self, "enhance_ratio", ratio)
        content = check_content(self.neg_content_prompt, self.neg_content_scale)
        object.__setattr__(self, "neg_content_scale", content)
        if isinstance(self.image, ImageEmbeds):
            self._check_no_pictures()
        masks = self._each("encoder_mask", self.encoder_mask, mask_values)
        object.__setattr__(self, "encoder_mask", masks)
        if self.fit == TILE and self.combine != CONCAT and len(self.images) > 1:
            raise RequestError(
                "pictures that are cut into tiles cannot become one",
                found=f"combine={self.combine!r} with fit={TILE!r}",
                remedy="leave one of them out",
            )

    def _check_no_pictures(self) -> None:
        """Raise RequestError if embeds come with options about pictures."""
        asked = {
            "fit": self.fit is not None,
            "sharpen": self.sharpen != 0.0,
            "encoder_mask": self.encoder_mask is not None,
            "enhance_tiles": self.enhance_tiles != 1,
        }
        found = [f"{name}={getattr(self, name)!r}" for name, given in asked.items() if given]
        if found:
            raise RequestError(
                f"{', '.join(asked)} are for pictures; embeds are encoded already",
                found=", ".join(found)[:80],
                remedy="pass them to encode_image_prompt",
            )

    @property
    def images(self) -> tuple[Picture, ...]:
        """The pictures, one or more; none if embeds were given."""
        return pictures_of(self.image)

    @property
    def faces(self) -> tuple[FaceEntry, ...]:
        """The faces that were given."""
        return () if self.face is None else cast("tuple[FaceEntry, ...]", self.face)

    @property
    def count(self) -> int:
        """The number of pictures, or rows of embeds, or faces where there is no picture."""
        if isinstance(self.image, ImageEmbeds):
            return len(self.image)
        return len(self.images) or len(self.faces)

    @property
    def parts(self) -> tuple[ImagePrompt, ...]:
        """The prompt itself; or one per picture where each has its own scale, mask or tiles."""
        apart = isinstance(self.scale, tuple) or isinstance(self.mask, tuple) or self.fit == TILE
        if not apart:
            return (self,)
        if self.face is not None and len(self.faces) != self.count:
            raise RequestError(
                "an image prompt has one face per picture",
                found=f"{len(self.faces)} faces for {self.count} pictures",
            )
        return tuple(self.share(number) for number in range(self.count))

    def share(self, number: int) -> ImagePrompt:
        """The prompt of one of the pictures, or rows of embeds, with what goes with it.

        That is its scale, its masks, its face and its negative picture, where those are lists. The
        last of fewer negative pictures stands for the rest.
        """
        lists = ("image", "scale", "mask", "negative", "face", "encoder_mask")
        entries = {name: _entry(getattr(self, name), number) for name in lists}
        return replace(self, batched=False, **entries)

    def _each(self, field_name: str, value: Any, read: Callable[[Any, str], Any]) -> Any:
        """A value, or a tuple of one per picture, read; None stays."""
        adapter = "" if self.adapter is None else f"(adapter={shown(self.adapter)})"
        name = f"ImagePrompt{adapter}.{field_name}"
        if not isinstance(value, (list, tuple)):
            return None if value is None else read(value, name)
        # Embeds are one prompt, unless their rows go one to each text.
        count = 0 if isinstance(self.image, ImageEmbeds) and not self.batched else self.count
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


READS: Reads = {
    "image": Read.PICTURES,
    "mask": Read.PICTURES,
    "encoder_mask": Read.PICTURES,
    "negative": Read.PICTURES_OR_NAME,
    "face": Read.NEVER,
}


def _entry(given: Any, number: int) -> Any:
    """The entry for a number, the last one for those beyond; a single value is everybody's."""
    if isinstance(given, ImageEmbeds):
        return given.row(min(number, len(given) - 1))
    return given[min(number, len(given) - 1)] if isinstance(given, (list, tuple)) else given


def check_image_prompts(given: object) -> tuple[ImagePrompt, ...]:
    """Check one image prompt or several, as a tuple. Raises RequestError otherwise."""
    entries = (given,) if isinstance(given, ImagePrompt) else given
    if not isinstance(entries, (list, tuple)):
        entries = (entries,)
    for entry in entries:
        if not isinstance(entry, ImagePrompt):
            raise RequestError(
                "image_prompts must be a list of ImagePrompt",
                found=type(entry).__name__,
                remedy="write image_prompts=[ipa.ImagePrompt(picture)]",
            )
    return tuple(entries)
