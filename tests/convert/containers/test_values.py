"""Every value arrives under the right name, bit for bit, and finds its way back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig
from transformers import CLIPVisionModelWithProjection as VisionModel

from ipa.errors import CheckpointError
from ipa.model.clip import ClipTextSpec, ClipVisionSpec
from ipa.model.files import STEMS
from ipa.model.unet import UNetSpec
from ipa.model.vae import VaeSpec
from ipa_convert import Converted, read_component
from ipa_convert.containers.values import cast
from oracle import models
from oracle.containers import array_bits, bits, save, save_shards

LINEAR = models.UNET | {"use_linear_projection": True}
MODULES: dict[str, tuple[str, Any, Callable[[], torch.nn.Module]]] = {
    "unet": (
        "unet",
        UNetSpec.from_config(models.UNET),
        lambda: UNet2DConditionModel(**models.UNET),
    ),
    "linear unet": ("unet", UNetSpec.from_config(LINEAR), lambda: UNet2DConditionModel(**LINEAR)),
    "vae": ("vae", VaeSpec.from_config(models.VAE), lambda: AutoencoderKL(**models.VAE)),
    "text": (
        "text_encoder",
        ClipTextSpec.from_config(models.TEXT),
        lambda: CLIPTextModel(CLIPTextConfig(**models.TEXT)),
    ),
    "vision": (
        "image_encoder",
        ClipVisionSpec.from_config(models.VISION),
        lambda: VisionModel(CLIPVisionConfig(**models.VISION)),
    ),
}
TAGS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
MIXED = list(TAGS)

# The names in our modules, written once more and by other means than the tables.
RESPELLED: dict[str, list[tuple[str, str]]] = {
    "unet": [
        (".to_out.0.", ".to_out."),
        (".ff.net.0.proj.", ".ff.proj_in."),
        (".ff.net.2.", ".ff.proj_out."),
        (".downsamplers.0.conv.", ".downsample."),
        (".upsamplers.0.conv.", ".upsample."),
    ],
    "text_encoder": [
        ("text_model.", ""),
        ("embeddings.", ""),
        ("encoder.layers.", "layers."),
        ("final_layer_norm", "final_norm"),
        ("text_projection", "projection"),
    ],
    "image_encoder": [
        ("vision_model.", ""),
        ("embeddings.", ""),
        ("encoder.layers.", "layers."),
        ("pre_layrnorm", "pre_norm"),
        ("post_layernorm", "post_norm"),
        ("visual_projection", "projection"),
    ],
}
RESPELLED["vae"] = RESPELLED["unet"]
CLIP_LAYER = [
    ("layer_norm", "norm"),
    ("self_attn.out_proj", "attention.to_out"),
    ("self_attn.q_proj", "attention.to_q"),
    ("self_attn.k_proj", "attention.to_k"),
    ("self_attn.v_proj", "attention.to_v"),
    ("mlp.fc1", "feed_forward.proj_in"),
    ("mlp.fc2", "feed_forward.proj_out"),
]


def weights(name: str, seed: int = 5) -> dict[str, torch.Tensor]:
    return models.randomize(MODULES[name][2](), seed).state_dict()


def expected(component: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What MLX should get, by PyTorch's means."""
    result = {}
    for name, value in tensors.items():
        last = name.split(".")[-2] if "." in name else ""
        for old, new in RESPELLED[component] + (CLIP_LAYER if "encoder" in component else []):
            name = name.replace(old, new)
        if value.ndim == 4 and last in {"conv_shortcut", "quant_conv", "post_quant_conv"}:
            value = value[:, :, 0, 0]
        elif value.ndim == 4 and last in {"proj_in", "proj_out"}:
            value = value.flatten(1)
        elif value.ndim == 4:
            value = value.movedim(1, 3)
        result[name] = value
    return result


def check(converted: Converted, tensors: dict[str, torch.Tensor]) -> None:
    assert converted.keys() == tensors.keys()
    for name, value in tensors.items():
        tensor = converted[name]
        assert (tensor.name, tensor.dtype, tensor.shape) == (
            name,
            TAGS[value.dtype],
            tuple(value.shape),
        )
        array = tensor.array()
        assert array.shape == tuple(value.shape)
        assert np.array_equal(array_bits(array), bits(value)), name


def check_way_back(converted: Converted, tensors: dict[str, torch.Tensor]) -> None:
    found = {name: (tag, array) for name, tag, array in converted.originals()}
    prefixed = {n if n in found else f"text_model.{n}": v for n, v in tensors.items()}
    assert found.keys() == prefixed.keys()
    for name, value in prefixed.items():
        tag, array = found[name]
        assert (tag, array.shape) == (TAGS[value.dtype], tuple(value.shape))
        assert np.array_equal(array_bits(array), bits(value)), name


@pytest.mark.matrix
@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("dtype", [*TAGS, None], ids=[*TAGS.values(), "mixed"])
def test_values(name: str, dtype: torch.dtype | None, tmp_path: Path) -> None:
    component, spec, _ = MODULES[name]
    tensors = {
        key: value.to(dtype or MIXED[i % 3]) for i, (key, value) in enumerate(weights(name).items())
    }
    save(tmp_path / f"{STEMS[component]}.safetensors", tensors)
    converted = read_component(component, tmp_path, spec)
    check(converted, expected(component, tensors))
    check_way_back(converted, tensors)


@pytest.mark.matrix
@pytest.mark.parametrize("variant", ["", "fp16"])
@pytest.mark.parametrize("name", ["unet", "vision"])
def test_shards(name: str, variant: str, tmp_path: Path) -> None:
    component, spec, _ = MODULES[name]
    tensors = weights(name)
    save_shards(tmp_path, STEMS[component], tensors, 3, variant)
    converted = read_component(component, tmp_path, spec, variant=variant or None)
    check(converted, expected(component, tensors))


def test_variant_beside_the_plain_file(tmp_path: Path) -> None:
    plain, other = weights("vision", 1), weights("vision", 2)
    save(tmp_path / "model.safetensors", plain)
    save(tmp_path / "model.fp16.safetensors", other)
    for variant, tensors in ((None, plain), ("fp16", other)):
        converted = read_component("image_encoder", tmp_path, MODULES["vision"][1], variant=variant)
        check(converted, expected("image_encoder", tensors))


def respell(tensors: dict[str, torch.Tensor], pairs: dict[str, str]) -> dict[str, torch.Tensor]:
    result = {}
    for name, value in tensors.items():
        for old, new in pairs.items():
            name = name.replace(old, new)
        result[name] = value
    return result


@pytest.mark.matrix
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.float16])
@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_text_spellings(prefix: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """With and without prefix; position ids in any type; what only the whole of CLIP uses."""
    tensors = weights("text")
    stored = {f"{prefix}{name}": value for name, value in tensors.items()}
    stored[f"{prefix}embeddings.position_ids"] = torch.arange(77)[None].to(dtype)
    stored |= {"text_projection.weight": torch.ones(40, 40), "logit_scale": torch.ones(1)}
    save(tmp_path / "model.safetensors", stored)
    converted = read_component("text_encoder", tmp_path, MODULES["text"][1])
    check(converted, expected("text_encoder", tensors))


def test_mended_spelling_of_the_image_encoder(tmp_path: Path) -> None:
    tensors = weights("vision")
    stored = respell(tensors, {"pre_layrnorm": "pre_layernorm"})
    stored["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save(tmp_path / "model.safetensors", stored)
    converted = read_component("image_encoder", tmp_path, MODULES["vision"][1])
    check(converted, expected("image_encoder", tensors))


@pytest.mark.matrix
@pytest.mark.parametrize("ones", [0, 1, 2])
def test_old_attention_of_the_vae(ones: int, tmp_path: Path) -> None:
    """Old names, and matrices stored as 1×1 convolutions."""
    tensors = weights("vae")
    stored = {
        name: value.reshape(*value.shape, *[1] * ones)
        if value.ndim == 2 and "attentions" in name
        else value
        for name, value in tensors.items()
    }
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    save(tmp_path / "diffusion_pytorch_model.safetensors", respell(stored, names))
    converted = read_component("vae", tmp_path, MODULES["vae"][1])
    check(converted, expected("vae", tensors))
    check_way_back(converted, tensors)


def test_matrices_where_convolutions_are_expected(tmp_path: Path) -> None:
    tensors = weights("unet")
    flat = {n: v.flatten(1) if v.shape[2:] == (1, 1) else v for n, v in tensors.items()}
    assert sum(v.ndim == 2 for v in flat.values()) > sum(v.ndim == 2 for v in tensors.values())
    save(tmp_path / "diffusion_pytorch_model.safetensors", flat)
    converted = read_component("unet", tmp_path, MODULES["unet"][1])
    check(converted, expected("unet", tensors))
    check_way_back(converted, tensors)


HALVES = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16)


@pytest.mark.parametrize("target", TAGS, ids=TAGS.values())
@pytest.mark.parametrize("source", TAGS, ids=TAGS.values())
def test_cast_is_torchs(source: torch.dtype, target: torch.dtype) -> None:
    """Every pattern of 16 bits, and float32 around the halfway points of rounding."""
    if source == torch.float32:
        high = HALVES.to(torch.int32) << 16
        low = torch.tensor([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], dtype=torch.int32)
        numbers = (high[:, None] | low).flatten().view(torch.float32)
        # float16 keeps 10 bits of the fraction: its halfway points have bit 12 set.
        numbers = torch.cat([numbers, HALVES.view(torch.float16).float() * (1 + 2**-11)])
    else:
        numbers = HALVES.view(source)
    fits = numbers.isfinite() & numbers.to(target).isfinite()
    if target == torch.float16:
        fits &= numbers.float().abs() <= 65504
    numbers = numbers[fits]
    array = numbers.view(torch.uint16) if source == torch.bfloat16 else numbers
    found = cast(array.numpy(), TAGS[source], TAGS[target], "x")
    assert np.array_equal(array_bits(found), bits(numbers.to(target)))


@pytest.mark.parametrize(
    ("value", "target"), [(65505.0, "F16"), (-7e4, "F16"), (3.4e38, "BF16"), (-3.4e38, "BF16")]
)
def test_overflow_is_an_error(value: float, target: str) -> None:
    array = np.array([1.0, value, 2.0], np.float32)
    with pytest.raises(CheckpointError, match=r"down\.weight does not fit .*float16") as caught:
        cast(array, "F32", target, "down.weight")
    assert f"{abs(value):g}" in caught.value.found
    assert "float32" in caught.value.remedy
