"""Public towers are known by their tensors, in every spelling; nothing else is taken for one.

Judges: OpenCLIP's own configs and modules (heads, activation, names, shapes) and transformers'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from ipa.errors import CheckpointError
from ipa.model.clip import ClipTextSpec, ClipVisionSpec
from ipa_convert import inspect
from ipa_convert.containers.checkpoint import Checkpoint, open_file
from ipa_convert.reading.clip_configs import TEXT_TOWERS, VISION_TOWERS, detect_text, detect_vision
from ipa_convert.tables import clip_text, clip_vision
from ipa_convert.tables.matching import convert
from ipa_convert.tables.table import Table
from oracle import models, open_clip
from oracle.containers import write_sparse

Shapes = dict[str, tuple[int, ...]]
# OpenCLIP's name; tensors and parameters of the tower in transformers' class.
TEXTS = [
    ("ViT-L-14-quickgelu", 196, 123_060_480, "SD1.5"),
    ("ViT-H-14", 372, 340_387_840, "SD2"),
    ("ViT-bigG-14", 517, 694_659_840, "bigG"),
]
VISIONS = [
    ("ViT-L-14-quickgelu", 392, 303_966_208, "OpenAI ViT-L/14"),
    ("ViT-L-14-336-quickgelu", 392, 303_966_208 + (577 - 257) * 1024, "336 pixels"),
    ("ViT-H-14", 520, 632_076_800, "ViT-H/14"),
    ("ViT-bigG-14", 776, 1_844_907_264, "bigG"),
]


@dataclass(frozen=True)
class Header:
    """A stored tensor without a file."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "F16"
    where: str = "nowhere"

    def array(self) -> Any:
        raise NotImplementedError

    def release(self) -> None:
        raise NotImplementedError


def checkpoint(shapes: Mapping[str, tuple[int, ...]], *, converted: bool = False) -> Checkpoint:
    return Checkpoint("here", {k: Header(k, v) for k, v in shapes.items()}, converted)


def shapes_of(module: torch.nn.Module) -> Shapes:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


@cache
def whole(name: str) -> tuple[Shapes, dict[str, Any]]:
    """A whole public CLIP as OpenCLIP's own module names it, and its config."""
    module, config = open_clip.public(name)
    return shapes_of(module), config


def huggingface(config: dict[str, Any]) -> Shapes:
    """The tower of this config, as transformers names it in public files."""
    kinds = {
        "CLIPTextModel": (CLIPTextModel, CLIPTextConfig),
        "CLIPTextModelWithProjection": (CLIPTextModelWithProjection, CLIPTextConfig),
        "CLIPVisionModelWithProjection": (CLIPVisionModelWithProjection, CLIPVisionConfig),
    }
    kind, made = kinds[config["architectures"][0]]
    with torch.device("meta"):
        shapes = shapes_of(kind(made(**config)))
    prefix = "text_model." if kind is CLIPTextModel else ""
    return {f"{prefix}{name}": shape for name, shape in shapes.items()}


def fits(shapes: Shapes, table: Table, tensors: int, parameters: int) -> None:
    """The file has all of the network, and the network has the public size."""
    converted = convert(checkpoint(shapes), table)
    assert len(converted) == tensors
    assert sum(prod(tensor.shape) for tensor in converted.values()) == parameters
    again = convert(checkpoint({k: v.shape for k, v in converted.items()}, converted=True), table)
    assert again.keys() == converted.keys()


@pytest.mark.parametrize(("name", "tensors", "parameters", "words"), TEXTS)
def test_text_towers(name: str, tensors: int, parameters: int, words: str) -> None:
    shapes, judge = whole(name)
    config = detect_text(checkpoint(shapes))
    table = clip_text.table(ClipTextSpec.from_config(config))
    fits(shapes, table, tensors, parameters)
    assert config["num_attention_heads"] == judge["text_cfg"]["heads"]
    assert (config["hidden_act"] == "quick_gelu") == judge.get("quick_gelu", False)
    named = huggingface(config)
    fits(named, table, tensors, parameters)
    assert detect_text(checkpoint(named)) == config
    targets = {table.target(tensor): tensor.target_shape for tensor in table.tensors}
    assert detect_text(checkpoint(targets, converted=True)) == config


@pytest.mark.parametrize(("name", "tensors", "parameters", "words"), VISIONS)
def test_image_towers(name: str, tensors: int, parameters: int, words: str) -> None:
    shapes, judge = whole(name)
    config = detect_vision(checkpoint(shapes))
    table = clip_vision.table(ClipVisionSpec.from_config(config))
    fits(shapes, table, tensors, parameters)
    tower = judge["vision_cfg"]
    assert config["hidden_size"] // config["num_attention_heads"] == tower.get("head_width", 64)
    assert (config["hidden_act"] == "quick_gelu") == judge.get("quick_gelu", False)
    assert config["image_size"] == tower["image_size"]
    named = huggingface(config)
    fits(named, table, tensors, parameters)
    assert detect_vision(checkpoint(named)) == config
    targets = {table.target(tensor): tensor.target_shape for tensor in table.tensors}
    assert detect_vision(checkpoint(targets, converted=True)) == config


def test_every_row_is_tested() -> None:
    found = [detect_text(checkpoint(whole(name)[0])) for name, *_ in TEXTS]
    assert found == list(TEXT_TOWERS.values())
    found = [detect_vision(checkpoint(whole(name)[0])) for name, *_ in VISIONS]
    assert found == list(VISION_TOWERS.values())


def test_vit_h_of_23_and_24_layers() -> None:
    shapes, _ = whole("ViT-H-14")
    cut = {name: shape for name, shape in shapes.items() if "transformer.resblocks.23" not in name}
    assert len(cut) < len(shapes)
    assert detect_text(checkpoint(cut)) == detect_text(checkpoint(shapes))


@pytest.mark.parametrize("kind", ["text", "vision"])
def test_a_missing_tensor_is_the_tables_affair(kind: str) -> None:
    """The tower is known all the same, so that the error is about the tensor."""
    detect, configs = {
        "text": (detect_text, TEXT_TOWERS),
        "vision": (detect_vision, VISION_TOWERS),
    }[kind]
    config = next(iter(configs.values()))
    shapes = huggingface(config)
    told_by = ("token_embedding.weight", "class_embedding")
    for name in shapes:
        if name.endswith(told_by) or (".layers." in name and ".layers.0." not in name):
            continue
        rest = {key: shape for key, shape in shapes.items() if key != name}
        assert detect(checkpoint(rest)) == config


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", 1088),
        ("intermediate_size", 4224),
        ("num_hidden_layers", 23),
        ("patch_size", 16),
        ("image_size", 448),
        ("projection_dim", 1024),
        ("num_channels", 4),
    ],
)
def test_an_image_tower_of_other_sizes(key: str, value: int) -> None:
    shapes = huggingface({**VISION_TOWERS["OpenAI ViT-L/14"], key: value})
    with pytest.raises(CheckpointError, match="none that is known") as caught:
        detect_vision(checkpoint(shapes))
    assert f"{key} {value}" in caught.value.found
    assert "config.json" in caught.value.remedy


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", 1152),
        ("intermediate_size", 4608),
        ("num_hidden_layers", 22),
        ("num_hidden_layers", 25),
        ("vocab_size", 49409),
        ("max_position_embeddings", 248),
    ],
)
def test_a_text_tower_of_other_sizes(key: str, value: int) -> None:
    shapes = huggingface({**TEXT_TOWERS["OpenCLIP ViT-H/14 (SD2)"], key: value})
    with pytest.raises(CheckpointError, match="none that is known") as caught:
        detect_text(checkpoint(shapes))
    assert f"{key} {value}" in caught.value.found
    assert "config.json" in caught.value.remedy


@pytest.mark.parametrize("detect", [detect_text, detect_vision])
def test_no_tower_at_all(detect: Any) -> None:
    with pytest.raises(CheckpointError, match="holds no CLIP") as caught:
        detect(checkpoint({"conv_in.weight": (1,)}))
    assert "conv_in.weight" in caught.value.found


@pytest.mark.parametrize(
    "shapes",
    [
        {"visual.class_embedding": (), "visual.positional_embedding": (0,)},
        {"visual.class_embedding": (1024,), "visual.conv1.weight": (1, 2), "visual.proj": (3,)},
        {
            "visual.class_embedding": (1024,),
            "visual.conv1.weight": (0, 0, 0, 0),
            "visual.positional_embedding": (5, 5),
        },
        {"visual.class_embedding": (7,), f"visual.transformer.resblocks.{'9' * 5000}.x": (1,)},
        {"visual.class_embedding": (1024,), "visual.transformer.resblocks.0.mlp.c_fc.weight": ()},
    ],
)
def test_damaged_headers(shapes: Shapes) -> None:
    """An error of ours, whatever the shapes."""
    with pytest.raises(CheckpointError):
        detect_vision(checkpoint(shapes))


@pytest.mark.parametrize(("name", "tensors", "parameters", "words"), VISIONS)
def test_inspection(name: str, tensors: int, parameters: int, words: str, tmp_path: Path) -> None:
    shapes, _ = whole(name)
    towers = {
        "whole CLIP model": shapes,
        "CLIP image encoder": {k: v for k, v in shapes.items() if k.startswith("visual.")},
        "CLIP text encoder": {k: v for k, v in shapes.items() if not k.startswith("visual.")},
    }
    config = detect_vision(checkpoint(shapes))
    towers |= {"CLIP image encoder ": huggingface(config)}
    for family, listed in towers.items():
        found = inspect(write_sparse(tmp_path / "a.safetensors", listed, "F16"))
        assert found.family == family.strip()
        naming = "transformers" if family.endswith(" ") else "OpenCLIP"
        assert found.remarks[0] == f"named as in {naming}"
        assert not any("not supported" in remark for remark in found.remarks)
        if "text" not in family:
            assert words in found.variant
    assert len(found.remarks) == 1


@pytest.mark.parametrize(("name", "tensors", "parameters", "words"), TEXTS)
def test_inspection_of_text_towers(
    name: str, tensors: int, parameters: int, words: str, tmp_path: Path
) -> None:
    shapes, _ = whole(name)
    text = {k: v for k, v in shapes.items() if not k.startswith("visual.")}
    named = huggingface(detect_text(checkpoint(shapes)))
    cases = {
        "named as in OpenCLIP": text,
        "named as in OpenCLIP, under clip_g.": {f"clip_g.{k}": v for k, v in text.items()},
        "named as in transformers": named,
        "named as in transformers, under transformer.": {
            f"transformer.{k}": v for k, v in named.items()
        },
        "named as in transformers, under clip_l.transformer.": {
            f"clip_l.transformer.{k}": v for k, v in named.items()
        },
        "named as in transformers from 5.6 on, without prefix": {
            k.removeprefix("text_model."): v for k, v in named.items()
        },
    }
    for spelling, listed in cases.items():
        found = inspect(write_sparse(tmp_path / "a.safetensors", listed, "F16"))
        assert (found.family, found.remarks) == ("CLIP text encoder", (spelling,))
        assert words in found.variant
    both = inspect(write_sparse(tmp_path / "b.safetensors", shapes, "F16"))
    assert words in both.remarks[2]


def test_inspection_of_a_tower_without_projection(tmp_path: Path) -> None:
    config = CLIPVisionConfig(**models.VISION)
    shapes = shapes_of(CLIPVisionModelWithProjection(config))
    listed = {
        name.removeprefix("vision_model."): shape
        for name, shape in shapes.items()
        if name != "visual_projection.weight"
    }
    found = inspect(write_sparse(tmp_path / "a.safetensors", listed))
    assert (found.family, found.variant) == ("CLIP image encoder", "width 48")
    assert "lacks the projection" in found.remarks[1]
    with pytest.raises(CheckpointError, match=r"1 missing: visual_projection\.weight"):
        table = clip_vision.table(ClipVisionSpec.from_config(models.VISION))
        convert(open_file(tmp_path / "a.safetensors"), table)
