"""What a file or folder is said to hold."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from transformers import CLIPConfig, CLIPModel

from ipa.errors import CheckpointError
from ipa.sources.model_folder import open_model_folder
from ipa_convert import convert_model, inspect
from ipa_convert.tables.families import FAMILIES, SUPPORTED, UNKNOWN, family
from oracle import models
from oracle.containers import save, save_shards, write_sparse

SD15: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
SDXL: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", *["CrossAttnDownBlock2D"] * 2),
    "up_block_types": (*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
Shapes = dict[str, tuple[int, ...]]


def shapes(module: type, **config: Any) -> Shapes:
    with torch.device("meta"):
        return {name: tuple(v.shape) for name, v in module(**config).state_dict().items()}


@pytest.mark.parametrize(
    ("config", "variant", "base", "parameters"),
    [
        (SD15, "text to image", "SD1.5", 859_520_964),
        (SD15 | {"in_channels": 9}, "inpainting", "SD1.5", None),
        (SD15 | {"in_channels": 8}, "instruct-pix2pix", "SD1.5", None),
        (SD15 | {"in_channels": 6}, "6 input channels", "SD1.5", None),
        (SD15 | {"cross_attention_dim": 1024}, "text to image", "SD2", None),
        (SDXL, "text to image", "SDXL", 2_567_463_684),
        (models.UNET, "text to image", "context width 40", None),
    ],
)
def test_unets(
    config: dict[str, Any], variant: str, base: str, parameters: int | None, tmp_path: Path
) -> None:
    listed = shapes(UNet2DConditionModel, **config)
    found = inspect(write_sparse(tmp_path / "a.safetensors", listed, "F16"))
    assert (found.kind, found.family) == ("file", "Stable Diffusion UNet")
    assert (found.variant, found.base, found.converted) == (variant, base, False)
    assert parameters in (None, found.parameters)
    assert found.dtypes == {"F16": len(listed)}
    assert found.bytes == 2 * found.parameters


def adapter(kind: str, context: int, sizes: dict[str, int]) -> Shapes:
    """One site is enough: what is told of the variant does not depend on their number."""
    tensors = models.adapter_tensors(kind, [(1, 64)], context=context, **sizes)
    return {name: tuple(value.shape) for name, value in tensors.items()}


PLUS = {"feature": 1280, "width": 768, "tokens": 16}
FACE = {
    "image_proj.proj.0.weight": (1024, 512),
    "image_proj.proj.2.weight": (3072, 1024),
    "image_proj.norm.weight": (768,),
    "ip_adapter.1.to_k_ip.weight": (320, 768),
}


@pytest.mark.parametrize(
    ("listed", "variant", "base", "encoder", "remark"),
    [
        (
            adapter("linear", 768, {"feature": 1024}),
            "base, light or light-v11",
            "SD1.5",
            "ViT-H/14",
            "4 tokens",
        ),
        (adapter("linear", 768, {"feature": 1280}), "vit-g", "SD1.5", "bigG", "4 tokens"),
        (adapter("linear", 2048, {"feature": 1280}), "linear (base)", "SDXL", "bigG", "1 cross"),
        (adapter("linear", 2048, {"feature": 1024}), "vit-h", "SDXL", "ViT-H", "1 cross"),
        (adapter("resampler", 768, PLUS), "plus, plus-face", "SD1.5", "ViT-H", "16 tokens"),
        (adapter("resampler", 2048, PLUS), "plus, plus-face", "SDXL", "ViT-H", "16 tokens"),
        (adapter("mlp", 768, {"feature": 1280}), "full-face", "SD1.5", "ViT-H", "one per patch"),
        (
            adapter("resampler", 2048, PLUS | {"feature": 512}),
            "instantid",
            "SDXL",
            "ArcFace",
            "face",
        ),
        (FACE, "(faceid-portrait or faceid-portrait-v11)", "SD1.5", "ArcFace", "do not tell"),
        (
            FACE | {"ip_adapter.0.to_q_lora.down.weight": (128, 320)},
            "(faceid)",
            "SD1.5",
            "ArcFace",
            "LoRA of rank 128",
        ),
        ({"ip_adapter.1.to_k_ip.weight": (320, 768)}, "unknown", "SD1.5", "", "not supported"),
        ({"image_proj.proj.weight": (320, 768)}, "unknown", "", "", "not supported"),
    ],
)
def test_adapters(
    listed: Shapes, variant: str, base: str, encoder: str, remark: str, tmp_path: Path
) -> None:
    found = inspect(write_sparse(tmp_path / "a.safetensors", listed))
    assert found.family == "IP-Adapter"
    assert variant in found.variant
    assert found.base == base
    assert encoder in found.encoder
    assert remark in " ".join(found.remarks)


def test_a_training_checkpoint(tmp_path: Path) -> None:
    """The frozen UNet's own keys do not tell the adapter's base."""
    listed = {
        "unet.a.attn1.to_k.weight": (320, 320),
        "unet.a.attn2.to_k.weight": (320, 1024),
        "image_proj_model.proj.weight": (3072, 1024),
        "adapter_modules.1.to_k_ip.weight": (320, 768),
    }
    found = inspect(write_sparse(tmp_path / "a.safetensors", listed))
    assert (found.family, found.base) == ("IP-Adapter", "SD1.5")
    assert found.remarks[:2] == ("1 cross-attention sites", "4 tokens per picture")


def test_a_model(tiny: Path) -> None:
    found = inspect(tiny)
    assert (found.kind, found.family) == ("model", "Stable Diffusion model")
    kinds = {part.name: part.family for part in found.parts}
    assert kinds == {
        "full.safetensors": "IP-Adapter",
        "linear.safetensors": "IP-Adapter",
        "plus.safetensors": "IP-Adapter",
        "image_encoder/model.safetensors": "CLIP image encoder",
        "text_encoder/model.safetensors": "CLIP text encoder",
        "unet/diffusion_pytorch_model.safetensors": "Stable Diffusion UNet",
        "vae/diffusion_pytorch_model.safetensors": "VAE",
    }
    for total in ("tensors", "parameters", "bytes"):
        assert getattr(found, total) == sum(getattr(part, total) for part in found.parts)
    assert json.loads(json.dumps(asdict(found)))["parts"][0]["name"] == "full.safetensors"


def test_a_converted_model(tiny: Path, tmp_path: Path) -> None:
    model = open_model_folder(tiny, name="tiny")
    found = inspect(convert_model(model, tmp_path / "converted", dtype="bfloat16"))
    assert found.converted
    assert found.dtypes == {"BF16": found.tensors}
    for part in found.parts:
        before = inspect(tiny / part.name)
        assert (part.family, part.variant, part.base) == (
            before.family,
            before.variant,
            before.base,
        )
        assert (part.tensors, part.parameters) == (before.tensors, before.parameters)


def test_a_component(tiny: Path) -> None:
    found = inspect(str(tiny / "vae"))
    assert (found.kind, found.family, len(found.parts)) == ("component", "VAE", 1)
    assert "scaling factor" in " ".join(found.remarks)


def test_a_folder_of_adapters(tmp_path: Path) -> None:
    for name, kind in (("a", "linear"), ("b", "mlp")):
        write_sparse(tmp_path / f"{name}.safetensors", adapter(kind, 768, {"feature": 1280}))
    (tmp_path / "c.bin").write_bytes(b"PK\x03\x04")
    found = inspect(tmp_path)
    assert (found.kind, found.family, found.base) == ("folder", "IP-Adapter", "SD1.5")
    assert [part.name for part in found.parts] == ["a.safetensors", "b.safetensors"]
    assert found.remarks == ("c.bin: not read (an archive without an end, or with bytes after it)",)


def test_shards_are_one_part(tmp_path: Path) -> None:
    tensors = AutoencoderKL(**models.VAE).state_dict()
    save_shards(tmp_path, "diffusion_pytorch_model", tensors, 3, "fp16")
    found = inspect(tmp_path)
    assert [part.tensors for part in found.parts] == [len(tensors)]
    assert found.family == "VAE"
    next(tmp_path.glob("*.json")).unlink()
    assert len(inspect(tmp_path).parts) == 3  # without their index: three files


def test_integers_are_no_parameters(tmp_path: Path) -> None:
    tensors = {
        "text_model.embeddings.token_embedding.weight": torch.ones(5, 768),
        "text_model.embeddings.position_ids": torch.arange(77),
    }
    found = inspect(save(tmp_path / "a.safetensors", tensors))
    assert (found.tensors, found.parameters) == (2, 5 * 768)
    assert found.dtypes == {"F32": 1, "I64": 1}
    assert "SD1.5" in found.variant


def test_networks_of_others() -> None:
    with torch.device("meta"):
        control = ControlNetModel(block_out_channels=(32,) * 4).state_dict()
        clip = CLIPModel(CLIPConfig()).state_dict()
    assert family(control) == "ControlNet"
    assert family(clip) == "whole CLIP model"


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["lora_unet_mid_block.lora_down.weight", "lora_unet_mid_block.alpha"], "LoRA"),
        (["unet.down_blocks.0.attn1.to_q.lora_A.weight"], "LoRA"),
        (["unet.to_q_lora.down.weight", "unet.to_q.lora.down.weight"], "LoRA"),
        (["lora_unet_x.hada_w1_a", "lora_unet_x.lora_down.weight"], "LoHa"),
        (["model.diffusion_model.out.0.bias"], "Stable Diffusion UNet in the original naming"),
        (
            ["model.diffusion_model.out.0.bias", "first_stage_model.x"],
            "Stable Diffusion single file",
        ),
        (["model.diffusion_model.joint_blocks.0.x", "first_stage_model.x"], "Stable Diffusion 3"),
        (["model.diffusion_model.double_blocks.0.x", "vae.x"], "Flux"),
        (["model.diffusion_model.out.0.bias", "control_model.x"], "ControlNet"),
        (["input_blocks.0.0.weight"], "Stable Diffusion UNet in the original naming"),
        (["encoder.down.0.x", "decoder.up.0.x"], "VAE in the original naming"),
        (["visual.class_embedding"], "CLIP image encoder"),
        (["visual.class_embedding", "transformer.resblocks.0.x"], "whole CLIP model"),
        (["visual.attnpool.x", "visual.conv1.weight"], "CLIP with a convolutional image tower"),
        (["token_embedding.weight", "transformer.resblocks.0.x"], "CLIP text encoder"),
        (["embeddings.token_embedding.weight", "encoder.layers.0.x"], "CLIP text encoder"),
        (["double_blocks.0.x"], "Flux"),
        (["conv_in.weight"], UNKNOWN),
        ([], UNKNOWN),
    ],
)
def test_families(names: list[str], kind: str) -> None:
    assert family(names) == kind


def test_every_supported_family_is_recognised() -> None:
    assert set(SUPPORTED) <= {row.name for row in FAMILIES}


def a1111(name: str, rows: torch.Tensor) -> dict[str, Any]:
    """As its training writes a word: the embeddings, and how they were made."""
    parameter = torch.nn.Parameter(rows)
    return {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": parameter},
        "name": name,
        "step": 900,
        "sd_checkpoint": None,
    }


@pytest.mark.parametrize(
    ("file", "contents", "variant", "base", "word"),
    [
        (
            "a.pt",
            {
                "string_to_token": {"*": torch.tensor(265)},
                "string_to_param": torch.nn.ParameterDict({"*": torch.ones(2, 768)}),
            },
            "2 embeddings",
            "SD1.5",
            "any other",
        ),
        ("a.pt", torch.ones(2, 1024), "2 embeddings", "SD2", "any other"),
        ("a.safetensors", {"<cat>": torch.ones(768)}, "one embedding", "SD1.5", "'<cat>'"),
        ("a.bin", {"cat": torch.ones(2, 1024)}, "2 embeddings", "SD2", "'cat'"),
        ("a.safetensors", {"emb_params": torch.ones(3, 768)}, "3 embeddings", "SD1.5", "any other"),
        ("a.pt", a1111("cat", torch.ones(2, 768)), "2 embeddings", "SD1.5", "'cat'"),
        (
            "a.safetensors",
            {"clip_l": torch.ones(2, 768), "clip_g": torch.ones(2, 1280)},
            "2 embeddings",
            "SDXL",
            "any other",
        ),
    ],
)
def test_learned_words(
    file: str, contents: Any, variant: str, base: str, word: str, tmp_path: Path
) -> None:
    if file.endswith(".safetensors"):
        save(tmp_path / file, contents)
    else:
        torch.save(contents, tmp_path / file)
    for place in (tmp_path / file, tmp_path):  # also where it lies in a folder
        found = inspect(place)
        assert (found.family, found.variant, found.base) == ("textual inversion", variant, base)
        assert word in found.remarks[0] and len(found.remarks) == 1


@pytest.mark.parametrize(
    "tensors",
    [
        {"a": torch.ones(1)},
        {"<cat>": torch.ones(768, dtype=torch.int64)},
        {"<cat>": torch.ones(1, 1, 768)},
        {"clip_l": torch.ones(768), "other": torch.ones(768)},
    ],
)
def test_what_is_no_learned_word(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    assert inspect(save(tmp_path / "a.safetensors", tensors)).family == UNKNOWN


def test_unknown_contents(tmp_path: Path) -> None:
    found = inspect(save(tmp_path / "a.safetensors", {"b": torch.ones(1), "a": torch.ones(1)}))
    assert (found.family, found.remarks) == (UNKNOWN, ("tensors such as a, b",))


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        inspect(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="holds no checkpoint") as caught:
        inspect(tmp_path)
    assert caught.value.found == "an empty folder"
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"found: config\.json"):
        inspect(tmp_path)
    (tmp_path / "a.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        inspect(tmp_path)


def test_a_damaged_part_of_a_model(tiny: Path, tmp_path: Path) -> None:
    data = safetensors.torch.save(safetensors.torch.load_file(tiny / "linear.safetensors"))
    (tmp_path / "a.safetensors").write_bytes(data[:-1])
    with pytest.raises(CheckpointError, match="truncated"):
        inspect(tmp_path)
