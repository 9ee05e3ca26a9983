"""OpenCLIP's spelling of CLIP's towers, which is OpenAI's original one, into transformers'.

Source: open_clip's `CLIP` in model.py, `TextTransformer` and `VisionTransformer` in transformer.py.
Queries, keys and values lie in one matrix, in this order, as in `nn.MultiheadAttention`. The
projections are parameters (in, out) that multiply from the right; ComfyUI saves some of them as
linear layers (out, in). The suffix `.weight` tells which: public ones are square.
"""

from __future__ import annotations

from .rules import Drop, Rename
from .spelling import Alias, Split, Turned


def _layers(source: str, target: str) -> tuple[Alias, ...]:
    """Names of a tower's layers, from `{source}.0` on."""
    here, there = f"{source}.#", f"{target}.#"
    return (
        *(
            Split(
                f"{here}.attn.in_proj_{kind}",
                tuple(f"{there}.self_attn.{part}_proj.{kind}" for part in "qkv"),
            )
            for kind in ("weight", "bias")
        ),
        Rename(f"{here}.attn.out_proj.*", f"{there}.self_attn.out_proj.*"),
        Rename(f"{here}.ln_1.*", f"{there}.layer_norm1.*"),
        Rename(f"{here}.ln_2.*", f"{there}.layer_norm2.*"),
        Rename(f"{here}.mlp.c_fc.*", f"{there}.mlp.fc1.*"),
        Rename(f"{here}.mlp.c_proj.*", f"{there}.mlp.fc2.*"),
    )


TEXT: tuple[Alias, ...] = (
    Rename("token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
    Rename("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    *_layers("transformer.resblocks", "text_model.encoder.layers"),
    Rename("ln_final.*", "text_model.final_layer_norm.*"),
    Turned(Rename("text_projection", "text_projection.weight")),
)

VISION: tuple[Alias, ...] = (
    Rename("visual.class_embedding", "vision_model.embeddings.class_embedding"),
    Rename("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    Rename("visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight"),
    Rename("visual.ln_pre.*", "vision_model.pre_layrnorm.*"),
    *_layers("visual.transformer.resblocks", "vision_model.encoder.layers"),
    Rename("visual.ln_post.*", "vision_model.post_layernorm.*"),
    Turned(Rename("visual.proj", "visual_projection.weight")),
)

_SIZES = "a size that OpenAI's files repeat as a number: no weights"
DROPS = (
    Drop("logit_scale", "the temperature of CLIP's training; no network computes with it"),
    Drop("attn_mask", "the causal mask, which is computed: no weights"),
    Drop("input_resolution", _SIZES),
    Drop("context_length", _SIZES),
    Drop("vocab_size", _SIZES),
)
"""Tensors that belong to neither tower."""
