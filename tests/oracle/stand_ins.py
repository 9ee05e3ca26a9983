"""Small models in the places of the public ones that pages name: repositories and files."""

from __future__ import annotations

import shutil
from pathlib import Path

import safetensors.torch
import torch

from oracle import models
from oracle.adapters import face_tensors
from oracle.controlled import write_controlnet
from oracle.t2i_adapters import write_t2i_adapter
from oracle.workshop import XL, Workshop

SD15 = models.Tiny(unet=dict(models.FOUR_LEVELS))


def _nested(tensors: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """As the original repository's files are."""
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = tensor
    return parts


def _without_encoder(folder: Path, target: Path, variant: str = "") -> Path:
    """A base model as it is published, which has no encoder of pictures."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("image_encoder"))
    for file in target.glob("*/*.safetensors") if variant else ():
        file.rename(file.with_suffix(f".{variant}.safetensors"))
    return target


def repositories(workshop: Workshop, root: Path) -> dict[str, Path]:
    """By name on the hub."""
    small, xl = workshop.model("sd15", SD15, seed=3), workshop.model("tiny_xl", XL, seed=6)
    adapters = root / "adapters"
    for folder, model, names in (
        ("models", small, ("ip-adapter-plus_sd15", "ip-adapter-plus-face_sd15")),
        ("sdxl_models", xl, ("ip-adapter-plus_sdxl_vit-h",)),
    ):
        (adapters / folder).mkdir(parents=True)
        for name in names:
            shutil.copy(model / "plus.safetensors", adapters / folder / f"{name}.safetensors")
    shutil.copytree(small / "image_encoder", adapters / "models" / "image_encoder")
    faces = root / "faces"
    faces.mkdir()
    for name, kind in (("faceid-plusv2", "faceid_plus"), ("faceid", "faceid")):
        tensors = face_tensors(SD15.unet, kind, rank=2, states=models.VISION["hidden_size"])
        torch.save(_nested(tensors), faces / f"ip-adapter-{name}_sd15.bin")
    write_controlnet(root / "canny", SD15.unet, seed=1)
    write_t2i_adapter(root / "t2i", 2, channels=SD15.unet["block_out_channels"])
    return {
        "h94/IP-Adapter": adapters,
        "h94/IP-Adapter-FaceID": faces,
        "lllyasviel/control_v11p_sd15_canny": root / "canny",
        "TencentARC/t2iadapter_canny_sd14v1": root / "t2i",
        "madebyollin/sdxl-vae-fp16-fix": xl / "vae",
        "stable-diffusion-v1-5/stable-diffusion-v1-5": _without_encoder(
            small, root / "small", "fp16"
        ),
        "stabilityai/stable-diffusion-xl-base-1.0": _without_encoder(xl, root / "xl", "fp16"),
    }


def write_files(workshop: Workshop, folder: Path) -> None:
    """What a reader has on the disk: a model (here a folder of the name of its file), an adapter
    with its encoder, and a LoRA."""
    xl = workshop.model("tiny_xl", XL, seed=6)
    _without_encoder(xl, folder / "my_model.safetensors")
    (folder / "models").mkdir()
    shutil.copy(
        xl / "plus.safetensors", folder / "models" / "ip-adapter-plus_sdxl_vit-h.safetensors"
    )
    shutil.copytree(xl / "image_encoder", folder / "models" / "image_encoder")
    width = SD15.unet["block_out_channels"][0]
    layer = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    generator = torch.Generator().manual_seed(1)
    pair = {
        f"{layer}.lora_A.weight": torch.randn(2, width, generator=generator),
        f"{layer}.lora_B.weight": torch.randn(width, 2, generator=generator),
    }
    safetensors.torch.save_file(pair, folder / "pixel.safetensors")
