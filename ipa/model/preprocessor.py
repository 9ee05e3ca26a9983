"""An image encoder's preprocessor_config.json.

Source: transformers' `CLIPImageProcessorPil` with its defaults, and the spellings that its
constructor takes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ipa.errors import CheckpointError, shown

_WHERE = "preprocessor_config.json"


_TYPES = frozenset(
    {
        None,
        "CLIPFeatureExtractor",
        "CLIPImageProcessor",
        "CLIPImageProcessorFast",
        "CLIPImageProcessorPil",
    }
)


_DEFAULTS: Mapping[str, Any] = {
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "resample": Image.Resampling.BICUBIC,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


_REFUSED = ("do_pad", "use_square_size", "do_flip_channel_order")


_MAX_SIDE = 4096  # of an encoder's input; the largest in use is 448


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipPreprocessor:
    """The steps between an RGB picture and an encoder's pixels.

    Attributes:
        resizes: Whether pictures are resized.
        shortest_edge: The shorter side after the resize, the aspect kept; None for a fixed size.
        fixed: (height, width) after the resize, where the aspect is not kept.
        resample: PIL's filter.
        crop: (height, width) of the centre crop, or None.
        scale: Factor on the 8-bit values, or None.
        mean: Subtracted per channel, or None.
        std: Divided by per channel, or None.
        output: (height, width) of the result.
    """

    resizes: bool
    shortest_edge: int | None
    fixed: tuple[int, int] | None
    resample: Image.Resampling
    crop: tuple[int, int] | None
    scale: float | None
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None
    output: tuple[int, int]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ClipPreprocessor:
        """Parse a config; a missing key means CLIP's value, null means no, as in transformers."""
        _refuse(config)
        values = {**_DEFAULTS, **config}
        resizes = bool(values["do_resize"])
        edge, fixed = _resize_target(values["size"]) if resizes else (None, None)
        crop = _height_width(values["crop_size"], "crop_size") if values["do_center_crop"] else None
        normalises = bool(values["do_normalize"])
        return cls(
            resizes=resizes,
            shortest_edge=edge,
            fixed=fixed,
            resample=_resample(values["resample"]),
            crop=crop,
            scale=_number(values["rescale_factor"], "rescale_factor")
            if values["do_rescale"]
            else None,
            mean=_channels(values["image_mean"], "image_mean") if normalises else None,
            std=_channels(values["image_std"], "image_std", positive=True) if normalises else None,
            output=_output(crop, fixed),
        )

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) after the resize; the longer side is cut off, not rounded."""
        if self.shortest_edge is None:
            tall, wide = self.fixed or (height, width)
            return wide, tall
        short, long = sorted((width, height))
        edge = self.shortest_edge
        scaled = int(edge * long / short)
        return (edge, scaled) if width <= height else (scaled, edge)


def _refuse(config: Mapping[str, Any]) -> None:
    for key in ("image_processor_type", "feature_extractor_type"):
        if config.get(key) not in _TYPES:
            raise CheckpointError(
                f"{_WHERE}: {key} is not supported",
                found=shown(config[key]),
                remedy="IP-Adapters for Stable Diffusion use CLIP image encoders",
            )
    for key in _REFUSED:
        if config.get(key):
            raise CheckpointError(f"{_WHERE}: {key} is not supported", found=shown(config[key]))


def _output(crop: tuple[int, int] | None, fixed: tuple[int, int] | None) -> tuple[int, int]:
    size = crop or fixed
    if size is None or size[0] != size[1]:
        raise CheckpointError(
            f"{_WHERE} must lead to square pictures of one size",
            found=f"crop {crop}, resize to {fixed}",
            remedy="set do_center_crop and a square crop_size",
        )
    return size


def _resize_target(size: object) -> tuple[int | None, tuple[int, int] | None]:
    """Read a resize: the shorter side (also a plain integer), or a fixed (height, width)."""
    if isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
        size = size["shortest_edge"]
    if isinstance(size, (Mapping, list, tuple)):
        return None, _height_width(size, "size")
    return _side(size, "size"), None


def _height_width(size: object, key: str) -> tuple[int, int]:
    """Read a size: {"height", "width"}, [height, width], or one integer for both."""
    if isinstance(size, Mapping) and set(size) == {"height", "width"}:
        return _side(size["height"], key), _side(size["width"], key)
    if isinstance(size, (list, tuple)) and len(size) == 2:
        return _side(size[0], key), _side(size[1], key)
    return (_side(size, key),) * 2


def _side(value: object, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MAX_SIDE:
        raise CheckpointError(
            f"{_WHERE}: {key} is not supported",
            found=shown(value),
            remedy=f"an integer up to {_MAX_SIDE}, {{shortest_edge}}, or {{height, width}}",
        )
    return value


def _resample(value: object) -> Image.Resampling:
    filters = {int(r): r for r in Image.Resampling}
    if isinstance(value, bool) or not isinstance(value, int) or value not in filters:
        raise CheckpointError(
            f"{_WHERE}: resample must be one of PIL's filters", found=shown(value), remedy="0 to 5"
        )
    return filters[value]


def _number(value: object, key: str, *, positive: bool = False) -> float:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not good or (positive and value <= 0):  # type: ignore[operator]
        raise CheckpointError(f"{_WHERE}: {key} must be a number", found=shown(value))
    return float(value)  # type: ignore[arg-type]


def _channels(value: object, key: str, *, positive: bool = False) -> tuple[float, float, float]:
    """Read numbers for three channels, or one for all."""
    values = value if isinstance(value, (list, tuple)) else [value] * 3
    if len(values) != 3:
        raise CheckpointError(f"{_WHERE}: {key} must have three entries", found=shown(value))
    red, green, blue = (_number(v, key, positive=positive) for v in values)
    return red, green, blue


def default_preprocessing(image_size: int) -> dict[str, Any]:
    """CLIP's own preprocessing, for encoders that come without preprocessor_config.json."""
    return {
        "do_resize": True,
        "size": {"shortest_edge": image_size},
        "resample": int(Image.Resampling.BICUBIC),
        "do_center_crop": True,
        "crop_size": {"height": image_size, "width": image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "do_convert_rgb": True,
    }
