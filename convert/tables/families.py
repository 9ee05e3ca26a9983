"""Telling what a file holds from the names of its tensors: the first row that fits wins."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from . import (
    clip_spellings,
    clip_text,
    clip_vision,
    controlnet,
    ip_adapter,
    t2i_adapter,
    unet,
    vae,
)
from .rules import fits

UNKNOWN = "unknown"
LORA = "LoRA"
SINGLE_FILE = "Stable Diffusion single file"
CONTROLLED = "Stable Diffusion single file with a ControlNet in it"
ORIGINAL_UNET = "Stable Diffusion UNet in the original naming"
ORIGINAL_VAE = "VAE in the original naming"


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
    Family(
        ip_adapter.TITLE, ("**.image_proj_model.**",)
    ),  # of a data-parallel or compiled training
    Family(ip_adapter.TITLE, ("projector.**", "sites.**")),  # converted
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
    # With what a ControlNet has, and more: before it. Tensors of a difference have its names.
    Family("difference of a ControlNet", ("difference",)),
    Family("T2I-Adapter for styles", ("style_embedding", "transformer_layes.**")),
    Family("fuser of T2I-Adapters", ("task_embedding", "seq_proj")),
    Family("ControlNet-Union", ("task_embedding",)),
    Family("ControlNet-Union", ("transformer_layes.**",)),
    Family("ControlNet-Union", ("control_model.task_embedding",)),
    Family("ControlNet-Union", ("control_add_embedding.linear_1.weight",)),
    Family("ControlNet-XS", ("control_to_base_for_conv_in.weight",)),
    Family("SparseCtrl", ("controlnet_cond_embedding.**", "**.motion_modules.**")),
    Family(CONTROLLED, ("control_model.**", "model.diffusion_model.**", "first_stage_model.**")),
    Family(controlnet.TITLE, ("control_model.**",)),
    Family(controlnet.TITLE, ("zero_convs.0.0.weight",)),
    Family(controlnet.TITLE, ("controlnet_cond_embedding.conv_in.weight",)),
    Family(controlnet.TITLE, ("conditioning_embedding.conv_in.weight",)),  # converted
    Family("ControlNet-LLLite", ("*.conditioning1.0.weight",)),
    Family("ControlNeXt", ("down_res.**", "mid_convs.**")),
    Family("ControlNet of a transformer", ("controlnet_blocks.**",)),
    Family(t2i_adapter.TITLE, ("body.0.block1.weight",)),
    Family(t2i_adapter.TITLE, ("body.0.body.0.block1.weight",)),
    Family(t2i_adapter.TITLE, ("adapter.body.0.resnets.0.block1.weight",)),
    Family(t2i_adapter.TITLE, ("body.0.resnets.0.block1.weight",)),  # converted
    # Other families; their single files have the prefixes of Stable Diffusion's.
    *(
        Family(name, (pattern,))
        for name, mark in (
            ("Stable Diffusion 3", "joint_blocks.**"),
            ("Flux", "double_blocks.**"),
            ("LTX-Video", "patchify_proj.**"),
            ("Stable Cascade", "clip_txt_mapper.**"),
            ("a diffusion transformer (PixArt, Hunyuan-DiT, Lumina, …)", "t_embedder.**"),
        )
        for pattern in (mark, f"**.{mark}")
    ),
    *(
        Family(SINGLE_FILE, ("model.diffusion_model.**", part))
        for part in ("first_stage_model.**", "cond_stage_model.**", "conditioner.**")
    ),
    Family(ORIGINAL_UNET, ("model.diffusion_model.**",)),
    Family(ORIGINAL_UNET, ("input_blocks.0.0.weight",)),
    Family(
        unet.TITLE,
        ("conv_in.weight", "time_embedding.linear_1.weight", "down_blocks.**", "up_blocks.**"),
    ),
    Family(vae.TITLE, ("encoder.conv_in.weight", "decoder.conv_in.weight", "encoder.mid_block.**")),
    Family(ORIGINAL_VAE, ("encoder.down.**", "decoder.up.**")),
    Family(ORIGINAL_VAE, ("first_stage_model.**",)),
    *(Family(clip_spellings.WHOLE_TITLE, row.needs) for row in clip_spellings.WHOLE),
    *(Family(clip_vision.TITLE, row.needs) for row in clip_spellings.VISION),
    Family(clip_vision.TITLE, ("class_embedding", "patch_embedding.weight")),  # converted
    Family("CLIP with a convolutional image tower", ("visual.attnpool.**",)),
    *(Family(clip_text.TITLE, row.needs) for row in clip_spellings.TEXT),
    Family(clip_text.TITLE, ("token_embedding.weight", "final_norm.weight")),  # converted
    Family("AnimateDiff motion module", ("**.motion_modules.**",)),
)

SUPPORTED = (
    ip_adapter.TITLE,
    unet.TITLE,
    vae.TITLE,
    clip_text.TITLE,
    clip_vision.TITLE,
    controlnet.TITLE,
    t2i_adapter.TITLE,
    LORA,
    SINGLE_FILE,
    CONTROLLED,
    ORIGINAL_UNET,
    ORIGINAL_VAE,
    clip_spellings.WHOLE_TITLE,
)


def family(names: Iterable[str]) -> str:
    """The family of a file with these tensors, in words; `UNKNOWN` if no row fits."""
    listed = tuple(names)
    return next((row.name for row in FAMILIES if fits(listed, row.needs)), UNKNOWN)
