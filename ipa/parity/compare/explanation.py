"""Explanations of stages, in words for those who have not read the code."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

Words: TypeAlias = Sequence[tuple[str, str]]
"""Patterns, and the words for what they match; {0} is the first group."""

_PHASES: Words = (
    (r"encode", "while the starting picture is encoded"),
    (r"start", "before the first step"),
    (r"text\.(\w+)", "while the {0} text is encoded"),
    (r"image\.(\d+)", "while image prompt {0} is encoded"),
    (r"condition", "while what all steps share is computed"),
    (r"step\.0*(\d+)", "at step {0}"),
    (r"decode", "while the picture is decoded"),
)

_RESULTS: Words = (
    (r"encode/mean", "the starting picture in the VAE's space"),
    (r"encode/deviation", "how sure the VAE is of the starting picture"),
    (r"start/latents", "the latents that the run starts from"),
    (r"text\.(\w+)/states", "the {0} text as the UNet attends to it"),
    (r"text\.(\w+)/pooled", "the {0} text, pooled"),
    (r"image\.(\d+)/pixels", "image prompt {0}'s pixels as its encoder takes them"),
    (r"image\.(\d+)/features\.conditional", "what the encoder says of image prompt {0}"),
    (r"image\.\d+/features\.unconditional", "what the encoder says of the picture against it"),
    (r"image\.(\d+)/tokens\.conditional", "image prompt {0}'s tokens, made by the projector"),
    (r"image\.\d+/tokens\.unconditional", "the tokens that stand against the image prompt"),
    (r"condition/text\.(keys|values)\..*", "the text's {0} at one cross-attention"),
    (r"condition/image\.(\d+)\.(keys|values)\..*", "image prompt {0}'s {1} at one cross-attention"),
    (r"condition/image\.(\d+)\..*\.to_k", "image prompt {0}'s keys at one cross-attention"),
    (r"condition/image\.(\d+)\..*\.to_v", "image prompt {0}'s values at one cross-attention"),
    (r"condition/image\.(\d+)\..*\.mask", "image prompt {0}'s mask at one cross-attention"),
    (r"condition/sizes", "SDXL's six numbers of every text"),
    (r"step\.\d+/timestep", "the timestep that the networks are given"),
    (r"step\.\d+/prediction", "what the UNet predicts"),
    (r"step\.\d+/guided", "the prediction after guidance"),
    (r"step\.\d+/denoised", "the estimate of the finished latents"),
    (r"step\.\d+/latents", "the latents after the step"),
    (r"decode/image", "the finished picture"),
)

_NETWORKS: Words = (
    (r"unet\.", "in the UNet"),
    (r"controlnet\.(\w+)\.", "in the ControlNet “{0}”"),
    (r"vae\.(encoder|decoder)\.", "in the VAE's {0}"),
    (r"vae\.", "in the VAE"),
    (r"text_encoder\.", "in the text encoder"),
    (r"text_encoder_2\.", "in the second text encoder"),
    (r"image_encoder\.", "in the image encoder"),
    (r"projector\.", "in the adapter's projector"),
)

# The end of a module's name, the more particular first.
_MODULES: Words = (
    (r"attn2\.image\.(\d+)", "image prompt {0}'s branch of cross-attention"),
    (r"attn2\.text", "the text's branch of cross-attention"),
    (r"attn2\.to_q", "cross-attention's queries"),
    (r"attn2\.to_k", "the text's keys in cross-attention"),
    (r"attn2\.to_v", "the text's values in cross-attention"),
    (r"attn2\.attended", "the branches of cross-attention, added up"),
    (r"attn2\.to_out\.0", "cross-attention's output projection"),
    (r"attn2", "cross-attention"),
    (r"(?:attn1|self_attn|attn|attentions\.\d+)\.(?:to_q|q_proj)", "self-attention's queries"),
    (r"(?:attn1|self_attn|attn|attentions\.\d+)\.(?:to_k|k_proj)", "self-attention's keys"),
    (r"(?:attn1|self_attn|attn|attentions\.\d+)\.(?:to_v|v_proj)", "self-attention's values"),
    (
        r"(?:attn1|self_attn|attn|attentions\.\d+)\.attended",
        "self-attention before its output projection",
    ),
    (
        r"(?:attn1|self_attn|attn|attentions\.\d+)\.(?:to_out\.0|out_proj)",
        "self-attention's output projection",
    ),
    (r"attn1|self_attn|attn", "self-attention"),
    (r"transformer_blocks\.\d+\.norm1|layer_norm1", "the norm before self-attention"),
    (r"transformer_blocks\.\d+\.norm2", "the norm before cross-attention"),
    (r"transformer_blocks\.\d+\.norm3|layer_norm2", "the norm before the feed-forward"),
    (r"ff\.0", "the norm before the feed-forward"),
    (r"ff\.net\.0\.proj|mlp\.fc1", "the feed-forward's first projection"),
    (r"ff\.net\.0|mlp\.activation_fn", "the feed-forward's activation"),
    (r"ff\.net\.2|mlp\.fc2", "the feed-forward's second projection"),
    (r"ff|mlp", "the feed-forward"),
    (r"transformer_blocks\.\d+", "a transformer block"),
    (r"attentions\.\d+\.(?:norm|group_norm)", "a transformer's group norm"),
    (r"attentions\.\d+\.proj_in", "a transformer's input projection"),
    (r"attentions\.\d+\.proj_out", "a transformer's output projection"),
    (r"attentions\.(\d+)", "transformer {0} of its block"),
    (r"resnets\.\d+\.norm1", "a resnet's first group norm"),
    (r"resnets\.\d+\.norm2", "a resnet's second group norm"),
    (r"conv1\.input", "a resnet's first norm, activated"),
    (r"conv2\.input", "a resnet's second norm, activated"),
    (r"conv1", "a resnet's first convolution"),
    (r"conv2", "a resnet's second convolution"),
    (r"time_emb_proj", "the timestep as a resnet takes it"),
    (r"conv_shortcut", "a resnet's shortcut convolution"),
    (r"resnets\.(\d+)", "resnet {0} of its block"),
    (r"downsamplers\.0(?:\.conv)?", "the halving of the size"),
    (r"upsamplers\.0(?:\.conv)?", "the doubling of the size"),
    (r"controlnet_down_blocks\.(\d+)", "result {0} for the UNet"),
    (r"controlnet_mid_block", "the middle's result for the UNet"),
    (r"controlnet_cond_embedding", "the control picture, embedded"),
    (r"down_blocks\.(\d+)", "all of down block {0}"),
    (r"mid_block", "all of the middle block"),
    (r"up_blocks\.(\d+)", "all of up block {0}"),
    (r"time_proj", "the timestep as sines and cosines"),
    (r"time_embedding\.linear_(\d)", "the timestep's embedding, layer {0}"),
    (r"time_embedding", "the timestep, embedded"),
    (r"add_embedding\.input", "SDXL's pooled text, and its sizes as sines and cosines"),
    (r"add_embedding(?:\.linear_\d)?", "SDXL's sizes and pooled text, embedded"),
    (r"(?:post_)?quant_conv(?:\.input)?", "the convolution beside the latents"),
    (r"conv_in\.input", "what enters"),
    (r"conv_in", "the first convolution"),
    (r"conv_norm_out", "the last norm"),
    (r"conv_out\.input", "the last norm, activated"),
    (r"conv_out", "the last convolution"),
    (r"embeddings\.patch_embedding", "the picture's patches, embedded"),
    (r"embeddings", "words or patches with their positions"),
    (r"pixels", "the pixels as the tower takes them"),
    (r"pre_layrnorm", "the norm before the first layer"),
    (r"post_layernorm|final_layer_norm", "the norm after the last layer"),
    (r"text_projection|visual_projection", "the projection into CLIP's shared space"),
    (r"layers\.\d+\.attn\.to_q", "the queries"),
    (r"layers\.\d+\.ln0", "the norm of the image states"),
    (r"layers\.\d+\.ln1", "the norm of the queries"),
    (r"layers\.(\d+)", "layer {0}"),
    (r"image_embeds|proj|(?:ff|proj)\.net\.\S+", "a projection"),
    (r"proj_in", "the input projection"),
    (r"proj_out", "the output projection"),
    (r"norm_out|norm", "the last norm"),
)


def explain_stage(name: str) -> str:
    """A stage in words: "image prompt 0's branch of cross-attention, in the UNet".

    Of a name that nobody knows, that it is a stage; a later run of a module in the same phase is
    told by its number. The phase is `explain_phase`'s part.
    """
    whole, _, run = name.partition("@")
    again = f" (run {run} in its phase)" if run else ""
    path = whole.partition("/")[2]
    result = _said(_RESULTS, whole)
    if result is not None:
        return result + again
    for pattern, where in _NETWORKS:
        network = re.match(pattern, path)
        if network is not None:
            part = _end_said(path[network.end() :])
            return f"{part}, {where.format(*network.groups())}{again}"
    return f"a stage of the run{again}"


def explain_phase(name: str) -> str:
    """A phase in words: "at step 12"; "in <phase>" for one that is not known."""
    phase = name.partition("/")[0]
    return _said(_PHASES, phase) or f"in {phase}"


def _said(words: Words, text: str) -> str | None:
    for pattern, meaning in words:
        found = re.fullmatch(pattern, text)
        if found is not None:
            return meaning.format(*found.groups())
    return None


def _end_said(path: str) -> str:
    for pattern, meaning in _MODULES:
        found = re.search(rf"(?:^|\.)(?:{pattern})$", path)
        if found is not None:
            return meaning.format(*found.groups())
    return "a part"
