"""CLIP's towers in every spelling and container give the same bits as in transformers' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from ipa.errors import CheckpointError
from ipa.model.clip import ClipTextSpec, ClipVisionSpec
from ipa_convert import Converted, read_component
from ipa_convert.containers.checkpoint import open_file
from ipa_convert.tables import clip_text, clip_vision
from ipa_convert.tables.matching import convert
from ipa_convert.tables.table import Table
from ipa_torch.files.weights import quiet
from oracle import models
from oracle.clip_spellings import (
    SQUARE,
    TEXT_SPELLINGS,
    VISION_SPELLINGS,
    WIDE,
    Tensors,
    text_config,
    text_of,
    to_open_clip,
    vision_config,
    vision_of,
    whole,
)
from oracle.containers import array_bits, bits, save

PROJECTED = {"architectures": ["CLIPTextModelWithProjection"]}
CONTAINERS = {
    "safetensors": ("model.safetensors", save),
    "zip": ("pytorch_model.bin", lambda path, tensors: torch.save(tensors, path)),
    "stream": (
        "pytorch_model.bin",
        lambda path, t: torch.save(t, path, _use_new_zipfile_serialization=False),
    ),
}


def text_spec(projection: int, *, projected: bool = True, **changes: Any) -> ClipTextSpec:
    config = text_config(projection, **changes)
    return ClipTextSpec.from_config(config | (PROJECTED if projected else {}))


def read(component: str, folder: Path, spec: Any, tensors: Tensors, container: str) -> Converted:
    """Written and read again."""
    name, write = CONTAINERS[container]
    folder.mkdir()
    write(folder / name, tensors)
    return read_component(component, folder, spec)


def same(found: Converted, expected: Converted) -> bool:
    """Names, types and bits."""
    return found.keys() == expected.keys() and all(
        tensor.dtype == expected[name].dtype
        and tensor.shape == expected[name].shape
        and np.array_equal(array_bits(tensor.array()), array_bits(expected[name].array()))
        for name, tensor in found.items()
    )


@pytest.mark.matrix
@pytest.mark.parametrize("projection", [WIDE, SQUARE])
@pytest.mark.parametrize("spelling", TEXT_SPELLINGS)
@pytest.mark.parametrize("projected", [True, False], ids=["projected", "plain"])
def test_text(projected: bool, spelling: str, projection: int, tmp_path: Path) -> None:
    tensors = whole(projection)
    spec = text_spec(projection, projected=projected)
    row = read("text_encoder", tmp_path / "row", spec, text_of(tensors), "safetensors")
    written = TEXT_SPELLINGS[spelling](tensors)
    for container in CONTAINERS:
        found = read("text_encoder", tmp_path / container, spec, written, container)
        assert same(found, row)
        used = {tensor.stored.name for tensor in found.values()}
        assert used.isdisjoint(found.dropped)
        assert used | found.dropped.keys() == written.keys()
    assert ("projection.weight" in row) == projected


@pytest.mark.matrix
@pytest.mark.parametrize("projection", [WIDE, 48])  # the image tower is 48 wide
@pytest.mark.parametrize("spelling", VISION_SPELLINGS)
def test_vision(spelling: str, projection: int, tmp_path: Path) -> None:
    tensors = whole(projection)
    spec = ClipVisionSpec.from_config(vision_config(projection))
    row = read("image_encoder", tmp_path / "row", spec, vision_of(tensors), "safetensors")
    written = VISION_SPELLINGS[spelling](tensors)
    for container in CONTAINERS:
        found = read("image_encoder", tmp_path / container, spec, written, container)
        assert same(found, row)
        used = {tensor.stored.name for tensor in found.values()}
        assert used.isdisjoint(found.dropped)
        assert used | found.dropped.keys() == written.keys()


@pytest.mark.matrix
@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype, container: str, tmp_path: Path) -> None:
    """Rows and transposed matrices of 16 bits."""
    tensors = whole(WIDE, dtype)
    written = to_open_clip(tensors)
    for component, spec, tower in (
        ("text_encoder", text_spec(WIDE), text_of),
        ("image_encoder", ClipVisionSpec.from_config(vision_config(WIDE)), vision_of),
    ):
        row = read(component, tmp_path / f"{component} row", spec, tower(tensors), "safetensors")
        found = read(component, tmp_path / component, spec, written, container)
        assert same(found, row)


@pytest.mark.matrix
@pytest.mark.parametrize("projected", [True, False], ids=["projected", "plain"])
def test_text_as_this_transformers_saves_it(projected: bool, tmp_path: Path) -> None:
    kind = CLIPTextModelWithProjection if projected else CLIPTextModel
    with quiet():
        module = models.randomize(kind(CLIPTextConfig(**text_config(WIDE))), 4)
        module.save_pretrained(tmp_path)
    saved = open_file(tmp_path / "model.safetensors")
    assert any(name.startswith("text_model.") for name in saved) == projected
    found = read_component("text_encoder", tmp_path, text_spec(WIDE, projected=projected))
    state = module.state_dict()
    for name, _, values in found.originals():
        known = name if name in state else name.removeprefix("text_model.")
        assert np.array_equal(array_bits(values), bits(state[known]))
    assert len(found) == len(state)


@pytest.mark.matrix
def test_vision_as_this_transformers_saves_it(tmp_path: Path) -> None:
    config = CLIPVisionConfig(**vision_config(WIDE))
    with quiet():
        module = models.randomize(CLIPVisionModelWithProjection(config), 4)
        module.save_pretrained(tmp_path)
    found = read_component("image_encoder", tmp_path, ClipVisionSpec.from_config(config.to_dict()))
    state = module.state_dict()
    originals = {name: values for name, _, values in found.originals()}
    assert originals.keys() == state.keys()
    for name, values in originals.items():
        assert np.array_equal(array_bits(values), bits(state[name]))


@pytest.mark.matrix
def test_whole_model_as_this_transformers_saves_it(tmp_path: Path) -> None:
    config = CLIPConfig(text_config=text_config(WIDE), vision_config=vision_config(WIDE))
    config.projection_dim = WIDE
    with quiet():
        module = models.randomize(CLIPModel(config), 5)
        module.save_pretrained(tmp_path)
    state = module.state_dict()
    text = read_component("text_encoder", tmp_path, text_spec(WIDE))
    vision = read_component(
        "image_encoder", tmp_path, ClipVisionSpec.from_config(vision_config(36))
    )
    for tower, other in ((text, vision), (vision, text)):
        for name, _, values in tower.originals():
            assert np.array_equal(array_bits(values), bits(state[name]))
        assert {tensor.stored.name for tensor in other.values()} <= tower.dropped.keys()
        assert "logit_scale" in tower.dropped


def refusal(tensors: Tensors, table: Table, tmp_path: Path) -> CheckpointError:
    path = save(tmp_path / "a.safetensors", tensors)
    with pytest.raises(CheckpointError) as caught:
        convert(open_file(path), table)
    return caught.value


TEXT_TABLE = clip_text.table(text_spec(WIDE))
VISION_TABLE = clip_vision.table(ClipVisionSpec.from_config(vision_config(WIDE)))


def test_a_projection_the_wrong_way_round(tmp_path: Path) -> None:
    """The suffix tells, never the shape."""
    tensors = text_of(whole(WIDE))
    for name, value in (
        ("text_projection", tensors["text_projection.weight"]),
        ("text_projection.weight", tensors["text_projection.weight"].T),
    ):
        rest = {n: v for n, v in tensors.items() if n != "text_projection.weight"}
        error = refusal(rest | {name: value}, TEXT_TABLE, tmp_path)
        assert f"1 of another shape: {name}" in error.found


def test_two_spellings_at_once(tmp_path: Path) -> None:
    twice = text_of(whole(WIDE)) | {"ln_final.bias": torch.ones(40)}
    found = refusal(twice, TEXT_TABLE, tmp_path).found
    assert "1 given twice" in found
    assert "ln_final.bias" in found
    assert "text_model.final_layer_norm.bias" in found


@pytest.mark.parametrize(
    "name",
    [
        "transformer.resblocks.0.ls_1.gamma",  # of models with layer scales
        "transformer.resblocks.2.ln_1.weight",  # a layer too many
        "transformer.resblocks.00.ln_1.weight",
        "transformer.resblocks.0.attn.in_proj_weight.x",
        "cls_emb",  # of CoCa
        "clip_l.clip_g.token_embedding",
        "clip_i.ln_final.bias",
        "transformer.ln_final.bias",
        "visual",
        "xvisual.proj",
    ],
)
def test_unknown_names_of_a_text_tower(name: str, tmp_path: Path) -> None:
    tensors = to_open_clip(text_of(whole(WIDE)))
    error = refusal(tensors | {name: torch.ones(1)}, TEXT_TABLE, tmp_path)
    assert error.found == f"1 left over: {name}"


@pytest.mark.parametrize(
    "name",
    [
        "visual.transformer.resblocks.0.ls_1.gamma",
        "visual.transformer.resblocks.3.ln_1.weight",
        "visual.attn_pool.query",
        "visual.proj.weight",
        "resblocks.0.ln_1.weight",
        "transformer.x",
    ],
)
def test_unknown_names_of_an_image_tower(name: str, tmp_path: Path) -> None:
    tensors = to_open_clip(vision_of(whole(WIDE)))
    error = refusal(tensors | {name: torch.ones(1)}, VISION_TABLE, tmp_path)
    assert error.found == f"1 left over: {name}"


@pytest.mark.parametrize("rows", [0, 1, 119, 121])
def test_fused_rows_that_do_not_divide(rows: int, tmp_path: Path) -> None:
    name = "transformer.resblocks.0.attn.in_proj_bias"
    tensors = to_open_clip(text_of(whole(WIDE))) | {name: torch.ones(rows)}
    assert f"{name} should hold 3 matrices" in str(refusal(tensors, TEXT_TABLE, tmp_path))


def test_fused_rows_of_another_width(tmp_path: Path) -> None:
    name = "transformer.resblocks.0.attn.in_proj_bias"
    tensors = to_open_clip(text_of(whole(WIDE))) | {name: torch.ones(123)}
    assert f"3 of another shape: {name} (41,)" in refusal(tensors, TEXT_TABLE, tmp_path).found


@pytest.mark.parametrize("table", [TEXT_TABLE, VISION_TABLE])
def test_the_other_tower_alone(table: Table, tmp_path: Path) -> None:
    tower = vision_of if table is TEXT_TABLE else text_of
    other = clip_vision.TITLE if table is TEXT_TABLE else clip_text.TITLE
    for tensors in (tower(whole(WIDE)), to_open_clip(tower(whole(WIDE)))):
        error = refusal(tensors, table, tmp_path)
        assert f"tensors of this kind: {other}" in error.found
        assert "missing" in error.found
