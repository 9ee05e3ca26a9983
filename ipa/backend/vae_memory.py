"""How a picture goes through the VAE: as a whole, in strips (the same picture), or in tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from ipa.errors import RequestError, shown
from ipa.model.vae import VaeSpec

from .strips import STRIP_NUMBERS
from .tiling import QUARTERS, Tile, VaeTiling, tile_of

VaeMemory: TypeAlias = Literal["whole", "strips", "tiles"] | int | None
"""`"whole"`: at once. `"strips"`: rows at a time, the same picture. `"tiles"`: diffusers' tiles of
the training size, another picture. A number: tiles of that many pixels. None: strips where a
picture has more than `MOST_PIXELS`, else at once. A picture no larger than a tile is never divided.
"""


MOST_PIXELS = 2048 * 1152
"""The largest picture that goes as a whole by default: SDXL's sizes do, 2048² does not."""


NAMES: tuple[Literal["whole", "strips", "tiles"], ...] = ("whole", "strips", "tiles")
"""The ways that have a name."""


@dataclass(frozen=True, slots=True)
class StripSize:
    """A picture goes in strips of about so many numbers."""

    numbers: int


@dataclass(frozen=True, slots=True)
class VaeUse:
    """A setting, and the autoencoder that it is for."""

    asked: VaeMemory
    vae: VaeSpec

    def of_pixels(self, height: int, width: int) -> Tile | StripSize | None:
        """How a picture of this size goes; None is as a whole."""
        is_large = self.asked is None and height * width > MOST_PIXELS
        if self.asked == "strips" or is_large:
            return StripSize(STRIP_NUMBERS)
        if self.asked is None or self.asked == "whole":
            return None
        return tile_of(self.vae, None if self.asked == "tiles" else self.asked, height, width)

    def way(self, height: int, width: int) -> str:
        """How a picture of this size goes, as `NAMES` calls it."""
        parts = self.of_pixels(height, width)
        if parts is None:
            return "whole"
        return "strips" if isinstance(parts, StripSize) else "tiles"

    def of_latents(self, height: int, width: int) -> Tile | StripSize | None:
        """The same for latents."""
        factor = self.vae.scale_factor
        return self.of_pixels(height * factor, width * factor)


def check_vae_memory(memory: object, spec: VaeSpec) -> VaeMemory:
    """Return a setting. Raises RequestError if it is none."""
    if memory is None:
        return None
    if isinstance(memory, str):
        for name in NAMES:
            if memory == name:
                return name
    return _side("vae_memory", memory, spec, '"whole", "strips", "tiles", None')


def of_tiling(tiling: object, spec: VaeSpec) -> VaeMemory:
    """Return the setting that `vae_tiling` stands for. Raises RequestError if it is none."""
    if tiling is None:
        return None
    if isinstance(tiling, bool):
        return "tiles" if tiling else "whole"
    return _side("vae_tiling", tiling, spec, "True, False, None")


def as_tiling(memory: VaeMemory) -> VaeTiling:
    """What of a setting is about tiles."""
    return memory == "tiles" if isinstance(memory, str) else memory


def _side(name: str, side: object, spec: VaeSpec, words: str) -> int:
    unit = QUARTERS * spec.scale_factor
    if isinstance(side, int) and not isinstance(side, bool) and side >= unit and not side % unit:
        return side
    raise RequestError(
        f"{name} must be {words}, or the side of a tile in pixels",
        found=shown(side),
        remedy=f"a multiple of {unit} for this VAE, such as 512",
    )
