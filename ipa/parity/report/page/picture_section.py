"""The two pictures of a comparison and their difference, inside the page."""

from __future__ import annotations

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from ipa.parity.compare.comparison import Comparison, Pictures
from ipa.parity.compare.verdict import short

from .markup import Markup, element, joined

GAINS = (1, 4, 16)
LONGEST = 512
"""The longer side of a picture on the page, in pixels."""

LARGEST = 256 * 1024
"""The bytes of a PNG above which a picture is shown as a JPEG."""

_SMALL, _QUALITY = 256, 92


def pictures(comparison: Comparison) -> Markup:
    """The pictures side by side, with their difference at a choice of gains; empty without any."""
    of = comparison.pictures
    if of is None:
        return joined()
    shown = [
        _figure(of.a, f"a: {comparison.a.name}"),
        _figure(of.b, f"b: {comparison.b.name}"),
    ]
    choice = joined()
    if of.a.shape == of.b.shape:
        shown.append(_figure(_difference(of), "difference |b − a|", "difference"))
        largest = int(_difference(of).max())
        first = max(gain for gain in GAINS if gain == 1 or gain * largest <= 255)
        choice = joined("Difference: ", *(_gain(gain, gain == first) for gain in GAINS))
    grid = element("div", *shown, class_="pictures")
    return joined(choice, grid, element("p", _numbers(of)))


def _gain(gain: int, is_first: bool) -> Markup:
    name = f"gain-{gain}"
    knob = element("input", type="radio", name="gain", id=name, checked=is_first)
    return joined(knob, element("label", f"×{gain}", for_=name), " ")


def _difference(of: Pictures) -> npt.NDArray[np.uint8]:
    return np.maximum(of.a, of.b) - np.minimum(of.a, of.b)


def _figure(picture: npt.NDArray[np.uint8], title: str, kind: str = "") -> Markup:
    height, width = picture.shape[:2]
    note = f" {width} × {height}"
    drawn = Image.fromarray(picture)
    if max(drawn.size) > LONGEST:
        drawn.thumbnail((LONGEST, LONGEST), Image.Resampling.BOX)
        note += f", shown at {drawn.width} × {drawn.height}"
    kind += " pixels" if max(drawn.size) <= _SMALL else ""
    image = element(
        "img", src=_uri(drawn), alt=title, class_=kind.strip() or None, width=width, height=height
    )
    return element("figure", image, element("figcaption", element("b", title), note))


def _uri(picture: Image.Image) -> str:
    for form, options in (("png", {"optimize": True}), ("jpeg", {"quality": _QUALITY})):
        file = io.BytesIO()
        picture.save(file, form, **options)
        if form == "jpeg" or file.tell() <= LARGEST:
            break
    return f"data:image/{form};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _numbers(of: Pictures) -> str:
    if of.a.shape != of.b.shape:
        return "The pictures are of different sizes, so they were not compared."
    difference = _difference(of)
    apart = float((difference.max(-1) > 0).mean())
    words = (
        f"PSNR {short(of.psnr_db, 3)} dB (inf: equal; above 40 hard to see). "
        f"SSIM {of.ssim:.4f} (1: alike). "
        f"{short(100 * apart, 3)} % of the pixels differ, by {difference.max()} of 255 at most."
    )
    if of.clip_cosine is not None:
        words += f" CLIP cosine {of.clip_cosine:.4f} (1: the same to the image encoder)."
    return words
