"""Sound files that are not what is needed: refused by header, all problems in one message."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from ipa.errors import CheckpointError
from ipa.model.clip import ClipVisionSpec
from ipa_convert import read_component
from oracle import models
from oracle.containers import save, save_shards

SPEC = ClipVisionSpec.from_config(models.VISION)
ENCODER = models.randomize(
    CLIPVisionModelWithProjection(CLIPVisionConfig(**models.VISION)), 1
).state_dict()
NAME = "vision_model.encoder.layers.1.mlp.fc1.weight"
Tensors = dict[str, torch.Tensor]


def refused(path: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        read_component("image_encoder", path, SPEC)
    return caught.value


def changed(**changes: Any) -> Tensors:
    return {k: v for k, v in (ENCODER | changes).items() if v is not None}


# (tensors, what must be said to be found)
CONTENTS: dict[str, tuple[Tensors, str]] = {
    "one missing": (changed(**{NAME: None}), f"1 missing: {NAME}"),
    "one left over": (changed(extra=torch.ones(1)), "1 left over: extra"),
    "one misshapen": (
        changed(**{NAME: torch.ones(96, 47)}),
        f"1 of another shape: {NAME} (96, 47), needed (96, 48)",
    ),
    "one transposed": (
        changed(**{NAME: ENCODER[NAME].T}),
        f"1 of another shape: {NAME} (48, 96), needed (96, 48)",
    ),
    "a flattened convolution": (
        changed(
            **{
                "vision_model.embeddings.patch_embedding.weight": ENCODER[
                    "vision_model.embeddings.patch_embedding.weight"
                ].flatten(1)
            }
        ),
        "(48, 147), needed (48, 3, 7, 7)",
    ),
    "eight bits": (
        changed(**{NAME: torch.ones(96, 48).to(torch.uint8)}),
        f"1 of an unsupported type: {NAME} (U8)",
    ),
    "a name in two spellings": (
        changed(**{"vision_model.pre_layernorm.bias": torch.ones(48)}),
        "1 given twice: vision_model.pre_lay",
    ),
    "everything at once": (
        changed(**{NAME: None, "extra": torch.ones(1), "visual_projection.weight": torch.ones(1)}),
        f"1 missing: {NAME}. 1 left over: extra. 1 of another shape: visual_projection",
    ),
    "many missing": (
        changed(**{name: None for name in ENCODER if "mlp" in name}),
        "12 missing: vision_model.encoder.layers.0.mlp.fc1.weight; ",
    ),
    "position ids elsewhere": (
        changed(**{"vision_model.position_ids": torch.ones(1)}),
        "1 left over: vision_model.position_ids",
    ),
    "another network": (
        {"down_blocks.0.lora_down.weight": torch.ones(1)},
        "tensors of this kind: LoRA. 56 missing",
    ),
    "nothing": ({}, "tensors of this kind: unknown"),
}


@pytest.mark.parametrize("case", CONTENTS)
def test_wrong_contents(case: str, tmp_path: Path) -> None:
    tensors, found = CONTENTS[case]
    path = save(tmp_path / "model.safetensors", tensors)
    error = refused(tmp_path)
    assert str(path) in error.what
    assert "CLIP image encoder" in error.what
    assert found in error.found
    assert "config.json" in error.remedy
    assert len(str(error)) < len(str(path)) + 700, "a message, not a dump"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("position", [0, 700_001])
def test_values_that_are_no_numbers(
    position: int, dtype: torch.dtype, value: float, tmp_path: Path
) -> None:
    """Also deep inside a large tensor; the others are read."""
    name = "vision_model.embeddings.position_embedding.weight"
    config = models.VISION | {"image_size": 7 * 125, "patch_size": 7}
    spec = ClipVisionSpec.from_config(config)
    tensors = {k: v.to(dtype) for k, v in ENCODER.items()}
    tensors[name] = torch.ones(spec.tokens, 48).to(dtype)
    tensors[name].view(-1)[position] = value
    path = save(tmp_path / "model.safetensors", tensors)
    converted = read_component("image_encoder", tmp_path, spec)
    for key, tensor in converted.items():
        if key != "position_embedding.weight":
            tensor.array()
    with pytest.raises(CheckpointError) as caught:
        converted["position_embedding.weight"].array()
    assert str(path) in caught.value.what
    assert name in caught.value.what
    assert f"position {position} of" in caught.value.found
    assert "download it again" in caught.value.remedy


def test_nothing_is_refused_that_is_a_number(tmp_path: Path) -> None:
    """The largest and the smallest numbers of each type are no infinities."""
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        info = torch.finfo(dtype)
        extremes = torch.tensor([info.max, info.min, info.tiny, info.smallest_normal, 0.0, -0.0])
        tensors = {k: v.to(dtype) for k, v in ENCODER.items()}
        tensors["vision_model.embeddings.class_embedding"] = extremes.to(dtype).repeat(8)
        save(tmp_path / "model.safetensors", tensors)
        array = read_component("image_encoder", tmp_path, SPEC)["class_embedding"].array()
        assert np.array_equal(array.view(np.uint8), extremes.to(dtype).repeat(8).view(torch.uint8))


def edit(index: Path, **changes: Any) -> None:
    content = json.loads(index.read_text())
    weight_map = content["weight_map"] | changes
    index.write_text(json.dumps(content | {"weight_map": weight_map}))


def shards(folder: Path) -> tuple[Path, list[Path]]:
    index = save_shards(folder, "model", ENCODER, 3)
    return index, sorted(folder.glob("*.safetensors"))


def test_a_shard_missing(tmp_path: Path) -> None:
    index, files = shards(tmp_path)
    files[1].unlink()
    error = refused(tmp_path)
    assert str(index) in error.what
    assert files[1].name in error.what
    assert "finish the download" in error.remedy


@pytest.mark.parametrize(
    "name", ["../a.safetensors", "a/b.safetensors", "..", "a\\b", "/etc/passwd"]
)
def test_a_shard_outside_the_folder(name: str, tmp_path: Path) -> None:
    index, _ = shards(tmp_path)
    edit(index, **{NAME: name})
    error = refused(tmp_path)
    assert str(index) in error.what
    assert repr(name) in error.found


def test_a_shard_truncated(tmp_path: Path) -> None:
    _, files = shards(tmp_path)
    os.truncate(files[2], files[2].stat().st_size - 1)
    error = refused(tmp_path)
    assert str(files[2]) in error.what
    assert "did not finish" in error.remedy


def test_an_index_that_names_another_shard(tmp_path: Path) -> None:
    index, files = shards(tmp_path)
    content = json.loads(index.read_text())["weight_map"]
    other = next(f.name for f in files if f.name != content[NAME])
    edit(index, **{NAME: other})
    error = refused(tmp_path)
    assert str(index) in error.what
    assert error.found == f"no {NAME} in {other}"
    assert "download the folder again" in error.remedy


def test_an_index_with_a_tensor_that_is_nowhere(tmp_path: Path) -> None:
    index, files = shards(tmp_path)
    edit(index, nowhere=files[0].name)
    assert "no nowhere in" in refused(tmp_path).found


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    index, _ = shards(tmp_path)
    save(tmp_path / "more.safetensors", {NAME: ENCODER[NAME]})
    edit(index, more="more.safetensors")
    error = refused(tmp_path)
    assert NAME in error.what
    assert "more.safetensors" in error.found
    assert "download the folder again" in error.remedy


@pytest.mark.parametrize("content", ["[]", '{"weight_map":[]}', '{"weight_map":{}}', "{", "{}"])
def test_a_broken_index(content: str, tmp_path: Path) -> None:
    index, _ = shards(tmp_path)
    index.write_text(content)
    assert str(index) in refused(tmp_path).what


def test_no_weights_at_all(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.fp16.bin").write_bytes(b"PK\x03\x04")
    error = refused(tmp_path)
    assert str(tmp_path) in error.what
    assert "no weights called model.safetensors or pytorch_model.bin" in error.what
    assert "pytorch_model.fp16.bin" in error.found
    assert "variant=" in error.remedy


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        ({"format": "flax"}, "format 'flax'"),
        ({"format": "mlx"}, "format 'mlx'"),
        ({"format": "mlx", "ipa_layout": "2"}, "ipa_layout '2'"),
        ({"ipa_layout": "1"}, "format None, ipa_layout '1'"),
    ],
)
def test_layouts_of_others(metadata: dict[str, str], found: str, tmp_path: Path) -> None:
    """Their convolutions lie in another order, which some shapes would not show."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors.torch.save(ENCODER, metadata))
    error = refused(tmp_path)
    assert str(path) in error.what
    assert found in error.found
    assert error.remedy
