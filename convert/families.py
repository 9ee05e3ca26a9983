"""Telling what a file holds from the names of its tensors: the first row that fits wins."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from . import clip_text, clip_vision, ip_adapter, unet, vae
from .rules import compile_pattern

UNKNOWN = "unknown"
LORA = "LoRA"


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of file: every pattern (see `rules`) must match some name."""

    name: str
    needs: tuple[str, ...]


FAMILIES = (
    Family(ip_adapter.TITLE, ("image_proj.**",)),
    Family(ip_adapter.TITLE, ("ip_adapter.**",)),
    Family(ip_adapter.TITLE, ("image_proj_model.**",)),
    Family(ip_adapter.TITLE, ("adapter_modules.**",)),
    Family("LoHa", ("**.hada_w1_a",)),
    Family("LoKr", ("**.lokr_w1",)),
    Family("LoKr", ("**.lokr_w1_a",)),
    Family("OFT", ("**.oft_blocks",)),
    Family("OFT", ("**.oft_diag",)),
    Family("OFT", ("**.oft_R.**",)),
    Family("full-difference network", ("**.diff",)),
    Family("full-difference network", ("**.diff_b",)),
    Family("DoRA", ("**.dora_scale",)),
    Family("DoRA", ("**.lora_magnitude_vector",)),
    Family("DoRA", ("**.lora_magnitude_vector.**",)),
    Family("LoCon with a Tucker decomposition", ("**.lora_mid.weight",)),
    Family("Control-LoRA", ("lora_controlnet",)),
    Family(LORA, ("**.lora_down.weight",)),
    Family(LORA, ("**.lora_A.weight",)),
    Family(LORA, ("**.lora_A.*.weight",)),
    Family(LORA, ("**.lora.down.weight",)),
    Family(LORA, ("**.lora_linear_layer.down.weight",)),
    Family(LORA, ("**.to_q_lora.down.weight",)),
    Family(LORA, ("**.to_k_lora.down.weight",)),
    Family(LORA, ("**.to_v_lora.down.weight",)),
    Family(LORA, ("**.to_out_lora.down.weight",)),
    Family("ControlNet-Union", ("task_embedding",)),
    Family("ControlNet-Union", ("control_add_embedding.linear_1.weight",)),
    Family("ControlNet", ("control_model.**",)),
    Family("ControlNet", ("zero_convs.0.0.weight",)),
    Family("ControlNet", ("controlnet_cond_embedding.conv_in.weight",)),
    Family("difference of a ControlNet", ("difference",)),
    Family("Stable Diffusion single file", ("model.diffusion_model.**",)),
    Family("Stable Diffusion UNet in the original naming", ("input_blocks.0.0.weight",)),
    Family(
        unet.TITLE,
        ("conv_in.weight", "time_embedding.linear_1.weight", "down_blocks.**", "up_blocks.**"),
    ),
    Family(vae.TITLE, ("encoder.conv_in.weight", "decoder.conv_in.weight", "encoder.mid_block.**")),
    Family("VAE in the original naming", ("encoder.down.**", "decoder.up.**")),
    Family("VAE in the original naming", ("first_stage_model.**",)),
    Family(
        "whole CLIP model", ("vision_model.embeddings.class_embedding", "text_model.embeddings.**")
    ),
    Family(clip_vision.TITLE, ("vision_model.embeddings.class_embedding",)),
    Family(clip_vision.TITLE, ("class_embedding", "patch_embedding.weight")),  # converted
    Family("CLIP in OpenCLIP's naming", ("visual.conv1.weight",)),
    Family(clip_text.TITLE, ("text_model.embeddings.token_embedding.weight",)),
    Family(clip_text.TITLE, ("embeddings.token_embedding.weight", "encoder.layers.**")),
    Family(clip_text.TITLE, ("token_embedding.weight", "final_norm.weight")),  # converted
    Family("Stable Diffusion 3", ("**.joint_blocks.**",)),
    Family("Stable Diffusion 3", ("joint_blocks.**",)),
    Family("Flux", ("**.double_blocks.**",)),
    Family("Flux", ("double_blocks.**",)),
    Family("AnimateDiff motion module", ("**.motion_modules.**",)),
)

SUPPORTED = (ip_adapter.TITLE, unet.TITLE, vae.TITLE, clip_text.TITLE, clip_vision.TITLE, LORA)


def family(names: Iterable[str]) -> str:
    """What the file with these tensors holds, in words; `UNKNOWN` if no row fits."""
    known = tuple(names)

    def present(pattern: str) -> bool:
        matches = compile_pattern(pattern).fullmatch
        return any(matches(name) for name in known)

    return next((row.name for row in FAMILIES if all(map(present, row.needs))), UNKNOWN)
