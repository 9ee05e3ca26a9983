"""The structure of a UNet, as a frozen value: parsed once from config.json, then trusted.

The half that goes down has a value of its own, since a ControlNet is a copy of it.

Source: diffusers' `UNet2DConditionModel`. A key that changes the computation in a way nobody here
implements is refused by name; see `Keys`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from ipa.errors import CheckpointError, shown

from .config import (
    QUANTIZED,
    Config,
    Keys,
    block_kinds,
    integer,
    integers,
    number,
    per_level,
    require_divisible,
)

# Keys with the only value that is implemented. A missing key means that value.
DOWN_FIXED: Config = {
    **QUANTIZED,
    "act_fn": "silu",
    "class_embed_type": None,
    "downsample_padding": 1,
    "encoder_hid_dim": None,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "num_attention_heads": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "resnet_time_scale_shift": "default",
}
"""Of those, the ones that a ControlNet has too."""
_UNET_FIXED: Config = {
    **DOWN_FIXED,
    "attention_type": "default",
    "center_input_sample": False,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "dual_cross_attention": False,
    "mid_block_only_cross_attention": None,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "reverse_transformer_layers_per_block": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
}
DOWN_INERT = frozenset({"addition_embed_type_num_heads"})
"""Keys that do not change what inference computes."""
DOWN_READ = frozenset(
    {
        "addition_embed_type",
        "addition_time_embed_dim",
        "in_channels",
        "block_out_channels",
        "down_block_types",
        "layers_per_block",
        "transformer_layers_per_block",
        "attention_head_dim",
        "cross_attention_dim",
        "norm_num_groups",
        "norm_eps",
        "projection_class_embeddings_input_dim",
        "use_linear_projection",
        "flip_sin_to_cos",
        "freq_shift",
        "upcast_attention",
    }
)
"""Keys that `down_fields` reads."""
_ADAPTER_TYPE = "encoder_hid_dim_type"
NO_ADAPTER: Config = {_ADAPTER_TYPE: None}
"""The values of a UNet's config that say it holds no IP-Adapter."""

_WITH_ADAPTER = "ip_image_proj"  # what it is in diffusers while an IP-Adapter is loaded
_UNET_KEYS = Keys(
    read=DOWN_READ
    | {"out_channels", "up_block_types", "sample_size", "time_cond_proj_dim", _ADAPTER_TYPE},
    fixed=_UNET_FIXED,
    inert=DOWN_INERT | {"dropout"},
)
_LEAST_GUIDANCE_WIDTH = 4  # two waves, or their frequencies have no range
_ADDED_NUMBERS = 6  # original height and width, crop top and left, target height and width
_DOWN_BLOCKS = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
_UP_BLOCKS = {"CrossAttnUpBlock2D": True, "UpBlock2D": False}


@dataclass(frozen=True, kw_only=True, slots=True)
class Addition:
    """SDXL's addition to the timestep embedding: the pooled text and six numbers of sizes.

    Attributes:
        width: Of all of it, side by side: 1280 + 6 × 256 = 2816.
        time_width: Of the sinusoid of each number.
    """

    width: int
    time_width: int

    @property
    def pooled_width(self) -> int:
        """The width of the pooled text alone."""
        return self.width - _ADDED_NUMBERS * self.time_width

    @classmethod
    def from_config(cls, config: Config, where: str) -> Addition | None:
        """Parse addition_embed_type and its numbers; None where the UNet adds nothing."""
        kind = config.get("addition_embed_type")
        if kind is None:
            return None
        if kind != "text_time":
            raise CheckpointError(
                f"{where}: addition_embed_type is not supported",
                found=shown(kind),
                remedy='only "text_time", that of SDXL, is implemented',
            )
        width = integer(config, "projection_class_embeddings_input_dim", where, 0)
        time_width = integer(config, "addition_time_embed_dim", where, 0)
        if width <= _ADDED_NUMBERS * time_width:
            raise CheckpointError(
                f"{where}: this is no SDXL base model",
                found=f"projection_class_embeddings_input_dim {width} with numbers of {time_width}",
                remedy="refiners, which take five numbers, are not supported",
            )
        return cls(width=width, time_width=time_width)


@dataclass(frozen=True, kw_only=True, slots=True)
class DownSpec:
    """The down half of a UNet with its middle: also what a ControlNet copies.

    Tuples have one entry per resolution level, from the finest (first) to the coarsest.
    `heads` is what diffusers calls `attention_head_dim`: a number of heads, not a width. `addition`
    is SDXL's; None elsewhere. `guidance_width` is that of the guidance scale's sinusoid, of
    distilled models (LCM) that are told the scale with the timestep; None elsewhere. `unread` are
    warnings of what its config says and nobody knows.
    """

    in_channels: int
    channels: tuple[int, ...]
    down_attention: tuple[bool, ...]
    layers: tuple[int, ...]
    transformer_layers: tuple[int, ...]
    heads: tuple[int, ...]
    context_width: int
    norm_groups: int
    norm_eps: float
    linear_projection: bool
    flip_sin_to_cos: bool
    freq_shift: float
    upcast_attention: bool
    addition: Addition | None = None
    guidance_width: int | None = None
    unread: tuple[str, ...] = field(default=(), compare=False)

    @property
    def time_width(self) -> int:
        """Width of the timestep embedding after its two linear layers."""
        return 4 * self.channels[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class UNetSpec(DownSpec):
    """The structure of a UNet of the Stable Diffusion family."""

    keys: ClassVar[Keys] = _UNET_KEYS

    out_channels: int
    up_attention: tuple[bool, ...]  # in the order of execution: coarsest level first
    sample_size: int | None

    @classmethod
    def from_config(cls, config: Config, where: str = "unet/config.json") -> UNetSpec:
        """Parse diffusers' config. Raises CheckpointError for what is not implemented."""
        unread = cls.keys.check(config, where)
        _check_adapter_type(config, where)
        down = down_fields(config, where, fewest_transformers=1)
        levels = len(down["channels"])
        return cls(
            **down,
            guidance_width=_guidance_width(config, where),
            out_channels=integer(config, "out_channels", where, 4),
            up_attention=block_kinds(config, "up_block_types", _UP_BLOCKS, levels, where),
            sample_size=integer(config, "sample_size", where, 64)
            if config.get("sample_size") is not None
            else None,
            unread=unread,
        )


def _check_adapter_type(config: Config, where: str) -> None:
    kind = config.get(_ADAPTER_TYPE)
    if kind not in {None, _WITH_ADAPTER}:
        raise CheckpointError(
            f"{where}: {_ADAPTER_TYPE} is not supported with this value",
            found=repr(kind)[:80],
            remedy="use a model of Stable Diffusion 1.x, 2.x or XL",
        )


def _guidance_width(config: Config, where: str) -> int | None:
    if config.get("time_cond_proj_dim") is None:
        return None
    width = integer(config, "time_cond_proj_dim", where, 0)
    if width < _LEAST_GUIDANCE_WIDTH:
        raise CheckpointError(
            f"{where}: time_cond_proj_dim must be {_LEAST_GUIDANCE_WIDTH} or more",
            found=str(width),
        )
    return width


def down_fields(config: Config, where: str, *, fewest_transformers: int) -> dict[str, Any]:
    """The fields of a `DownSpec`, by name.

    Args:
        config: diffusers' config.
        where: Its file, for messages.
        fewest_transformers: The least of a level: small ControlNets have none.

    Raises:
        CheckpointError: A value is missing or makes no sense.
    """
    channels = integers(config, "block_out_channels", where)
    levels = len(channels)
    heads = per_level(config, "attention_head_dim", levels, where, 8)
    groups = integer(config, "norm_num_groups", where, 32)
    require_divisible(channels, heads, "attention heads", where)
    require_divisible(channels, (groups,) * levels, "norm groups", where)
    return {
        "in_channels": integer(config, "in_channels", where, 4),
        "channels": channels,
        "down_attention": block_kinds(config, "down_block_types", _DOWN_BLOCKS, levels, where),
        "layers": per_level(config, "layers_per_block", levels, where, 2),
        "transformer_layers": per_level(
            config, "transformer_layers_per_block", levels, where, 1, fewest_transformers
        ),
        "heads": heads,
        "context_width": integer(config, "cross_attention_dim", where, 1280),
        "norm_groups": groups,
        "norm_eps": number(config, "norm_eps", where, 1e-5),
        "linear_projection": bool(config.get("use_linear_projection", False)),
        "flip_sin_to_cos": bool(config.get("flip_sin_to_cos", True)),
        "freq_shift": number(config, "freq_shift", where, 0),
        "upcast_attention": bool(config.get("upcast_attention") or False),
        "addition": Addition.from_config(config, where),
    }
