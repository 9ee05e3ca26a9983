"""The structures of CLIP's towers, from their configs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from ipa.errors import CheckpointError, shown

from .config import MOST_LAYERS, QUANTIZED, Config, Keys, integer, number, width_and_heads

Activation = Literal["quick_gelu", "gelu"]


_VAE_KEYS = Keys(
    read=frozenset(
        {
            "in_channels",
            "out_channels",
            "latent_channels",
            "block_out_channels",
            "down_block_types",
            "up_block_types",
            "layers_per_block",
            "norm_num_groups",
            "mid_block_add_attention",
            "use_quant_conv",
            "use_post_quant_conv",
            "scaling_factor",
            "force_upcast",
            "sample_size",
        }
    ),
    fixed={
        **QUANTIZED,
        "act_fn": "silu",
        "latents_mean": None,
        "latents_std": None,
        "shift_factor": None,
    },
)


_CLIP_READ = frozenset(
    {
        "architectures",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "hidden_act",
        "layer_norm_eps",
        "projection_dim",
    }
)


# What transformers' configs of every model hold: notes, and settings of training, of texts that are
# written, and of what a call returns. Versions 4 wrote all of them, versions 5 write a few.
_GENERIC_KEYS = """
    add_cross_attention attention_dropout bad_words_ids begin_suppress_tokens bos_token_id
    chunk_size_feed_forward cross_attention_hidden_size decoder_start_token_id diversity_penalty
    do_sample dropout dtype early_stopping encoder_no_repeat_ngram_size eos_token_id
    exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id
    gradient_checkpointing id2label initializer_factor initializer_range is_decoder
    is_encoder_decoder label2id length_penalty max_length min_length model_type
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_attentions
    output_hidden_states output_scores pad_token_id prefix problem_type pruned_heads
    remove_invalid_values repetition_penalty return_dict return_dict_in_generate sep_token_id
    suppress_tokens task_specific_params temperature tf_legacy_loss tie_encoder_decoder
    tie_word_embeddings tokenizer_class top_k top_p torch_dtype torchscript transformers_version
    typical_p use_bfloat16 use_cache use_return_dict
"""


_GENERIC = frozenset(_GENERIC_KEYS.split())


_TEXT_KEYS = Keys(
    read=_CLIP_READ | {"max_position_embeddings", "vocab_size"}, fixed=QUANTIZED, inert=_GENERIC
)


_VISION_KEYS = Keys(
    read=_CLIP_READ | {"image_size", "patch_size", "num_channels"},
    # A config of both towers: transformers would read the vision tower's part of it.
    fixed={**QUANTIZED, "text_config": None, "vision_config": None},
    inert=_GENERIC,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipTextSpec:
    """The structure of a CLIP text encoder."""

    keys: ClassVar[Keys] = _TEXT_KEYS

    width: int
    intermediate: int
    layers: int
    heads: int
    activation: Activation
    norm_eps: float
    positions: int
    vocabulary: int
    projection: int | None  # None: the class without text_projection
    end_token: int | None  # whose row is projected; 2, a mistake of old configs: the largest id's
    unread: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def from_config(cls, config: Config, where: str = "text_encoder/config.json") -> ClipTextSpec:
        """Parse transformers' CLIPTextConfig; its many generic keys are left unread."""
        unread = cls.keys.check(config, where)
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
            end_token=integer(config, "eos_token_id", where, 49407, least=0) if projected else None,
            unread=unread,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipVisionSpec:
    """The structure of a CLIP image encoder with its projection."""

    keys: ClassVar[Keys] = _VISION_KEYS

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
    unread: tuple[str, ...] = field(default=(), compare=False)

    @property
    def tokens(self) -> int:
        """Number of hidden states per picture: one class token and one per patch."""
        return (self.image_size // self.patch_size) ** 2 + 1

    @classmethod
    def from_config(
        cls, config: Config, where: str = "image_encoder/config.json"
    ) -> ClipVisionSpec:
        """Parse transformers' CLIPVisionConfig; its many generic keys are left unread."""
        unread = cls.keys.check(config, where)
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
            unread=unread,
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
                found=shown(other),
                remedy="quick_gelu or gelu",
            )
