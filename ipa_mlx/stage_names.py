"""What our modules are called in `ipa.parity.stages`: diffusers' and transformers' names."""

from __future__ import annotations

import re

import mlx.nn as nn

from ipa.parity.stages import INPUTS, input_of, kind_of

_DIFFUSERS = (
    (r"\.conditioning_embedding$", ".controlnet_cond_embedding"),
    (r"\.to_out$", ".to_out.0"),
    (r"\.downsample$", ".downsamplers.0.conv"),
    (r"\.upsample$", ".upsamplers.0.conv"),
    (r"\.ff\.proj_in$", ".ff.net.0.proj"),
    (r"\.ff\.proj_out$", ".ff.net.2"),
    (r"\.time_embedding\.time_proj$", ".time_proj"),
)
_CLIP = (
    (r"\.norm([12])$", r".layer_norm\1"),
    (r"\.attention\.to_([qkv])$", r".self_attn.\1_proj"),
    (r"\.attention\.to_out$", ".self_attn.out_proj"),
    (r"\.attention$", ".self_attn"),
    (r"\.feed_forward\.proj_in$", ".mlp.fc1"),
    (r"\.feed_forward\.proj_out$", ".mlp.fc2"),
    (r"\.feed_forward$", ".mlp"),
    (r"\.patch_embedding$", ".embeddings.patch_embedding"),
    (r"\.pre_norm$", ".pre_layrnorm"),
    (r"\.post_norm$", ".post_layernorm"),
)
_PROJECTORS = {
    "LinearProjector": ((r"\.proj$", ".image_embeds"),),
    "MlpProjector": ((r"\.proj_in$", ".ff.net.0.proj"), (r"\.proj_out$", ".ff.net.2")),
    "FaceProjector": ((r"\.proj_in$", ".ff.net.0.proj"), (r"\.proj_out$", ".ff.net.2")),
    "FacePlusProjector": (
        (r"\.face\.proj_in$", ".proj.net.0.proj"),
        (r"\.face\.proj_out$", ".proj.net.2"),
        (r"\.face\.norm$", ".norm"),
        (r"\.resampler\.", "."),
    ),
}
_LAYERS = (
    (r"(\.layers\.\d+)\.norm_states$", r"\1.ln0"),
    (r"(\.layers\.\d+)\.norm_latents$", r"\1.ln1"),
    (r"(\.layers\.\d+)\.to_q$", r"\1.attn.to_q"),
    (r"(\.layers\.\d+)\.to_out$", r"\1.attn.to_out.0"),
    (r"(\.layers\.\d+)\.norm_ff$", r"\1.ff.0"),
    (r"(\.layers\.\d+)\.proj_out$", r"\1.ff.1.net.2"),
)
_TOWERS = {
    "text_encoder": ((r"\.projection$", ".text_projection"), *_CLIP),
    "text_encoder_2": ((r"\.projection$", ".text_projection"), *_CLIP),
    "image_encoder": ((r"\.projection$", ".visual_projection"), *_CLIP),
}

MORE_INPUTS = {
    "mlp.fc2": "mlp.activation_fn",
    "net.2": "net.0",
    "text_encoder.layers.0": "text_encoder.embeddings",
    "text_encoder_2.layers.0": "text_encoder_2.embeddings",
    "pre_layrnorm": "embeddings",
}
"""Beside `ipa.parity.stages.INPUTS`: what is a module of its own over there."""


def stage_name(component: str, path: str, network: nn.Module) -> str | None:
    """What a module, or its input, is called; None where neither is a stage."""
    name = f"{component}.{path}"
    for pattern, instead in _names(component, network):
        name, found = re.subn(pattern, instead, name)
        if found and component != "projector":
            break
    known = kind_of(name) is not None or input_of(name, INPUTS | MORE_INPUTS) is not None
    return name if known else None


def _names(component: str, network: nn.Module) -> tuple[tuple[str, str], ...]:
    if component == "projector":
        return _PROJECTORS.get(type(network).__name__, ()) + _LAYERS
    return _TOWERS.get(component, _DIFFUSERS)
