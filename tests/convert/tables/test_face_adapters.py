"""FaceID adapters, and all projectors as diffusers' own loader understands them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from ipa.errors import CheckpointError
from ipa.model.sites import SITES, cross_attention_sites
from ipa.model.unet import UNetSpec
from ipa_convert import Converted, read_adapter
from oracle import models
from oracle.adapters import (
    SD15,
    SDXL,
    InDiffusers,
    Tensors,
    load_in_diffusers,
    random_tensors,
    sites,
)
from oracle.containers import array_bits, bits, save

# All levels of one width: no shape check can see a wrong order.
SD15_EQUAL = SD15 | {"block_out_channels": (32, 32, 32, 32)}
SDXL_EQUAL = SDXL | {"block_out_channels": (24, 24, 24), "attention_head_dim": 3}
UNETS = {"SD1.5": SD15, "SD1.5, equal": SD15_EQUAL, "SDXL, equal": SDXL_EQUAL}
KINDS = ("linear", "mlp", "resampler", "face resampler", "faceid", "portrait", "faceid_plus")

_RESAMPLER = {"proj_in": "proj_in", "proj_out": "proj_out", "norm_out": "norm_out"} | {
    f"layers.{i}.{theirs}": f"layers.{i}.{ours}"
    for i in range(4)
    for theirs, ours in {
        "ln0": "norm_states",
        "ln1": "norm_latents",
        "attn.to_q": "to_q",
        "attn.to_out.0": "to_out",
        "ff.0": "norm_ff",
        "ff.1.net.0.proj": "proj_in",
        "ff.1.net.2": "proj_out",
    }.items()
}
_FACE = {"ff.net.0.proj": "proj_in", "ff.net.2": "proj_out", "norm": "norm"}
# diffusers' modules to ours; keys and values of a resampler, which it splits, are compared apart.
MODULES: dict[str, dict[str, str]] = {
    "linear": {"image_embeds": "proj", "norm": "norm"},
    "mlp": _FACE,
    "resampler": _RESAMPLER,
    "face resampler": _RESAMPLER,
    "faceid": _FACE,
    "portrait": _FACE,
    "faceid_plus": {"proj.net.0.proj": "face.proj_in", "proj.net.2": "face.proj_out"}
    | {"norm": "face.norm"}
    | {theirs: f"resampler.{ours}" for theirs, ours in _RESAMPLER.items()},
}


def read(path: Path, config: dict[str, Any]) -> tuple[Any, Converted]:
    spec = UNetSpec.from_config(config)
    return read_adapter(path, cross_attention_sites(spec), spec.context_width)


def ours(kind: str, judged: InDiffusers) -> dict[str, torch.Tensor]:
    """diffusers' tensors under our names."""
    result, apart = {}, {}
    for name, value in judged.projector.items():
        module, _, parameter = name.rpartition(".")
        if module.endswith((".to_k", ".to_v")):
            apart[name] = value
        elif name == "latents":
            result["projector.latents"] = value
        else:
            result[f"projector.{MODULES[kind][module]}.{parameter}"] = value
    root = "resampler." if kind == "faceid_plus" else ""
    for i in range(4) if apart else ():
        keys, values = (apart.pop(f"layers.{i}.attn.to_{part}.weight") for part in "kv")
        result[f"projector.{root}layers.{i}.to_kv.weight"] = torch.cat([keys, values])
    assert not apart
    for (path, part), value in judged.sites.items():
        result[f"sites.{path}.{part}.weight"] = value
    for (path, part, direction), value in judged.lora.items():
        result[f"lora.{path}.{part}.{direction}.weight"] = value
    return result


def check(converted: Converted, expected: dict[str, torch.Tensor]) -> None:
    assert converted.keys() == expected.keys()
    for name, value in expected.items():
        assert converted[name].shape == tuple(value.shape)
        assert np.array_equal(array_bits(converted[name].array()), bits(value)), name


@pytest.mark.matrix
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unet", UNETS)
def test_tensors_are_those_of_diffusers(unet: str, kind: str, tmp_path: Path) -> None:
    """Values, names and numbers of projector, keys, values and LoRA, bit for bit."""
    config = UNETS[unet]
    tensors = random_tensors(config, kind)
    _, converted = read(save(tmp_path / "a.safetensors", tensors), config)
    judged = load_in_diffusers(config, tensors)
    assert len(judged.lora) == (16 * len(sites(config)) if "faceid" in kind else 0)
    check(converted, ours(kind, judged))
    originals = {name: values for name, _, values in converted.originals()}
    assert originals.keys() == tensors.keys()
    assert all(np.array_equal(array_bits(originals[n]), bits(v)) for n, v in tensors.items())


@pytest.mark.matrix
@pytest.mark.parametrize("kind", KINDS)
def test_projectors_in_the_names_of_diffusers(kind: str, tmp_path: Path) -> None:
    """Re-exports of what diffusers holds are the same adapter."""
    tensors = random_tensors(SD15, kind)
    judged = load_in_diffusers(SD15, tensors)
    stored = {name: value for name, value in tensors.items() if name.startswith("ip_adapter.")}
    stored |= {f"image_proj.{name}": value for name, value in judged.projector.items()}
    assert stored.keys() != tensors.keys()
    again, converted = read(save(tmp_path / "again.safetensors", stored), SD15)
    spec, _ = read(save(tmp_path / "a.safetensors", tensors), SD15)
    assert again == spec
    check(converted, ours(kind, judged))
    assert {name for name, *_ in converted.originals()} == tensors.keys()


@pytest.mark.matrix
@pytest.mark.parametrize("kind", KINDS)
def test_training_checkpoint(kind: str, tmp_path: Path) -> None:
    """Other prefixes, and the frozen networks once more."""
    tensors = random_tensors(SD15, kind)
    stored = {
        name.replace("image_proj.", "image_proj_model.", 1).replace(
            "ip_adapter.", "adapter_modules.", 1
        ): value
        for name, value in tensors.items()
    } | {"unet.conv_in.weight": torch.ones(3), "image_encoder.x": torch.ones(2)}
    _, converted = read(save(tmp_path / "a.safetensors", stored), SD15)
    check(converted, ours(kind, load_in_diffusers(SD15, tensors)))
    assert converted.dropped.keys() == {"unet.conv_in.weight", "image_encoder.x"}


@pytest.mark.parametrize("base", SITES)
def test_numbers_are_positions_among_the_processors(base: str) -> None:
    """Of the true UNets, self-attentions included, as diffusers enumerates them."""
    config = {
        "SD1.5": {
            "block_out_channels": (320, 640, 1280, 1280),
            "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
            "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
            "cross_attention_dim": 768,
        },
        "SDXL": {
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", *["CrossAttnDownBlock2D"] * 2),
            "up_block_types": (*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20),
            "cross_attention_dim": 2048,
        },
    }[base]
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    paths = {n: name.removesuffix(".processor") for n, name in enumerate(unet.attn_processors)}
    assert paths == {
        number: path
        for site in SITES[base]
        for number, path in (site.self_attention, (site.number, site.path))
    }
    for site in SITES[base]:
        assert unet.get_submodule(site.path).to_q.out_features == site.width


def test_face_structures(tmp_path: Path) -> None:
    """What is read from the shapes of each kind."""
    found = {}
    for kind in ("faceid", "portrait", "faceid_plus", "face resampler"):
        spec, _ = read(save(tmp_path / "a.safetensors", random_tensors(SD15, kind)), SD15)
        found[kind] = (spec.projector, spec.feature, spec.tokens, spec.lora_rank)
        assert (spec.face_width, spec.is_runnable) == (512, True)
    assert found == {
        "faceid": ("faceid", "face", 4, 3),
        "portrait": ("faceid", "face", 16, 0),
        "faceid_plus": ("faceid_plus", "states", 4, 3),
        "face resampler": ("resampler", "face", 16, 0),
    }


FACEID, PLUS = random_tensors(SD15, "faceid"), random_tensors(SD15, "faceid_plus")
KOLORS = {f"ip_adapter.1.to_{part}_ip.weight": torch.ones(24, 2048) for part in "kv"}
UP = "ip_adapter.0.to_q_lora.up.weight"


@pytest.mark.parametrize(
    ("tensors", "found"),
    [
        pytest.param(
            {name: value for name, value in FACEID.items() if name != UP},
            f"1 missing: {UP}",
            id="half a pair",
        ),
        pytest.param(
            FACEID | {"ip_adapter.6.to_q_lora.down.weight": torch.ones(2, 32)},
            "ip_adapter.6.to_q_lora.down.weight (2, 32), needed (3, 32)",
            id="another rank",
        ),
        pytest.param(
            FACEID | {"ip_adapter.32.to_q_lora.down.weight": torch.ones(3, 16)},
            "1 left over: ip_adapter.32.to_q_lora",
            id="one attention too many",
        ),
        pytest.param(
            PLUS | {"image_proj.latents": torch.ones(1, 4, 64)},
            "1 left over: image_proj.latents",
            id="latents of its own",
        ),
        pytest.param(
            random_tensors(SD15, "resampler") | {"image_proj.pos_emb.weight": torch.ones(257, 30)},
            "1 left over: image_proj.pos_emb",
            id="positions",
        ),
        pytest.param(
            PLUS | {"image_proj.layers.0.attn.to_k.weight": torch.ones(64, 64)},
            "1 left over: image_proj.layers.0.attn.to_k",
            id="half of a split pair",
        ),
        pytest.param(
            {name: value for name, value in FACEID.items() if not name.endswith("proj.0.weight")},
            "image_proj tensors",
            id="no projector",
        ),
        pytest.param(
            random_tensors(SD15, "resampler")
            | {"image_proj.layers.0.0.to_q.weight": torch.ones(100, 128)},
            "no multiple of the width of a head, 64",
            id="broken heads",
        ),
        pytest.param(
            KOLORS
            | {
                "image_proj.latents": torch.ones(1, 16, 2048),
                "image_proj.proj_in.weight": torch.ones(2048, 1024),
            },
            "Kolors' IP-Adapter-Plus",
            id="Kolors plus",
        ),
        pytest.param(
            KOLORS
            | {
                "image_proj.proj.0.weight": torch.ones(1024, 512),
                "image_proj.norm.weight": torch.ones(4096),
                "image_proj.perceiver_resampler.proj_in.weight": torch.ones(64, 1024),
            },
            "Kolors' IP-Adapter-FaceID-Plus",
            id="Kolors face",
        ),
    ],
)
def test_refusals(tensors: Tensors, found: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        read(save(tmp_path / "adapter.safetensors", tensors), SD15)
    assert found in caught.value.found


def test_widths_of_zero_are_refused(
    tiny: Path, backend: str, open_pipeline: Any, tmp_path: Path
) -> None:
    """They would be divided by."""
    tensors = models.adapter_tensors("linear", sites(models.UNET), context=0, feature=36)
    path = save(tmp_path / "empty.safetensors", tensors)
    with pytest.raises(CheckpointError, match="without any values"):
        open_pipeline(tiny, backend).load_ip_adapter(path)
