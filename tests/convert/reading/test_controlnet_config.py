"""What a lone ControlNet file is told to be, and its relatives, which are refused by name."""

from __future__ import annotations

import os
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    ControlNetModel,
    ControlNetUnionModel,
    ControlNetXSAdapter,
    SD3ControlNetModel,
    SparseControlNetModel,
)

from ipa.errors import CheckpointError
from ipa.model.controlnet import ControlNetSpec
from ipa_convert import inspect
from ipa_convert.containers.checkpoint import open_file
from ipa_convert.reading.controlnet_config import detect, open_controlnet
from ipa_convert.tables import controlnet
from ipa_convert.tables.families import family
from ipa_convert.tables.matching import convert
from oracle.containers import container, entry, save, write_sparse
from oracle.controlnets import CONFIGS, TRUE, base_model, built, original, weights

Shapes = dict[str, tuple[int, ...]]


def shapes_of(module: torch.nn.Module) -> Shapes:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def write(path: Path, spelling: str, **config: Any) -> Path:
    """A file of that structure at its true size, without values."""
    module = built(ControlNetModel, **config)
    shapes = shapes_of(module)
    match spelling:
        case "original":
            shapes = original(shapes)
        case "prefixed":
            shapes = original(shapes, "control_model.")
        case "converted":
            table = controlnet.table(ControlNetSpec.from_config(module.config))
            return write_converted(path, {table.target(t): t.target_shape for t in table.tensors})
    return write_sparse(path, shapes, "F16")


def write_converted(path: Path, shapes: Shapes) -> Path:
    header: dict[str, Any] = {"__metadata__": {"format": "mlx", "ipa_layout": "1"}}
    position = 0
    for name, shape in shapes.items():
        end = position + 2 * prod(shape)
        header[name] = entry("F16", shape, position, end)
        position = end
    start = container(header)
    path.write_bytes(start)
    os.truncate(path, len(start) + position)
    return path


@pytest.mark.parametrize("spelling", ["diffusers", "original", "prefixed", "converted"])
@pytest.mark.parametrize("name", TRUE)
def test_detection(name: str, spelling: str, tmp_path: Path) -> None:
    """From the config that is told, diffusers builds exactly what the file was made from."""
    path = write(tmp_path / "a.safetensors", spelling, **TRUE[name])
    config, checkpoint = open_controlnet(path)
    with torch.device("meta"):
        judge = ControlNetModel.from_config(config)
    wanted = built(ControlNetModel, **TRUE[name])
    assert shapes_of(judge) == shapes_of(wanted)
    spec = ControlNetSpec.from_config(config)
    assert spec == ControlNetSpec.from_config(wanted.config)
    assert config.keys() - {"_class_name"} == wanted.config.keys() - {"_use_default_values"}
    assert len(convert(checkpoint, controlnet.table(spec))) == len(shapes_of(wanted))


@pytest.mark.parametrize("spelling", ["diffusers", "original", "prefixed", "converted"])
def test_channels_are_told(spelling: str, tmp_path: Path) -> None:
    channels = {"conditioning_channels": 6, "in_channels": 9}
    path = write(tmp_path / "a.safetensors", spelling, **TRUE["SD1.5"], **channels)
    config = detect(open_file(path))
    assert {key: config[key] for key in channels} == channels


@pytest.mark.parametrize("widths", [(8, 16, 24, 32), (16, 32, 64), (4,)])
def test_a_narrower_embedding(widths: tuple[int, ...], tmp_path: Path) -> None:
    keys = {"conditioning_embedding_out_channels": widths}
    path = write(tmp_path / "a.safetensors", "diffusers", **TRUE["SD1.5"], **keys)
    config, checkpoint = open_controlnet(path)
    assert config["conditioning_embedding_out_channels"] == list(widths)
    convert(checkpoint, controlnet.table(ControlNetSpec.from_config(config)))


def test_sizes_between_the_public_ones(tmp_path: Path) -> None:
    counts = {"transformer_layers_per_block": (1, 1, 4)}
    path = write(tmp_path / "a.safetensors", "original", **TRUE["SDXL"] | counts)
    config, checkpoint = open_controlnet(path)
    convert(checkpoint, controlnet.table(ControlNetSpec.from_config(config)))
    assert config["transformer_layers_per_block"] == [0, 1, 4]  # level 0 does not attend
    assert "(1, 4) transformers" in inspect(path).variant


def test_pooling_is_an_argument(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", "prefixed", **TRUE["SD1.5"])
    key = "global_pool_conditions"
    given = {key: True, "_class_name": "ControlNetModel"}
    assert open_controlnet(path)[0][key] is False
    assert open_controlnet(path, global_pool_conditions=True)[0][key] is True
    assert open_controlnet(path, given)[0] == given
    assert open_controlnet(path, given, global_pool_conditions=False)[0][key] is False


def test_a_config_is_taken_at_its_word(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", original(weights("SDXL small")))
    config, checkpoint = open_controlnet(path, CONFIGS["SDXL small"])
    table = controlnet.table(ControlNetSpec.from_config(config))
    assert len(convert(checkpoint, table)) == 140


def test_a_base_that_is_not_known(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", original(weights("SD1.5")))
    with pytest.raises(CheckpointError, match=r"not known.*context width 20.*give its config"):
        open_controlnet(path)
    assert "structure not known: context width 20" in inspect(path).remarks


@pytest.mark.parametrize(
    ("tensors", "found"),
    [
        ({"zero_convs.0.0.weight": (8, 8, 1, 1)}, "no cross-attention"),
        ({"control_model.a.attn2.to_k.weight": (8, 768)}, "no controlnet_cond_embedding.conv_in"),
        ({"control_model.a.attn2.to_k.weight": ()}, "no cross-attention"),
        (
            {
                "control_model.label_emb.0.0.weight": (1,),
                "control_model.input_hint_block.0.weight": (),
            },
            "no controlnet_cond_embedding.conv_in",
        ),
        (
            {
                "control_model.label_emb.0.0.weight": (1,),
                "control_model.input_hint_block.0.weight": (1, 1),
            },
            r"controlnet_cond_embedding.conv_in.weight (1, 1)",
        ),
    ],
)
def test_parts_of_a_controlnet(tensors: Shapes, found: str, tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "a.safetensors", tensors)
    with pytest.raises(CheckpointError) as caught:
        open_controlnet(path)
    assert found in caught.value.found


@pytest.mark.parametrize(
    ("name", "base", "variant"),
    [
        ("SD1.5", "SD1.5", ""),
        ("SD2", "SD2", ""),
        ("SDXL", "SDXL", "full"),
        ("SDXL mid", "SDXL", "mid"),
        ("SDXL small", "SDXL", "small"),
    ],
)
@pytest.mark.parametrize(
    ("spelling", "words"),
    [
        ("diffusers", "diffusers' naming"),
        ("original", "original naming"),
        ("prefixed", "original naming"),
        ("converted", ""),
    ],
)
def test_inspection(
    name: str, base: str, variant: str, spelling: str, words: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.safetensors", spelling, **TRUE[name])
    found = inspect(path)
    assert (found.family, found.base, found.variant) == ("ControlNet", base, variant)
    assert found.converted == (spelling == "converted")
    remarks = " | ".join(found.remarks)
    assert "3 channels of the control picture" in remarks
    assert words in remarks
    assert ("naming" in remarks) == bool(words)
    assert "which kind of picture it wants is not in the weights" in remarks
    assert ("global_pool_conditions" in remarks) == (base == "SD1.5")
    assert "not supported" not in remarks


def test_inspecting_a_whole_checkpoint(tmp_path: Path) -> None:
    shapes = original(shapes_of(built(ControlNetModel, **TRUE["SD1.5"])), "control_model.")
    shapes |= {name: tuple(value.shape) for name, value in base_model().items()}
    found = inspect(write_sparse(tmp_path / "a.safetensors", shapes))
    assert found.family == "Stable Diffusion single file with a ControlNet in it"
    assert "its ControlNet: SD1.5, 3 channels of the control picture" in found.remarks
    assert any("convert --kind controlnet writes it alone" in remark for remark in found.remarks)
    bare = {n: s for n, s in shapes.items() if not n.startswith("first_stage_model.")}
    found = inspect(write_sparse(tmp_path / "b.safetensors", bare))
    assert (found.family, found.base) == ("ControlNet", "SD1.5")
    assert "original naming, with other networks beside it" in found.remarks


UNION = {"addition_time_embed_dim": 256, "block_out_channels": (320,) * 4}


@pytest.mark.parametrize(
    ("module", "config", "kind"),
    [
        (ControlNetUnionModel, UNION, "ControlNet-Union"),
        (ControlNetXSAdapter, {}, "ControlNet-XS"),
        (SparseControlNetModel, {}, "SparseCtrl"),
        (SparseControlNetModel, {"use_simplified_condition_embedding": False}, "SparseCtrl"),
        (SD3ControlNetModel, {"num_layers": 1}, "ControlNet of a transformer"),
    ],
)
def test_relatives_in_diffusers(
    module: Any, config: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    refused(write_sparse(tmp_path / "a.safetensors", shapes_of(built(module, **config))), kind)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["lora_controlnet", "input_hint_block.0.weight", "zero_convs.0.0.weight"], "Control-LoRA"),
        (["difference", "control_model.zero_convs.0.0.weight"], "difference of a ControlNet"),
        (["task_embedding", "controlnet_cond_embedding.conv_in.weight"], "ControlNet-Union"),
        (["control_model.task_embedding"], "ControlNet-Union"),
        (["transformer_layes.0.attn.in_proj_weight", "zero_convs.0.0.weight"], "ControlNet-Union"),
        (["control_add_embedding.linear_1.weight"], "ControlNet-Union"),
        (["style_embedding", "transformer_layes.0.ln_1.weight", "proj"], "T2I-Adapter for styles"),
        (["task_embedding", "seq_proj", "transformer_layes.0.ln_1.bias"], "fuser of T2I-Adapters"),
        (["down_res.0.conv1.weight", "mid_convs.0.0.weight"], "ControlNeXt"),
        (["lllite_unet_input_blocks_4_1_attn1_to_q.conditioning1.0.weight"], "ControlNet-LLLite"),
    ],
)
def test_relatives_in_other_tools(names: list[str], kind: str, tmp_path: Path) -> None:
    refused(write_sparse(tmp_path / "a.safetensors", dict.fromkeys(names, (2, 2))), kind)


def refused(path: Path, kind: str) -> None:
    """By name: opened alone, read as a component, and inspected."""
    assert family(open_file(path)) == kind
    for read in (open_controlnet, lambda path: convert(open_file(path), TABLE)):
        with pytest.raises(CheckpointError) as caught:
            read(path)
        assert f"tensors of this kind: {kind}" in caught.value.found
    assert "not supported by this version" in inspect(path).remarks


TABLE = controlnet.table(ControlNetSpec.from_config(CONFIGS["SD1.5"]))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"_class_name": "ControlNetUnionModel"}, "ControlNetUnionModel"),
        ({"encoder_hid_dim": 4096, "encoder_hid_dim_type": "text_proj"}, "encoder_hid_dim"),
        ({"mid_block_type": "UNetMidBlock2D"}, "mid_block_type"),
        ({"class_embed_type": "timestep"}, "class_embed_type"),
        ({"addition_embed_type": "text"}, "addition_embed_type"),
        ({"only_cross_attention": True}, "only_cross_attention"),
        ({"num_attention_heads": 8}, "num_attention_heads"),
        ({"down_block_types": ["DownBlock2D"]}, "down_block_types"),
        ({"controlnet_conditioning_channel_order": "hsv"}, "hsv"),
        ({"conditioning_embedding_out_channels": []}, "conditioning_embedding_out_channels"),
        ({"conditioning_embedding_out_channels": None}, "conditioning_embedding_out_channels"),
        ({"conditioning_channels": 0}, "conditioning_channels"),
        ({"layers_per_block": 0}, "layers_per_block"),
        ({"transformer_layers_per_block": -1}, "from 0 to"),
        ({"transformer_layers_per_block": [1, 1, 1, -1]}, "from 0 to"),
        ({"num_control_type": 6}, "num_control_type is not supported"),
    ],
)
def test_what_is_not_implemented_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        ControlNetSpec.from_config(CONFIGS["SD1.5"] | keys)


def test_what_a_config_says() -> None:
    keys = {"controlnet_conditioning_channel_order": "bgr", "global_pool_conditions": True}
    spec = ControlNetSpec.from_config(CONFIGS["SD1.5"] | keys)
    assert (spec.channel_order, spec.global_pool_conditions) == ("bgr", True)
    plain = ControlNetSpec.from_config(CONFIGS["SD1.5"])
    assert (plain.channel_order, plain.global_pool_conditions) == ("rgb", False)
    # diffusers' defaults, where an old config says nothing
    config = {k: v for k, v in CONFIGS["SD1.5"].items() if not k.startswith("conditioning")}
    judge = built(ControlNetModel, **config).config
    assert list(ControlNetSpec.from_config(config).embedding_channels) == list(
        judge["conditioning_embedding_out_channels"]
    )
