"""The structure of a ControlNet, as a frozen value: parsed once from config.json, then trusted.

Source: diffusers' `ControlNetModel`. A key that changes the computation in a way nobody here
implements is refused by name; see `Keys`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ipa.errors import CheckpointError, shown

from .config import Config, Keys, integer, integers
from .folder import ModelFolder
from .unet import DOWN_FIXED, DOWN_INERT, DOWN_READ, NO_ADAPTER, DownSpec, down_fields

ChannelOrder = Literal["rgb", "bgr"]

_CLASS = "ControlNetModel"
_READ = DOWN_READ | {
    "conditioning_channels",
    "conditioning_embedding_out_channels",
    "controlnet_conditioning_channel_order",
    "global_pool_conditions",
}
_UNION: Config = {"num_control_type": None}  # of networks for several kinds of picture
_KEYS = Keys(read=_READ, fixed={**DOWN_FIXED, **NO_ADAPTER, **_UNION}, inert=DOWN_INERT)
_EMBEDDING = (16, 32, 96, 256)  # of diffusers' class, and of every public ControlNet


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlNetSpec(DownSpec):
    """A ControlNet's structure: the down half of a UNet, which also sees a control picture.

    A level with attention may have no transformer layers (SDXL's mid size): its norm and its two
    projections are there all the same.

    Attributes:
        conditioning_channels: Of the control picture, values in [0, 1].
        embedding_channels: Of the layers through which it comes down to the latents' size, from
            the finest to the coarsest.
        channel_order: Of the control picture, as the network wants it.
        global_pool_conditions: Whether the results are averaged over the picture (shuffle).
    """

    title: ClassVar[str] = "ControlNet"
    word: ClassVar[str] = "controlnet"
    keys: ClassVar[Keys] = _KEYS

    conditioning_channels: int
    embedding_channels: tuple[int, ...]
    channel_order: ChannelOrder
    global_pool_conditions: bool

    @property
    def scale_factor(self) -> int:
        """Pixels of the control picture per latent pixel, along one side."""
        return int(2 ** (len(self.embedding_channels) - 1))

    @property
    def residual_channels(self) -> tuple[int, ...]:
        """Channels of the residuals going down, in order; the middle's is one more."""
        found = [self.channels[0]]
        for level, width in enumerate(self.channels):
            is_last = level == len(self.channels) - 1
            found += [width] * (self.layers[level] + (0 if is_last else 1))
        return tuple(found)

    @property
    def results(self) -> int:
        """The number of residuals: those going down, and the middle's."""
        return len(self.residual_channels) + 1

    def check_base(self, model: ModelFolder, where: str) -> None:
        """Raise CheckpointError, which names `where`, unless its results fit a model's UNet."""
        unet = model.unet
        pairs = {
            "context width": (self.context_width, unet.context_width),
            "channels": (self.channels, unet.channels),
            "layers per block": (self.layers, unet.layers),
            "addition embedding": (self.addition, unet.addition),
            "latent channels": (self.in_channels, model.vae.latent_channels),
            "pixels per latent": (self.scale_factor, model.vae.scale_factor),
            "channels of the control picture": (self.conditioning_channels, 3),
        }
        wrong = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
        if wrong:
            raise CheckpointError(
                f"{where} is a ControlNet for another base model",
                found="; ".join(
                    f"{name} {_told(found)}, needed {_told(needed)}"
                    for name, (found, needed) in wrong.items()
                ),
                remedy=f"use one that was trained for the base of {model.name}",
            )

    @classmethod
    def from_config(cls, config: Config, where: str = "controlnet/config.json") -> ControlNetSpec:
        """Parse diffusers' config. Raises CheckpointError for what is not implemented."""
        _require_class(config, where)
        unread = cls.keys.check(config, where)
        embedding = {"conditioning_embedding_out_channels": _EMBEDDING} | dict(config)
        return cls(
            **down_fields(config, where, fewest_transformers=0),
            conditioning_channels=integer(config, "conditioning_channels", where, 3),
            embedding_channels=integers(embedding, "conditioning_embedding_out_channels", where),
            channel_order=_channel_order(config, where),
            global_pool_conditions=bool(config.get("global_pool_conditions") or False),
            unread=unread,
        )


def _told(value: object) -> str:
    return "none" if value is None else str(value)


def _require_class(config: Config, where: str) -> None:
    found = config.get("_class_name", _CLASS)
    if found != _CLASS:
        raise CheckpointError(
            f"{where}: this kind of network is not supported",
            found=shown(found),
            remedy="load it with load_t2i_adapter"
            if found == "T2IAdapter"
            else f"only a plain {_CLASS} is implemented",
        )


def _channel_order(config: Config, where: str) -> ChannelOrder:
    match config.get("controlnet_conditioning_channel_order", "rgb"):
        case "rgb":
            return "rgb"
        case "bgr":
            return "bgr"
        case other:
            raise CheckpointError(
                f"{where}: controlnet_conditioning_channel_order is not supported",
                found=shown(other),
                remedy='"rgb" or "bgr"',
            )
