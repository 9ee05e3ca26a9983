"""The structure of a T2I-Adapter (arXiv 2302.08453), as a frozen value, parsed once.

Source: diffusers' `T2IAdapter`, of all three types. It sees a control picture and nothing else: its
features are the same at every step, and are added inside the half of the UNet that goes down.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias, cast

from ipa.errors import CheckpointError, shown

from .config import MOST_LAYERS, QUANTIZED, Config, Keys, integer, integers
from .folder import ModelFolder
from .unet import DownSpec

AdapterType: TypeAlias = Literal["full_adapter", "full_adapter_xl", "light_adapter"]
"""diffusers' adapter_type. XL's halves its features once, the others at every block."""

Feature: TypeAlias = tuple[int, int]
"""A feature's channels, and the pixels of the picture per value, along a side."""

_CLASS = "T2IAdapter"
_TYPES = ("full_adapter", "full_adapter_xl", "light_adapter")
_READ = frozenset({"in_channels", "channels", "num_res_blocks", "downscale_factor", "adapter_type"})
_CHANNELS = (320, 640, 1280, 1280)  # of diffusers' class
_XL_HALVES = 2  # the block of XL's that halves
_PICTURES = (1, 3)  # channels
_MOST_BLOCKS = 16
NARROWING = 4
"""How many times narrower a light adapter's blocks are inside."""


@dataclass(frozen=True, slots=True)
class AdapterBlock:
    """A block of a T2I-Adapter: `halves` comes first, the last channels are the feature's."""

    inputs: int
    outputs: int
    halves: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class T2IAdapterSpec:
    """A T2I-Adapter's structure.

    Attributes:
        adapter_type: See `AdapterType`.
        in_channels: Of the control picture, values in [0, 1]: 1 for grey, 3 for red, green, blue.
        channels: Of the features; the light type repeats the last.
        resnets: Residual blocks in every block.
        downscale_factor: Pixels of the picture that become channels, along a side: its width and
            height must be multiples of that.
        unread: Warnings of what its config says and nobody knows.
    """

    title: ClassVar[str] = "T2I-Adapter"
    word: ClassVar[str] = "t2i_adapter"
    keys: ClassVar[Keys] = Keys(read=_READ, fixed=QUANTIZED)

    adapter_type: AdapterType
    in_channels: int
    channels: tuple[int, ...]
    resnets: int
    downscale_factor: int
    unread: tuple[str, ...] = field(default=(), compare=False)

    @property
    def is_light(self) -> bool:
        """Whether a block narrows its input and widens its output."""
        return self.adapter_type == "light_adapter"

    @property
    def unshuffled(self) -> int:
        """The picture's channels after pixel unshuffle."""
        return self.in_channels * self.downscale_factor**2

    @property
    def blocks(self) -> tuple[AdapterBlock, ...]:
        """The blocks in the order of execution; each gives a feature."""
        widths = (*self.channels, self.channels[-1]) if self.is_light else self.channels
        first = self.unshuffled if self.is_light else widths[0]
        halving = range(1, len(widths))
        if self.adapter_type == "full_adapter_xl":
            halving = range(_XL_HALVES, _XL_HALVES + 1)
        return tuple(
            AdapterBlock(inputs, outputs, level in halving)
            for level, (inputs, outputs) in enumerate(zip((first, *widths), widths, strict=False))
        )

    @property
    def features(self) -> tuple[Feature, ...]:
        """The features, in the order in which a UNet takes them."""
        found, pixels = [], self.downscale_factor
        for block in self.blocks:
            pixels *= 1 + block.halves
            found.append((block.outputs, pixels))
        return tuple(found)

    @property
    def results(self) -> int:
        """The number of features."""
        return len(self.blocks)

    def check_base(self, model: ModelFolder, where: str) -> None:
        """Raise CheckpointError, which names `where`, unless its features fit a model's UNet.

        A UNet of the same channels takes it, also one that it was not trained for: nothing in it
        tells the text encoder of its base.
        """
        factor = model.vae.scale_factor
        needed = [(width, size * factor) for width, size in feature_places(model.unet)]
        features = list(self.features)
        if features != needed[: len(features)]:
            raise CheckpointError(
                f"{where} is a T2I-Adapter for another base model",
                found=_told(features),
                remedy=f"use one that was trained for the base of {model.name}: {_told(needed)}",
            )

    @classmethod
    def from_config(cls, config: Config, where: str = "config.json") -> T2IAdapterSpec:
        """Parse diffusers' config. Raises CheckpointError for what is not implemented."""
        _require_class(config, where)
        unread = cls.keys.check(config, where)
        config = {"channels": _CHANNELS} | dict(config)
        kind = config.get("adapter_type", "full_adapter")
        if kind not in _TYPES:
            raise CheckpointError(
                f"{where}: adapter_type is not supported",
                found=shown(kind),
                remedy=f"one of {', '.join(_TYPES)}",
            )
        spec = cls(
            adapter_type=cast("AdapterType", kind),
            in_channels=integer(config, "in_channels", where, 3),
            channels=integers(config, "channels", where),
            resnets=integer(config, "num_res_blocks", where, 2, MOST_LAYERS),
            downscale_factor=integer(config, "downscale_factor", where, 8, MOST_LAYERS),
            unread=unread,
        )
        spec._check(where)
        return spec

    def _check(self, where: str) -> None:
        """Raise CheckpointError for what diffusers' class could not run."""
        if self.in_channels not in _PICTURES:
            raise CheckpointError(
                f"{where}: in_channels is not supported",
                found=str(self.in_channels),
                remedy="1 for a grey control picture, or 3",
            )
        later = self.channels[_XL_HALVES:]
        is_xl = self.adapter_type == "full_adapter_xl"
        if (is_xl and len(set(later)) > 1) or len(self.channels) > _MOST_BLOCKS:
            raise CheckpointError(
                f"{where}: its blocks do not follow one another",
                found=f"channels {self.channels[:8]}",
                remedy="those of full_adapter_xl are alike from the third on",
            )
        if self.is_light and min(self.channels) < NARROWING:
            raise CheckpointError(
                f"{where}: a light adapter needs at least {NARROWING} channels",
                found=str(self.channels[:8]),
            )


def feature_places(unet: DownSpec) -> tuple[Feature, ...]:
    """Where a UNet takes features, as (channels, latents along a side): down, then the middle.

    A level that attends takes its feature before it halves, one that does not takes it after
    (diffusers' down_intrablock_additional_residuals).
    """
    last = len(unet.channels) - 1
    places = [
        (width, 2 ** (level + int(level < last and not unet.down_attention[level])))
        for level, width in enumerate(unet.channels)
    ]
    return (*places, (unet.channels[-1], 2**last))


def _told(features: list[Feature]) -> str:
    return ", ".join(f"{width} channels per {pixels} pixels" for width, pixels in features)


def _require_class(config: Config, where: str) -> None:
    found = config.get("_class_name", _CLASS)
    if found != _CLASS:
        is_controlnet = str(found) == "ControlNetModel"
        raise CheckpointError(
            f"{where}: this is no T2I-Adapter",
            found=shown(found),
            remedy="load it with load_controlnet" if is_controlnet else f"{_CLASS} is needed",
        )
