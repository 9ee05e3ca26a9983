"""What a network is, as a frozen value: parsed once from config.json, then trusted.

Sources: diffusers' `UNet2DConditionModel` and `AutoencoderKL`, transformers' `CLIPTextConfig` and
`CLIPVisionConfig`. A key that changes the computation in a way nobody here implements is refused by
name; it is never ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .config import (
    MOST_LAYERS,
    Config,
    block_kinds,
    integer,
    integers,
    number,
    per_level,
    require_divisible,
    require_fixed,
    require_known,
    width_and_heads,
)
from .errors import CheckpointError

Activation = Literal["quick_gelu", "gelu"]

# Keys with the only value that is implemented. A missing key means that value.
_UNET_FIXED: Config = {
    "act_fn": "silu",
    "addition_embed_type": None,
    "attention_type": "default",
    "center_input_sample": False,
    "class_embed_type": None,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "mid_block_only_cross_attention": None,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "num_attention_heads": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "reverse_transformer_layers_per_block": None,
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
}
# Keys that do not change what inference computes.
_UNET_INERT = frozenset(
    {
        "addition_embed_type_num_heads",
        "addition_time_embed_dim",
        "dropout",
        "projection_class_embeddings_input_dim",
    }
)
_UNET_READ = frozenset(
    {
        "in_channels",
        "out_channels",
        "block_out_channels",
        "down_block_types",
        "up_block_types",
        "layers_per_block",
        "transformer_layers_per_block",
        "attention_head_dim",
        "cross_attention_dim",
        "norm_num_groups",
        "norm_eps",
        "use_linear_projection",
        "flip_sin_to_cos",
        "freq_shift",
        "upcast_attention",
        "sample_size",
    }
)
_VAE_FIXED: Config = {
    "act_fn": "silu",
    "latents_mean": None,
    "latents_std": None,
    "shift_factor": None,
}
_DOWN_BLOCKS = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
_UP_BLOCKS = {"CrossAttnUpBlock2D": True, "UpBlock2D": False}


@dataclass(frozen=True, kw_only=True, slots=True)
class UNetSpec:
    """A UNet of the Stable Diffusion family.

    Tuples have one entry per resolution level, from the finest (first) to the coarsest.
    `heads` is what diffusers calls `attention_head_dim`: a number of heads, not a width.
    """

    in_channels: int
    out_channels: int
    channels: tuple[int, ...]
    down_attention: tuple[bool, ...]
    up_attention: tuple[bool, ...]  # in the order of execution: coarsest level first
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
    sample_size: int | None

    @property
    def time_width(self) -> int:
        """Width of the timestep embedding after its two linear layers."""
        return 4 * self.channels[0]

    @property
    def downscale(self) -> int:
        """Side of the latent pixels that one pixel of the coarsest level covers."""
        return int(2 ** (len(self.channels) - 1))

    @classmethod
    def from_config(cls, config: Config, where: str = "unet/config.json") -> UNetSpec:
        """Parse diffusers' config. Raises CheckpointError for what is not implemented."""
        require_fixed(config, _UNET_FIXED, where)
        require_known(config, _UNET_READ | _UNET_FIXED.keys() | _UNET_INERT, where)
        channels = integers(config, "block_out_channels", where)
        levels = len(channels)
        heads = per_level(config, "attention_head_dim", levels, where, 8)
        groups = integer(config, "norm_num_groups", where, 32)
        require_divisible(channels, heads, "attention heads", where)
        require_divisible(channels, (groups,) * levels, "norm groups", where)
        return cls(
            in_channels=integer(config, "in_channels", where, 4),
            out_channels=integer(config, "out_channels", where, 4),
            channels=channels,
            down_attention=block_kinds(config, "down_block_types", _DOWN_BLOCKS, levels, where),
            up_attention=block_kinds(config, "up_block_types", _UP_BLOCKS, levels, where),
            layers=per_level(config, "layers_per_block", levels, where, 2),
            transformer_layers=per_level(config, "transformer_layers_per_block", levels, where, 1),
            heads=heads,
            context_width=integer(config, "cross_attention_dim", where, 1280),
            norm_groups=groups,
            norm_eps=number(config, "norm_eps", where, 1e-5),
            linear_projection=bool(config.get("use_linear_projection", False)),
            flip_sin_to_cos=bool(config.get("flip_sin_to_cos", True)),
            freq_shift=number(config, "freq_shift", where, 0),
            upcast_attention=bool(config.get("upcast_attention") or False),
            sample_size=integer(config, "sample_size", where, 64)
            if config.get("sample_size") is not None
            else None,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class VaeSpec:
    """An `AutoencoderKL`: pixels in [-1, 1] to latents and back."""

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

    @property
    def scale_factor(self) -> int:
        """Picture pixels per latent pixel, along one side."""
        return int(2 ** (len(self.channels) - 1))

    @classmethod
    def from_config(cls, config: Config, where: str = "vae/config.json") -> VaeSpec:
        """Parse diffusers' config. Raises CheckpointError for what is not implemented."""
        require_fixed(config, _VAE_FIXED, where)
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
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipTextSpec:
    """CLIP's text tower."""

    width: int
    intermediate: int
    layers: int
    heads: int
    activation: Activation
    norm_eps: float
    positions: int
    vocabulary: int
    projection: int | None  # None: the class without text_projection

    @classmethod
    def from_config(cls, config: Config, where: str = "text_encoder/config.json") -> ClipTextSpec:
        """Parse transformers' CLIPTextConfig; its many generic keys are left unread."""
        projected = "CLIPTextModelWithProjection" in str(config.get("architectures"))
        width, heads = width_and_heads(config, where, 512, 8)
        return cls(
            width=width,
            intermediate=integer(config, "intermediate_size", where, 2048),
            layers=integer(config, "num_hidden_layers", where, 12, MOST_LAYERS),
            heads=heads,
            activation=_activation(config, where),
            norm_eps=number(config, "layer_norm_eps", where, 1e-5),
            positions=integer(config, "max_position_embeddings", where, 77),
            vocabulary=integer(config, "vocab_size", where, 49408),
            projection=integer(config, "projection_dim", where, 512) if projected else None,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipVisionSpec:
    """CLIP's image tower with its projection."""

    width: int
    intermediate: int
    layers: int
    heads: int
    activation: Activation
    norm_eps: float
    image_size: int
    patch_size: int
    channels: int
    projection: int

    @property
    def tokens(self) -> int:
        """Number of hidden states per picture: one class token and one per patch."""
        return (self.image_size // self.patch_size) ** 2 + 1

    @classmethod
    def from_config(
        cls, config: Config, where: str = "image_encoder/config.json"
    ) -> ClipVisionSpec:
        """Parse transformers' CLIPVisionConfig; its many generic keys are left unread."""
        width, heads = width_and_heads(config, where, 768, 12)
        return cls(
            width=width,
            intermediate=integer(config, "intermediate_size", where, 3072),
            layers=integer(config, "num_hidden_layers", where, 12, MOST_LAYERS),
            heads=heads,
            activation=_activation(config, where),
            norm_eps=number(config, "layer_norm_eps", where, 1e-5),
            image_size=integer(config, "image_size", where, 224),
            patch_size=integer(config, "patch_size", where, 32),
            channels=integer(config, "num_channels", where, 3),
            projection=integer(config, "projection_dim", where, 512),
        )


def _activation(config: Config, where: str) -> Activation:
    match config.get("hidden_act", "quick_gelu"):
        case "quick_gelu":
            return "quick_gelu"
        case "gelu":
            return "gelu"
        case other:
            raise CheckpointError(
                f"{where}: hidden_act is not supported",
                found=repr(other),
                remedy="quick_gelu or gelu",
            )
