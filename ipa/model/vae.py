"""The structures of VAEs, from their configs: the large one, and the tiny one of previews."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from ipa.errors import CheckpointError, shown

from .clip import _VAE_KEYS
from .config import (
    MOST_LAYERS,
    QUANTIZED,
    Config,
    Keys,
    block_kinds,
    integer,
    integers,
    number,
    require_divisible,
)

STEM = "diffusion_pytorch_model"
"""The file stem of a VAE's weights in diffusers' folder layout."""


_KEYS = Keys(
    read=frozenset(
        {
            "latent_channels",
            "out_channels",
            "decoder_block_out_channels",
            "num_decoder_blocks",
            "scaling_factor",
        }
    ),
    fixed={
        **QUANTIZED,
        "act_fn": "relu",
        "upsample_fn": "nearest",
        "upsampling_scaling_factor": 2,
        "shift_factor": 0.0,
    },
    # The encoder's, and how its latents were kept in files as bytes.
    inert=frozenset(
        {
            "in_channels",
            "encoder_block_out_channels",
            "num_encoder_blocks",
            "latent_magnitude",
            "latent_shift",
            "force_upcast",
        }
    ),
)


_PUBLIC: Config = {
    "latent_channels": 4,
    "out_channels": 3,
    "decoder_block_out_channels": (64, 64, 64, 64),
    "num_decoder_blocks": (3, 3, 3, 1),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyVaeSpec:
    """The structure of a tiny VAE; `blocks` says how many residual blocks each level has.

    `unread` are warnings of what its config says and nobody knows.
    """

    keys: ClassVar[Keys] = _KEYS

    latent_channels: int
    out_channels: int
    width: int
    blocks: tuple[int, ...]
    scaling_factor: float = 1.0
    unread: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def from_config(cls, config: Config, where: str = "config.json") -> TinyVaeSpec:
        """Parse diffusers' config. Raises CheckpointError for what is not implemented."""
        kind = config.get("_class_name", "AutoencoderTiny")
        if kind != "AutoencoderTiny":
            raise CheckpointError(
                f"{where} is of another class",
                found=shown(kind),
                remedy="AutoencoderTiny is needed, such as madebyollin/taesd",
            )
        config = {**_PUBLIC, **config}
        unread = cls.keys.check(config, where)
        widths = integers(config, "decoder_block_out_channels", where)
        blocks = integers(config, "num_decoder_blocks", where, MOST_LAYERS)
        if len(set(widths)) > 1 or len(widths) != len(blocks):
            raise CheckpointError(
                f"{where}: its levels do not follow one another",
                found=f"widths {widths}, blocks {blocks}",
                remedy="one width, and a number of blocks for each level",
            )
        scaling = number(config, "scaling_factor", where, 1.0)
        if not scaling:
            raise CheckpointError(f"{where}: scaling_factor must not be 0")
        return cls(
            latent_channels=integer(config, "latent_channels", where, 4),
            out_channels=integer(config, "out_channels", where, 3),
            width=widths[0],
            blocks=blocks,
            scaling_factor=scaling,
            unread=unread,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyVaeFiles:
    """A tiny decoder's folder, or its file, and its structure; of a file the public ones'."""

    name: str
    path: Path
    spec: TinyVaeSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class VaeSpec:
    """The structure of an `AutoencoderKL`: pixels in [-1, 1] to latents and back.

    Here and below, `unread` are warnings of what its config says and nobody knows.
    """

    keys: ClassVar[Keys] = _VAE_KEYS

    in_channels: int
    out_channels: int
    latent_channels: int
    channels: tuple[int, ...]
    layers: int
    norm_groups: int
    mid_attention: bool
    quant_conv: bool
    post_quant_conv: bool
    scaling_factor: float
    force_upcast: bool
    sample_size: int = 32  # pixels of a training picture's side: what diffusers makes its tiles of
    unread: tuple[str, ...] = field(default=(), compare=False)

    @property
    def scale_factor(self) -> int:
        """Picture pixels per latent pixel, along one side."""
        return int(2 ** (len(self.channels) - 1))

    @classmethod
    def from_config(cls, config: Config, where: str = "vae/config.json") -> VaeSpec:
        """Parse diffusers' config. Raises CheckpointError for what is not implemented."""
        unread = cls.keys.check(config, where)
        channels = integers(config, "block_out_channels", where)
        for key, kind in (
            ("down_block_types", "DownEncoderBlock2D"),
            ("up_block_types", "UpDecoderBlock2D"),
        ):
            block_kinds(config, key, {kind: True}, len(channels), where)
        groups = integer(config, "norm_num_groups", where, 32)
        require_divisible(channels, (groups,) * len(channels), "norm groups", where)
        return cls(
            in_channels=integer(config, "in_channels", where, 3),
            out_channels=integer(config, "out_channels", where, 3),
            latent_channels=integer(config, "latent_channels", where, 4),
            channels=channels,
            layers=integer(config, "layers_per_block", where, 1, MOST_LAYERS),
            norm_groups=groups,
            mid_attention=bool(config.get("mid_block_add_attention", True)),
            quant_conv=bool(config.get("use_quant_conv", True)),
            post_quant_conv=bool(config.get("use_post_quant_conv", True)),
            scaling_factor=number(config, "scaling_factor", where, 0.18215),
            force_upcast=bool(config.get("force_upcast", True)),
            sample_size=_side(config, where),
            unread=unread,
        )


def _side(config: Config, where: str) -> int:
    """Read a side: the first of a height and a width, as diffusers reads it."""
    if isinstance(config.get("sample_size"), (list, tuple)):
        return integers(config, "sample_size", where)[0]
    return integer(config, "sample_size", where, 32)
