"""Adapters of all supported kinds; keys and values go where their number says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from ipa.errors import CheckpointError
from ipa.model.sites import cross_attention_sites
from ipa.model.unet import UNetSpec
from ipa_convert import Converted, read_adapter
from oracle import models
from oracle.adapters import projector_shapes, random_tensors, site_shapes
from oracle.containers import array_bits, bits, save, write_sparse

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
}
# Levels of one width only: no shape check can see a wrong order.
EQUAL = models.UNET | {"block_out_channels": (24, 24, 24), "attention_head_dim": 3}
PROJECTOR = {
    "linear": {"proj": "proj", "norm": "norm"},
    "mlp": {"proj.0": "proj_in", "proj.2": "proj_out", "proj.3": "norm"},
    "resampler": {"latents": "latents", "proj_in": "proj_in", "proj_out": "proj_out"}
    | {"norm_out": "norm_out"}
    | {
        f"layers.{i}.{old}": f"layers.{i}.{new}"
        for i in range(4)
        for old, new in {
            "0.norm1": "norm_states",
            "0.norm2": "norm_latents",
            "0.to_q": "to_q",
            "0.to_kv": "to_kv",
            "0.to_out": "to_out",
            "1.0": "norm_ff",
            "1.1": "proj_in",
            "1.3": "proj_out",
        }.items()
    },
}
Tensors = dict[str, torch.Tensor]


def order(config: dict[str, Any]) -> dict[int, str]:
    """Number to module, as diffusers enumerates attention processors: what adapters go by."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    return {
        number: name.removesuffix(".processor")
        for number, name in enumerate(unet.attn_processors)
        if name.endswith("attn2.processor")
    }


def expected(kind: str, config: dict[str, Any], tensors: Tensors) -> Tensors:
    """What MLX should get, written without the tables under test."""
    modules, result = order(config), {}
    for name, value in tensors.items():
        part, rest = name.split(".", 1)
        if part == "ip_adapter":
            number, projection, _ = rest.split(".")
            target = f"sites.{modules[int(number)]}.{projection.removesuffix('_ip')}.weight"
        elif rest == "latents":
            target = "projector.latents"
        else:
            module, parameter = rest.rsplit(".", 1)
            target = f"projector.{PROJECTOR[kind][module]}.{parameter}"
        result[target] = value
    return result


def read(path: Path, config: dict[str, Any]) -> tuple[Any, Converted]:
    spec = UNetSpec.from_config(config)
    return read_adapter(path, cross_attention_sites(spec), spec.context_width)


def check(converted: Converted, tensors: Tensors) -> None:
    assert converted.keys() == tensors.keys()
    for name, value in tensors.items():
        assert converted[name].shape == tuple(value.shape)
        assert np.array_equal(array_bits(converted[name].array()), bits(value)), name


@pytest.mark.parametrize(
    ("kind", "sizes", "feature"),
    [
        ("linear", {"feature": 1024}, "embedding"),  # base, light
        ("linear", {"feature": 1280}, "embedding"),  # vit-G
        ("resampler", {"feature": 1280, "width": 768, "tokens": 16}, "states"),  # plus, plus-face
        ("mlp", {"feature": 1280}, "states"),  # full-face
    ],
)
def test_released_sizes(kind: str, sizes: dict[str, int], feature: str, tmp_path: Path) -> None:
    tensors = {name: value.half() for name, value in random_tensors(SD15, kind, **sizes).items()}
    spec, converted = read(save(tmp_path / "a.safetensors", tensors), SD15)
    assert (spec.projector, spec.feature, spec.feature_width) == (kind, feature, sizes["feature"])
    assert (spec.tokens, spec.context_width) == (
        0 if kind == "mlp" else sizes.get("tokens", 4),
        768,
    )
    assert (spec.heads, spec.layers) == ((12, 4) if kind == "resampler" else (0, 0))
    check(converted, expected(kind, SD15, tensors))


def test_all_sites_of_sdxl(tmp_path: Path) -> None:
    """70 sites, most of them alike: only the numbers tell them apart."""
    sizes = {"context": 2048, "feature": 1280, "tokens": 4, "width": 0}
    shapes = projector_shapes("linear", **sizes) | site_shapes(models.unet_sites(SDXL), 2048)
    _, converted = read(write_sparse(tmp_path / "a.safetensors", shapes, "F16"), SDXL)
    modules = order(SDXL)
    assert len(modules) == 70
    for number, path in modules.items():
        for part in ("to_k", "to_v"):
            tensor = converted[f"sites.{path}.{part}.weight"]
            assert tensor.stored.name == f"ip_adapter.{number}.{part}_ip.weight"


@pytest.mark.parametrize("kind", PROJECTOR)
def test_equal_widths_in_any_file_order(kind: str, tmp_path: Path) -> None:
    """Exchanged numbers exchange values, whatever the order of names in the file."""
    tensors = random_tensors(EQUAL, kind)
    numbers = [number for number, _ in models.unet_sites(EQUAL)]
    renumbered = dict(zip(numbers, numbers[::-1], strict=True))
    exchanged = {}
    for name, value in reversed(tensors.items()):
        part, number, *rest = name.split(".")
        if part == "ip_adapter":
            name = ".".join([part, str(renumbered[int(number)]), *rest])
        exchanged[name] = value
    for stored in (tensors, exchanged):
        _, converted = read(save(tmp_path / "a.safetensors", stored), EQUAL)
        check(converted, expected(kind, EQUAL, stored))
    one, other = (expected(kind, EQUAL, t) for t in (tensors, exchanged))
    moved = [n for n in one if n.startswith("sites.") and not torch.equal(one[n], other[n])]
    assert len(moved) == 2 * (len(numbers) - len(numbers) % 2)


@pytest.mark.matrix
@pytest.mark.parametrize("kind", PROJECTOR)
def test_mixed_types_and_the_way_back(kind: str, tmp_path: Path) -> None:
    """Published files hold a float32 projector beside float16 keys and values."""
    tensors = {
        name: value.to(torch.float16 if name.startswith("ip_adapter") else torch.float32)
        for name, value in random_tensors(models.UNET, kind).items()
    }
    _, converted = read(save(tmp_path / "a.safetensors", tensors), models.UNET)
    check(converted, expected(kind, models.UNET, tensors))
    found = {name: array for name, _, array in converted.originals()}
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert np.array_equal(array_bits(found[name]), bits(value))


@pytest.mark.matrix
@pytest.mark.parametrize("kind", PROJECTOR)
def test_training_checkpoint(kind: str, tmp_path: Path) -> None:
    """Other prefixes, and the frozen networks once more."""
    tensors = random_tensors(models.UNET, kind)
    prefixes = {"image_proj.": "image_proj_model.", "ip_adapter.": "adapter_modules."}
    stored = {}
    for name, value in tensors.items():
        old = next(p for p in prefixes if name.startswith(p))
        stored[prefixes[old] + name.removeprefix(old)] = value
    stored |= {"unet.conv_in.weight": torch.ones(3), "image_encoder.x": torch.ones(2)}
    _, converted = read(save(tmp_path / "a.safetensors", stored), models.UNET)
    check(converted, expected(kind, models.UNET, tensors))


def without(tensors: Tensors, *names: str) -> Tensors:
    return {name: value for name, value in tensors.items() if name not in names}


def shifted(tensors: Tensors) -> Tensors:
    """Numbers that count cross-attentions alone: 0, 1, 2, …"""
    result = {}
    for name, value in tensors.items():
        part, number, *rest = name.split(".")
        if part == "ip_adapter":
            name = ".".join([part, str(int(number) // 2), *rest])
        result[name] = value
    return result


LINEAR, PLUS = random_tensors(models.UNET, "linear"), random_tensors(models.UNET, "resampler")
KEY = "ip_adapter.3.to_k_ip.weight"


@pytest.mark.parametrize(
    ("tensors", "found", "remedy"),
    [
        pytest.param(
            random_tensors(models.UNET | {"cross_attention_dim": 64}, "linear"),
            "context width 64, the model's is 40",
            "adapter made for this base",
            id="another context width",
        ),
        pytest.param(shifted(LINEAR), "needed (24, 40)", "this base", id="other numbering"),
        pytest.param(without(LINEAR, KEY), f"no {KEY}", "this base", id="a site missing"),
        pytest.param(
            LINEAR
            | {
                f"ip_adapter.{n}.to_{x}_ip.weight": torch.ones(24, 40)
                for n in (33, 35)
                for x in "kv"
            },
            "cross-attention sites, the model has",
            "this base",
            id="more sites",
        ),
        pytest.param(
            LINEAR | {KEY: torch.ones(25, 40)},
            "(25, 40), needed (24, 40)",
            "this base",
            id="another width",
        ),
        pytest.param(
            LINEAR | {"image_proj.extra": torch.ones(2)},
            "1 left over: image_proj.extra",
            "check the file",
            id="left over in the projector",
        ),
        pytest.param(
            LINEAR | {"ip_adapter.0.to_q_lora.down.weight": torch.ones(2, 24)},
            "1 left over: ip_adapter.0.to_q_lora",
            "check the file",
            id="FaceID's LoRA",
        ),
        pytest.param(
            LINEAR | {"adapter_modules.3.to_k_ip.weight": torch.ones(24, 40)},
            "1 given twice",
            "check the file",
            id="two spellings of one tensor",
        ),
        pytest.param(
            without(PLUS, "image_proj.layers.2.1.3.weight"),
            "1 missing: image_proj.layers.2.1.3.weight",
            "download",
            id="resampler incomplete",
        ),
        pytest.param(
            PLUS | {"image_proj.layers.1.0.to_kv.weight": torch.ones(128, 128)},
            "image_proj.layers.1.0.to_kv.weight (128, 128), needed (256, 128)",
            "download",
            id="resampler misshapen",
        ),
        pytest.param(
            without(LINEAR, "image_proj.proj.weight"),
            "image_proj tensors",
            "supported: base",
            id="unknown projector",
        ),
        pytest.param(
            {n: v for n, v in LINEAR.items() if n.startswith("ip")},
            "tensors such as",
            "are needed",
            id="no projector",
        ),
        pytest.param(
            LINEAR | {"ip_adapter.1.to_k_ip.weight": torch.ones(24, 0)},
            "without any values",
            "download",
            id="an empty tensor",
        ),
        pytest.param({"a.weight": torch.ones(2)}, "a.weight", "are needed", id="no adapter"),
        pytest.param(
            {
                "double_blocks.0.processor.ip_adapter_double_stream_k_proj.weight": torch.ones(
                    4, 4
                ),
                "ip_adapter_proj_model.proj.weight": torch.ones(4, 4),
            },
            "ip_adapter_double_stream_k_proj",
            "are needed",
            id="FLUX",
        ),
        pytest.param(
            LINEAR | {KEY: torch.ones(24, 40, dtype=torch.int64)},
            f"{KEY} (I64)",
            "check",
            id="integers",
        ),
    ],
)
def test_refusals(tensors: Tensors, found: str, remedy: str, tmp_path: Path) -> None:
    path = save(tmp_path / "adapter.safetensors", tensors)
    with pytest.raises(CheckpointError) as caught:
        read(path, models.UNET)
    assert str(path) in caught.value.what
    assert found in caught.value.found
    assert remedy in caught.value.remedy
